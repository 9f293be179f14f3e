//! A vCPU: its state at reset as the boot protocols want it, and the loop that runs it.

pub mod cpuid;
pub mod registers;
pub mod run;

mod lapic;
mod msrs;

use crate::Error;
use crate::boot::kernel::Entry;
use crate::vm::Vm;
use kvm_bindings::CpuId;
use kvm_ioctls::VcpuFd;

/// Makes `cpus` vCPUs. The first starts at `entry`; the others wait for the INIT and SIPI of the first.
///
/// # Errors
/// A KVM call failed.
pub fn create(vm: &Vm, cpus: u8, entry: Entry) -> Result<Vec<VcpuFd>, Error> {
    registers::write_gdt(&vm.memory, entry)?;
    (0..cpus).map(|index| create_one(vm, index, cpus, entry)).collect()
}

fn create_one(vm: &Vm, index: u8, cpus: u8, entry: Entry) -> Result<VcpuFd, Error> {
    let vcpu = vm.create_vcpu(index)?;
    let entries = cpuid::for_vcpu(vm.supported_cpuid(), index, cpus);
    let cpuid = CpuId::from_entries(&entries)
        .map_err(|_| Error::Kvm { ioctl: "KVM_SET_CPUID2", errno: nix::errno::Errno::E2BIG })?;
    vcpu.set_cpuid2(&cpuid).map_err(Error::kvm("KVM_SET_CPUID2"))?;
    msrs::set(&vcpu)?;
    lapic::set(&vcpu)?;
    registers::set_fpu(&vcpu)?;
    if index == 0 {
        registers::set_entry(&vcpu, entry)?;
    }
    Ok(vcpu)
}
