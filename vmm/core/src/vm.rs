//! The VM: what is demanded of the host's KVM, and the parts of a machine that KVM itself provides.
//!
//! Invariant: [`Vm`] owns guest memory, that which is persistent included, together with the VM, so no memory slot outlives
//! its mapping.

use crate::persistent_memory::PersistentMemory;
use crate::{Error, GuestMemory, guest_memory, kernel_memory, kvm_descriptors};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use nix::sys::stat::fstat;
use protocol::memory_layout;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vm_memory::GuestMemoryBackend;

const API_VERSION: i32 = 12;
/// Device number of /dev/kvm (Documentation/admin-guide/devices.txt).
const KVM_DEVICE: (u64, u64) = (10, 232);
/// The leaf whose EAX has the physical address width in bits 7..0.
const ADDRESS_WIDTH_LEAF: u32 = 0x8000_0008;

/// What the core cannot do without, by the kernel's names.
const NEEDED: [(Cap, &str); 11] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    // Without a PIT or a PM timer it is how a guest gets its first timer.
    (Cap::TscDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::InternalErrorData, "KVM_CAP_INTERNAL_ERROR_DATA"),
];

/// A VM with its memory, its interrupt controllers and its vCPUs not yet running.
pub struct Vm {
    /// The VM's handle.
    pub fd: Arc<VmFd>,
    /// Its memory.
    pub memory: GuestMemory,
    /// The same with what there is to be plugged in: all that back ends are told of.
    pub shared: GuestMemory,
    /// Files that are memory of the guest, too.
    pub persistent: PersistentMemory,
    supported_cpuid: Vec<kvm_cpuid_entry2>,
}

impl Vm {
    /// Checks the host's KVM and makes a VM for `cpus` vCPUs with `memory`, which is a part of `shared`, and `persistent`.
    ///
    /// # Errors
    /// The descriptor is no KVM, KVM lacks something, or the processor cannot address the machine.
    pub fn new(
        kvm: OwnedFd,
        memory: GuestMemory,
        shared: GuestMemory,
        persistent: PersistentMemory,
        cpus: u8,
    ) -> Result<Self, Error> {
        let kvm = open(kvm)?;
        check(&kvm, cpus)?;
        let supported =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::kvm("KVM_GET_SUPPORTED_CPUID"))?;
        let supported_cpuid = supported.as_slice().to_vec();
        check_address_width(&supported_cpuid, &memory, persistent.end().max(end(&shared)))?;

        let fd = kvm.create_vm().map_err(Error::kvm("KVM_CREATE_VM"))?;
        fd.set_identity_map_address(memory_layout::KVM_IDENTITY_MAP)
            .map_err(Error::kvm("KVM_SET_IDENTITY_MAP_ADDR"))?;
        let tss = usize::try_from(memory_layout::KVM_TSS).unwrap_or(0);
        fd.set_tss_address(tss).map_err(Error::kvm("KVM_SET_TSS_ADDR"))?;
        fd.create_irq_chip().map_err(Error::kvm("KVM_CREATE_IRQCHIP"))?;
        kernel_memory::set_memory_slots(&fd, &shared).map_err(Error::kvm("KVM_SET_USER_MEMORY_REGION"))?;
        persistent.set_slots(&kvm, &fd, u32::try_from(shared.num_regions()).unwrap_or(u32::MAX))?;
        Ok(Self { fd: Arc::new(fd), memory, shared, persistent, supported_cpuid })
    }

    /// CPUID as this host's KVM can give it to a guest.
    pub fn supported_cpuid(&self) -> &[kvm_cpuid_entry2] {
        &self.supported_cpuid
    }

    /// A new vCPU; its number is also its APIC id.
    ///
    /// # Errors
    /// `KVM_CREATE_VCPU` failed.
    pub fn create_vcpu(&self, index: u8) -> Result<VcpuFd, Error> {
        self.fd.create_vcpu(index.into()).map_err(Error::kvm("KVM_CREATE_VCPU"))
    }
}

/// Makes sure that it is KVM before the first ioctl: a code means something else to every driver.
fn open(fd: OwnedFd) -> Result<Kvm, Error> {
    let device = fstat(&fd).map_err(Error::system("fstat"))?.st_rdev;
    if (nix::sys::stat::major(device), nix::sys::stat::minor(device)) != KVM_DEVICE {
        return Err(Error::Descriptor { what: "KVM", problem: "is not /dev/kvm".to_owned() });
    }
    Ok(kvm_descriptors::kvm(fd))
}

fn check(kvm: &Kvm, cpus: u8) -> Result<(), Error> {
    let found = kvm.get_api_version();
    if found != API_VERSION {
        return Err(Error::KvmVersion { found });
    }
    // All that is missing at once: whoever has to get another kernel wants to do so once.
    let lacking = NEEDED.into_iter().filter(|(capability, _)| !kvm.check_extension(*capability));
    let names: Vec<&str> = lacking.map(|(_, name)| name).collect();
    if !names.is_empty() {
        return Err(Error::KvmCapabilities { names: names.join(", ") });
    }
    let most = kvm.get_max_vcpus();
    if usize::from(cpus) > most {
        return Err(Error::KvmCpus { most, wanted: cpus });
    }
    Ok(())
}

/// Where the last of it ends.
fn end(memory: &GuestMemory) -> u64 {
    let ends =
        guest_memory::regions(memory).into_iter().map(|region| region.guest_phys.saturating_add(region.size));
    ends.max().unwrap_or(0)
}

/// `behind` is where what lies behind the window for BARs ends.
fn check_address_width(cpuid: &[kvm_cpuid_entry2], memory: &GuestMemory, behind: u64) -> Result<(), Error> {
    /// What every x86-64 processor has at least (Intel SDM volume 1, 3.3.1, for those without the leaf).
    const LEAST: u8 = 36;
    let leaf = cpuid.iter().find(|entry| entry.function == ADDRESS_WIDTH_LEAF);
    let [bits, ..] = leaf.map_or([LEAST, 0, 0, 0], |leaf| leaf.eax.to_le_bytes());
    let window = memory_layout::pci64_start(&guest_memory::regions(memory));
    let end = window.saturating_add(memory_layout::PCI64_SIZE).max(behind);
    if bits < 64 && end > 1 << bits {
        return Err(Error::AddressWidth { end, bits });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest_memory::tests::guest;

    #[test]
    fn what_is_not_kvm_is_never_asked() {
        let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let error =
            Vm::new(null, guest(1 << 20), guest(1 << 20), PersistentMemory::default(), 1).err().unwrap();
        assert!(matches!(error, Error::Descriptor { what: "KVM", .. }), "{error}");
    }

    #[test]
    fn a_machine_beyond_the_address_width_is_refused() {
        let width =
            |eax: u32| vec![kvm_cpuid_entry2 { function: ADDRESS_WIDTH_LEAF, eax, ..Default::default() }];
        let memory = guest(1 << 20);
        let check = |cpuid: &[_]| check_address_width(cpuid, &memory, 0);
        assert!(check(&width(0x3027)).is_ok());
        assert!(check(&[]).is_ok(), "20 GiB are within 36 bits");
        let error = check(&width(34)).unwrap_err();
        assert!(matches!(error, Error::AddressWidth { bits: 34, end: 0x5_0000_0000 }), "{error}");
    }
}
