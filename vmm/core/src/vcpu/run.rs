//! The loop that runs a vCPU: one function, one match.
//!
//! No signal is ever sent to a vCPU's thread and nothing here waits for a peer. A thread leaves the loop
//! when its guest ends the machine; the process then ends under the other threads.

use crate::Error;
use crate::bus::Bus;
use crate::counters::Category;
use crate::kvm_descriptors;
use crate::notices::End;
use crate::persistent_memory::PersistentMemory;
use kvm_ioctls::{VcpuExit, VcpuFd};
use nix::errno::Errno;
use protocol::Exit;

/// Lets KVM do what it does at a VM's first `KVM_RUN`, without entering the guest.
///
/// Since Linux 6.13 that is to make a thread of this process (it recovers huge pages), which fails with
/// EAGAIN, for ever, once RLIMIT_NPROC is zero. The thread inherits the caller's filters.
///
/// # Errors
/// `KVM_RUN` failed for another reason than the one asked for.
pub fn prepare(vcpu: &mut VcpuFd) -> Result<(), Error> {
    vcpu.set_kvm_immediate_exit(1);
    let errno = vcpu.run().err().map(|error| Errno::from_raw(error.errno()));
    vcpu.set_kvm_immediate_exit(0);
    match errno {
        Some(Errno::EINTR) => Ok(()),
        errno => Err(Error::Kvm { ioctl: "KVM_RUN", errno: errno.unwrap_or(Errno::UnknownErrno) }),
    }
}

/// Runs vCPU `index` until the machine ends, and says how.
///
/// KVM leaves an access to `persistent` to this loop when what is there cannot be read or written: by failing, or, for an
/// instruction that it emulates, as one to a device.
pub fn run(vcpu: &mut VcpuFd, index: u8, bus: &Bus, persistent: &PersistentMemory) -> End {
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => {
                if let Some(exit) = port_access(vcpu, bus) {
                    return End::Guest(exit);
                }
            }
            Ok(VcpuExit::MmioRead(address, data)) => match persistent.lost(address, false) {
                None => bus.mmio_read(address, data),
                Some(error) => return End::Failed(error),
            },
            Ok(VcpuExit::MmioWrite(address, data)) => match persistent.lost(address, true) {
                None => bus.mmio_write(address, data),
                Some(error) => return End::Failed(error),
            },
            // The in-kernel APIC halts by itself; should one come, there is nothing to do but go on.
            Ok(VcpuExit::Hlt) => bus.counters.count(Category::Halt),
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => bus.counters.count(Category::Other),
            Ok(VcpuExit::Shutdown) => return crash(vcpu, index, "triple fault"),
            Ok(VcpuExit::FailEntry(reason, _)) => {
                return crash(
                    vcpu,
                    index,
                    &format!("the processor refused to enter the guest, reason {reason:#x}"),
                );
            }
            Ok(VcpuExit::InternalError) => {
                let suberror = kvm_descriptors::internal_error(vcpu).unwrap_or(0);
                return crash(vcpu, index, &format!("KVM internal error, suberror {suberror}"));
            }
            Ok(VcpuExit::MemoryFault { gpa, .. }) => match persistent.lost(gpa, false) {
                None => return crash(vcpu, index, &format!("KVM cannot reach guest memory at {gpa:#x}")),
                Some(error) => return End::Failed(error),
            },
            Ok(other) => {
                let what = format!("KVM exit {other:?}");
                return crash(vcpu, index, &what);
            }
            Err(error) => match Errno::from_raw(error.errno()) {
                Errno::EINTR | Errno::EAGAIN => {}
                errno => {
                    // RAM is sealed and cannot be lost.
                    if errno == Errno::EFAULT
                        && let Some(error) = persistent.lost_somewhere()
                    {
                        return End::Failed(error);
                    }
                    return crash(vcpu, index, &format!("KVM_RUN: {errno}"));
                }
            },
        }
    }
}

fn port_access(vcpu: &mut VcpuFd, bus: &Bus) -> Option<Exit> {
    let access = kvm_descriptors::port_access(vcpu)?;
    if access.write {
        return bus.port_write(access.port, access.size, access.data);
    }
    bus.port_read(access.port, access.size, access.data);
    None
}

fn crash(vcpu: &VcpuFd, index: u8, what: &str) -> End {
    let at = vcpu.get_regs().map_or_else(|_| String::new(), |regs| format!(" at rip {:#x}", regs.rip));
    End::Guest(Exit::crash(&format!("vCPU {index}: {what}{at}")))
}
