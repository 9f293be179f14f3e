//! Topology and hidden features, for both vendors.

use super::*;

fn entry(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = registers;
    kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
}

fn vendor(name: &[u8; 12], last: u32) -> kvm_cpuid_entry2 {
    let word = |at: usize| u32::from_le_bytes(name[at..at + 4].try_into().unwrap());
    entry(0, 0, [last, word(0), word(8), word(4)])
}

/// What a host of many cores says of itself, to be seen nowhere in the guest.
fn host(name: &[u8; 12]) -> Vec<kvm_cpuid_entry2> {
    vec![
        vendor(name, 0x1F),
        entry(FEATURES, 0, [0, 0x77FF_0800, VMX | MONITOR_BIT | 1, 0]),
        entry(CACHES, 0, [0xFFFF_C121, 1, 2, 3]),
        entry(CACHES, 3, [0xFFFF_C163, 1, 2, 3]),
        entry(CACHES, 4, [0; 4]),
        entry(PERFORMANCE, 0, [0x0730_0404, 0, 0, 0x603]),
        entry(TOPOLOGY, 0, [1, 2, 0x100, 77]),
        entry(TOPOLOGY, 1, [7, 128, 0x201, 77]),
        entry(TOPOLOGY_V2, 0, [1, 2, 0x100, 77]),
        entry(KVM_FEATURES, 0, [0x0100_7EFB, 0, 0, 0]),
        entry(AMD_FEATURES, 0, [0, 0, SVM | PERFORMANCE_CORE | 1, 0]),
        entry(AMD_SIZES, 0, [0x3030, 0, 0x707F, 0]),
        entry(AMD_SVM, 0, [1, 8, 0, 0xFF]),
        entry(AMD_CACHES, 3, [0xFFFF_C163, 1, 2, 3]),
        entry(AMD_TOPOLOGY, 0, [77, 0x177, 0x301, 0]),
        entry(AMD_TOPOLOGY_V2, 0, [1, 2, 0x100, 77]),
    ]
}

fn leaf(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> [u32; 4] {
    let found: Vec<_> = entries.iter().filter(|e| e.function == function && e.index == index).collect();
    assert_eq!(found.len(), 1, "leaf {function:#x} {index}");
    [found[0].eax, found[0].ebx, found[0].ecx, found[0].edx]
}

#[test]
fn each_vcpu_has_its_own_apic_id_everywhere() {
    for cpus in [1, 2, 3, 32] {
        for index in 0..cpus {
            let entries = for_vcpu(&host(b"AuthenticAMD"), index, cpus);
            let id = u32::from(index);
            assert_eq!(leaf(&entries, FEATURES, 0)[1] >> 24, id);
            assert_eq!(leaf(&entries, AMD_TOPOLOGY, 0), [id, id, 0, 0]);
            for function in [TOPOLOGY, TOPOLOGY_V2] {
                for level in 0..3 {
                    assert_eq!(leaf(&entries, function, level)[3], id);
                }
            }
        }
    }
}

#[test]
fn the_topology_is_one_package_of_single_threaded_cores() {
    let entries = for_vcpu(&host(b"GenuineIntel"), 2, 3);
    assert_eq!(leaf(&entries, TOPOLOGY, 0)[..3], [0, 1, 0x100]);
    assert_eq!(leaf(&entries, TOPOLOGY, 1)[..3], [2, 3, 0x201]);
    assert_eq!(leaf(&entries, TOPOLOGY, 2)[..3], [0, 0, 2]);
    assert_eq!(leaf(&entries, FEATURES, 0)[1], 0x0203_0800);
    assert_ne!(leaf(&entries, FEATURES, 0)[3] & HTT, 0);
    assert_eq!(leaf(&entries, CACHES, 0)[0], 0x0121 | 2 << 26, "private");
    assert_eq!(leaf(&entries, CACHES, 3)[0], 0x0163 | 2 << 14 | 2 << 26, "shared by three");
    assert_eq!(leaf(&entries, CACHES, 4)[0], 0, "the end of the list stays one");
    assert!(entries.iter().all(|entry| entry.function != AMD_TOPOLOGY_V2));
}

#[test]
fn amd_counts_cores_in_its_own_leaves() {
    let entries = for_vcpu(&host(b"AuthenticAMD"), 0, 4);
    assert_eq!(leaf(&entries, AMD_SIZES, 0), [0x3030, 0, 3 | 2 << 12, 0]);
    assert_eq!(leaf(&entries, AMD_FEATURES, 0)[2], 1 | CMP_LEGACY);
    assert_eq!(leaf(&entries, AMD_CACHES, 3)[0], 0x0163 | 3 << 14);
    let alone = for_vcpu(&host(b"AuthenticAMD"), 0, 1);
    assert_eq!(leaf(&alone, AMD_SIZES, 0)[2], 0);
    assert_eq!(leaf(&alone, AMD_FEATURES, 0)[2], 1);
    assert_eq!(leaf(&alone, FEATURES, 0)[3] & HTT, 0);
    let intel = for_vcpu(&host(b"GenuineIntel"), 0, 4);
    assert_eq!(leaf(&intel, AMD_SIZES, 0)[2], 0x707F, "reserved bits are not ours to set");
}

#[test]
fn what_a_guest_shall_not_have_is_hidden() {
    for name in [b"GenuineIntel", b"AuthenticAMD"] {
        let entries = for_vcpu(&host(name), 0, 2);
        let features = leaf(&entries, FEATURES, 0)[2];
        assert_eq!(features, 1 | TSC_DEADLINE | HYPERVISOR);
        assert_eq!(leaf(&entries, PERFORMANCE, 0), [0; 4]);
        assert_eq!(leaf(&entries, AMD_SVM, 0), [0; 4]);
        assert_eq!(leaf(&entries, KVM_FEATURES, 0)[0], 0x0100_3AEB, "all but asynchronous page faults");
        assert_eq!(leaf(&entries, AMD_FEATURES, 0)[2] & (SVM | PERFORMANCE_CORE), 0);
    }
}

#[test]
fn an_old_processor_gets_no_leaf_that_it_does_not_have() {
    let entries = for_vcpu(&[vendor(b"GenuineIntel", 0xA), entry(FEATURES, 0, [0; 4])], 0, 2);
    assert!(entries.iter().all(|entry| entry.function <= 0xA));
}
