//! The calls that tell the host kernel what guest memory is: KVM's memory slots, and no core dump; and the mappings of
//! files that are memory of the guest, which nothing here reads or writes.
//!
//! Unsafe because both name host addresses to the kernel. The one fact that both rest on: a region of
//! [`GuestMemory`] is a live mapping of exactly `len()` bytes for as long as the region exists, and
//! whoever registers it keeps the [`GuestMemory`] for the life of the VM (see [`crate::vm::Vm`]).
#![expect(unsafe_code, reason = "host addresses of guest memory are handed to the kernel")]

use crate::GuestMemory;
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use nix::errno::Errno;
use std::fs::File;
use std::os::fd::AsRawFd;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

/// Makes each region of `memory` a memory slot of `vm`. The caller keeps `memory` as long as `vm`.
pub(crate) fn set_memory_slots(vm: &VmFd, memory: &GuestMemory) -> Result<(), kvm_ioctls::Error> {
    for (slot, region) in (0u32..).zip(memory.iter()) {
        let slot = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the range is one live mapping of guest memory, in which nothing but guest data lies, and
        // which the caller keeps for as long as the VM may access it.
        unsafe { vm.set_user_memory_region(slot) }?;
    }
    Ok(())
}

/// Leaves a region out of core dumps, should somebody lift the other two layers against them.
pub(crate) fn keep_out_of_core_dumps(region: &GuestRegionMmap<()>) -> Result<(), Errno> {
    let length = usize::try_from(region.len()).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the range is exactly one live mapping; the advice changes no byte and no permission of it.
    let result = unsafe { libc::madvise(region.as_ptr().cast(), length, libc::MADV_DONTDUMP) };
    Errno::result(result).map(drop)
}

/// A file mapped shared, for the guest alone: the address is given to KVM and to nobody else, and no reference to what lies
/// there is ever made, so that it is no matter if the file is shortened or changed by others.
#[derive(Debug)]
pub(crate) struct SharedMapping {
    address: usize,
    length: usize,
    writable: bool,
}

impl SharedMapping {
    /// The first `length` bytes of `file`, never executable, and left out of core dumps. The file need not stay open.
    pub(crate) fn new(file: &File, length: usize, writable: bool) -> Result<Self, Errno> {
        let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let (nowhere, flags) = (std::ptr::null_mut(), libc::MAP_SHARED);
        // SAFETY: a new mapping at a place that the kernel chooses touches nothing that is there.
        let address = unsafe { libc::mmap(nowhere, length, protection, flags, file.as_raw_fd(), 0) };
        if address == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let mapping = Self { address: address.expose_provenance(), length, writable };
        // SAFETY: the range is exactly the mapping just made; the advice changes no byte and no permission of it.
        Errno::result(unsafe { libc::madvise(address, length, libc::MADV_DONTDUMP) })?;
        Ok(mapping)
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` made, which is unmapped here and nowhere else. Nothing refers to it: this
        // process makes no reference, and whoever gave it to a VM keeps it as long as the VM (see `set_mapping_slot`).
        unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(self.address), self.length) };
    }
}

/// Makes `mapping` memory slot `slot` of `vm`, at `guest_phys`; one that is not writable for reading only. The caller keeps
/// `mapping` as long as `vm`.
pub(crate) fn set_mapping_slot(
    vm: &VmFd,
    slot: u32,
    guest_phys: u64,
    mapping: &SharedMapping,
) -> Result<(), kvm_ioctls::Error> {
    let slot = kvm_userspace_memory_region {
        slot,
        flags: if mapping.writable { 0 } else { KVM_MEM_READONLY },
        guest_phys_addr: guest_phys,
        memory_size: mapping.length as u64,
        userspace_addr: mapping.address as u64,
    };
    // SAFETY: the range is one live mapping, in which nothing but guest data lies, and which the caller keeps for as long
    // as the VM may access it. Beyond the end of a file that was shortened KVM's accesses fail, and do nothing else.
    unsafe { vm.set_user_memory_region(slot) }
}
