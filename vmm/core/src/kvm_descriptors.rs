//! What reaches KVM and the hand-over by number instead of by ownership.
//!
//! Three things here have no safe constructor: the control channel, which the exec leaves at a fixed
//! number; the handle of `kvm-ioctls`, which is made from a raw descriptor only; and the size of a port
//! access, which KVM writes into a union of the shared `kvm_run` page and `kvm-ioctls` does not report.
#![expect(unsafe_code, reason = "descriptors by number, and a union that the kernel fills")]

use kvm_bindings::{KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_IO, KVM_EXIT_IO_OUT};
use kvm_ioctls::{Kvm, VcpuFd};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// Takes the control channel, which lies at `number` by the rules of the hand-over.
///
/// To be called once, by `main`, before anything else opens a descriptor.
#[must_use]
pub fn inherited(number: RawFd) -> OwnedFd {
    // SAFETY: the launcher's exec left this descriptor to this program, `stage_one` has checked that the
    // table holds just 0 to 3, and nobody else in this process takes it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// KVM's handle from the descriptor of the hand-over. Whether it is one is asked next (`KVM_GET_API_VERSION`).
pub(crate) fn kvm(fd: OwnedFd) -> Kvm {
    // SAFETY: the descriptor is owned and given up here, so the handle is its only owner.
    unsafe { Kvm::from_raw_fd(fd.into_raw_fd()) }
}

/// A port access that KVM left to user space.
pub(crate) struct PortAccess<'a> {
    pub port: u16,
    /// Whether the guest writes.
    pub write: bool,
    /// Bytes of one element: 1, 2 or 4.
    pub size: usize,
    /// All elements, several for string instructions: to be read or to be filled.
    pub data: &'a mut [u8],
}

/// The port access for which `KVM_RUN` has just returned, `None` if it did for another reason.
pub(crate) fn port_access(vcpu: &mut VcpuFd) -> Option<PortAccess<'_>> {
    let run = vcpu.get_kvm_run();
    if run.exit_reason != KVM_EXIT_IO {
        return None;
    }
    // SAFETY: the exit reason says that the kernel filled this variant; it is plain data.
    let io = unsafe { run.__bindgen_anon_1.io };
    let size = usize::from(io.size).max(1);
    let length = size.saturating_mul(usize::try_from(io.count).ok()?);
    let offset = usize::try_from(io.data_offset).ok()?;
    let start = std::ptr::from_mut(run).cast::<u8>();
    // SAFETY: the kernel puts the data at this offset from the struct's start, inside the vCPU's mapping
    // (Documentation/virt/kvm/api.rst, KVM_EXIT_IO), which `vcpu` keeps alive and nobody else touches
    // until the next `KVM_RUN`; the exclusive borrow of `vcpu` is held as long as the slice.
    let data = unsafe { std::slice::from_raw_parts_mut(start.wrapping_add(offset), length) };
    Some(PortAccess { port: io.port, write: u32::from(io.direction) == KVM_EXIT_IO_OUT, size, data })
}

/// The sub-error of `KVM_EXIT_INTERNAL_ERROR`, if that is why `KVM_RUN` has just returned.
pub(crate) fn internal_error(vcpu: &mut VcpuFd) -> Option<u32> {
    let run = vcpu.get_kvm_run();
    if run.exit_reason != KVM_EXIT_INTERNAL_ERROR {
        return None;
    }
    // SAFETY: as above; it is plain data.
    Some(unsafe { run.__bindgen_anon_1.internal.suberror })
}
