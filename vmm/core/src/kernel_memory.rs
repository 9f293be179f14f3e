//! The calls that tell the host kernel what guest memory is: KVM's memory slots, and no core dump.
//!
//! Unsafe because both name host addresses to the kernel. The one fact that both rest on: a region of
//! [`GuestMemory`] is a live mapping of exactly `len()` bytes for as long as the region exists, and
//! whoever registers it keeps the [`GuestMemory`] for the life of the VM (see [`crate::vm::Vm`]).
#![expect(unsafe_code, reason = "host addresses of guest memory are handed to the kernel")]

use crate::GuestMemory;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use nix::errno::Errno;
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
