//! The MSRs that firmware would have set. All others keep their reset values, which KVM knows.

use crate::Error;
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use nix::errno::Errno;

/// IA32_MISC_ENABLE (Intel SDM volume 4, 2.1).
const MISC_ENABLE: u32 = 0x1A0;
const FAST_STRINGS: u64 = 1;
/// IA32_MTRR_DEF_TYPE (Intel SDM volume 3, 12.11.2.1).
const MTRR_DEF_TYPE: u32 = 0x2FF;
const MTRR_ENABLE: u64 = 1 << 11;
/// All memory write-back unless page attributes say otherwise: Linux complains of MTRRs left blank, and
/// maps device memory uncached by PAT.
const WRITE_BACK: u64 = 6;

const AT_RESET: [(u32, u64); 2] = [(MISC_ENABLE, FAST_STRINGS), (MTRR_DEF_TYPE, MTRR_ENABLE | WRITE_BACK)];

/// Sets them.
pub(super) fn set(vcpu: &VcpuFd) -> Result<(), Error> {
    let entries = AT_RESET.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let msrs = Msrs::from_entries(&entries)
        .map_err(|_| Error::Kvm { ioctl: "KVM_SET_MSRS", errno: Errno::E2BIG })?;
    let taken = vcpu.set_msrs(&msrs).map_err(Error::kvm("KVM_SET_MSRS"))?;
    match AT_RESET.get(taken) {
        None => Ok(()),
        Some((index, _)) => Err(Error::Msr { index: *index }),
    }
}
