//! CPUID of each vCPU: what KVM supports on this host, with the topology of this guest.
//!
//! The guest is one package of N cores with one thread each; APIC ids are 0 to N-1. Every leaf that speaks
//! of topology says so, or Linux reports firmware bugs. Left out is what would only be attack surface or
//! false: nested virtualization, performance counters, MONITOR, memory encryption.
//!
//! Left out as well are asynchronous page faults, by which a guest lets a task sleep until the host has found a page. Where
//! the word that the page is there gets lost, that task sleeps for ever, and with it whoever waits for what it holds; and
//! the guest sets this up before its local APIC is on where no firmware has turned that on, as here, which KVM took ill for
//! long. A page of ours is either there or soon will be: memory is the core's own or shared with devices, which
//! touch pages that the core has not mapped yet, so that this would be the common case and not the rare one.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const VENDOR: u32 = 0;
const FEATURES: u32 = 1;
const CACHES: u32 = 4;
const MONITOR: u32 = 5;
const PERFORMANCE: u32 = 0xA;
const TOPOLOGY: u32 = 0xB;
const TOPOLOGY_V2: u32 = 0x1F;
/// KVM_CPUID_FEATURES (the kernel's Documentation/virt/kvm/x86/cpuid.rst).
const KVM_FEATURES: u32 = 0x4000_0001;
const AMD_FEATURES: u32 = 0x8000_0001;
const AMD_SIZES: u32 = 0x8000_0008;
const AMD_SVM: u32 = 0x8000_000A;
const AMD_CACHES: u32 = 0x8000_001D;
const AMD_TOPOLOGY: u32 = 0x8000_001E;
const AMD_ENCRYPTION: u32 = 0x8000_001F;
const AMD_PERFORMANCE: u32 = 0x8000_0022;
const AMD_TOPOLOGY_V2: u32 = 0x8000_0026;

/// FEATURES, ECX.
const MONITOR_BIT: u32 = 1 << 3;
const VMX: u32 = 1 << 5;
const PERFORMANCE_CAPABILITIES: u32 = 1 << 15;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// FEATURES, EDX.
const HTT: u32 = 1 << 28;
/// KVM_FEATURES, EAX: KVM_FEATURE_ASYNC_PF, _ASYNC_PF_VMEXIT and _ASYNC_PF_INT.
const ASYNC_PF: u32 = 1 << 4 | 1 << 10 | 1 << 14;
/// AMD_FEATURES, ECX.
const CMP_LEGACY: u32 = 1 << 1;
const SVM: u32 = 1 << 2;
const PERFORMANCE_CORE: u32 = 1 << 23;

/// Level types of the topology leaves (Intel SDM volume 2, CPUID leaf 0BH).
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;
/// A cache that all cores share.
const LAST_LEVEL: u32 = 3;

/// CPUID of vCPU `index` of `cpus` (1 to 32), from what KVM supports.
#[must_use]
pub fn for_vcpu(supported: &[kvm_cpuid_entry2], index: u8, cpus: u8) -> Vec<kvm_cpuid_entry2> {
    let leaf = |function| supported.iter().find(|entry| entry.function == function);
    let last = leaf(VENDOR).map_or(0, |entry| entry.eax);
    let topology = Topology { id: index.into(), cpus: cpus.into(), amd: leaf(VENDOR).is_some_and(is_amd) };
    let mut entries: Vec<kvm_cpuid_entry2> = supported
        .iter()
        .copied()
        .filter(|entry| !matches!(entry.function, TOPOLOGY | TOPOLOGY_V2 | AMD_TOPOLOGY_V2))
        .collect();
    entries.iter_mut().for_each(|entry| patch(entry, &topology));
    for function in [TOPOLOGY, TOPOLOGY_V2] {
        if last >= function {
            entries.extend(topology.levels(function));
        }
    }
    entries
}

struct Topology {
    id: u32,
    cpus: u32,
    amd: bool,
}

impl Topology {
    fn others(&self) -> u32 {
        self.cpus.saturating_sub(1)
    }

    /// Bits of an APIC id that tell the cores apart.
    fn width(&self) -> u32 {
        self.cpus.next_power_of_two().trailing_zeros()
    }

    fn levels(&self, function: u32) -> [kvm_cpuid_entry2; 3] {
        let level = |index: u32, shift: u32, count: u32, kind: u32| kvm_cpuid_entry2 {
            function,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: count,
            ecx: index | kind << 8,
            edx: self.id,
            ..Default::default()
        };
        [level(0, 0, 1, LEVEL_THREAD), level(1, self.width(), self.cpus, LEVEL_CORE), level(2, 0, 0, 0)]
    }
}

fn patch(entry: &mut kvm_cpuid_entry2, topology: &Topology) {
    match entry.function {
        FEATURES => {
            entry.ebx = entry.ebx & 0x0000_FFFF | topology.cpus << 16 | topology.id << 24;
            entry.ecx &= !(MONITOR_BIT | VMX | PERFORMANCE_CAPABILITIES);
            entry.ecx |= TSC_DEADLINE | HYPERVISOR;
            entry.edx = with(entry.edx, HTT, topology.cpus > 1);
        }
        CACHES if entry.eax & 0x1F != 0 => {
            entry.eax = entry.eax & 0x3FFF | sharing(entry.eax, topology) << 14 | topology.others() << 26;
        }
        AMD_CACHES if entry.eax & 0x1F != 0 => {
            entry.eax = entry.eax & 0x3FFF | sharing(entry.eax, topology) << 14;
        }
        KVM_FEATURES => entry.eax &= !ASYNC_PF,
        AMD_FEATURES => {
            entry.ecx &= !(SVM | PERFORMANCE_CORE);
            entry.ecx = with(entry.ecx, CMP_LEGACY, topology.amd && topology.cpus > 1);
        }
        AMD_SIZES if topology.amd => entry.ecx = topology.others() | topology.width() << 12,
        AMD_TOPOLOGY if topology.amd => {
            // Extended APIC id; compute unit with one thread; the only node.
            (entry.eax, entry.ebx, entry.ecx) = (topology.id, topology.id, 0);
        }
        MONITOR | PERFORMANCE | AMD_SVM | AMD_ENCRYPTION | AMD_PERFORMANCE => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
        _ => {}
    }
}

/// How many other cores share the cache that `eax` describes.
fn sharing(eax: u32, topology: &Topology) -> u32 {
    if eax >> 5 & 7 >= LAST_LEVEL { topology.others() } else { 0 }
}

fn with(value: u32, bit: u32, set: bool) -> u32 {
    if set { value | bit } else { value & !bit }
}

/// AuthenticAMD, or Hygon, which answers as AMD does.
fn is_amd(vendor: &kvm_cpuid_entry2) -> bool {
    let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
    matches!(name.as_flattened(), b"AuthenticAMD" | b"HygonGenuine")
}

#[cfg(test)]
#[path = "cpuid_tests.rs"]
mod tests;
