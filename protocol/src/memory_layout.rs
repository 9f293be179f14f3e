//! The guest-physical layout, known to the launcher (which makes one memfd per region of RAM) and to the
//! core (which maps them and places everything else).
//!
//! ```text
//! 0                RAM, at most 3 GiB
//! 0xC000_0000      PCI window for 32-bit BARs
//! 0xE000_0000      ECAM, bus 0
//! 0xFEC0_0000      I/O APIC, local APIC at 0xFEE0_0000
//! 0xFFFB_C000      KVM's TSS and identity map
//! 4 GiB            the rest of RAM
//! next GiB         PCI window for 64-bit BARs
//! behind it        persistent memory, then memory to be plugged in, each device's at a whole GiB
//! ```

use crate::MemoryRegion;

/// The first address of the hole below 4 GiB: RAM ends here, or earlier.
pub const HOLE_START: u64 = 0xC000_0000;
/// The first address behind the hole.
pub const HOLE_END: u64 = 1 << 32;
/// The PCI window for 32-bit BARs.
pub const PCI32_START: u64 = 0xC000_0000;
/// Its size in bytes.
pub const PCI32_SIZE: u64 = 0x2000_0000;
/// ECAM of bus 0 (PCI Express base specification, 7.2.2).
pub const ECAM_START: u64 = 0xE000_0000;
/// One bus: 32 devices of 8 functions of 4 KiB.
pub const ECAM_SIZE: u64 = 0x10_0000;
/// The I/O APIC.
pub const IOAPIC_START: u64 = 0xFEC0_0000;
/// The local APICs.
pub const LAPIC_START: u64 = 0xFEE0_0000;
/// One page of identity map for real mode on processors without unrestricted guest.
pub const KVM_IDENTITY_MAP: u64 = 0xFFFB_C000;
/// Three pages of TSS for the same.
pub const KVM_TSS: u64 = 0xFFFB_D000;
/// Size of the PCI window for 64-bit BARs.
pub const PCI64_SIZE: u64 = 16 << 30;

const GIB: u64 = 1 << 30;

/// The regions of a guest with `size` bytes of RAM, lowest first: one, or two if it does not fit below
/// the hole. Each is backed by a memfd of exactly its size.
#[must_use]
pub fn regions(size: u64) -> Vec<MemoryRegion> {
    let low = size.min(HOLE_START);
    let mut regions = vec![MemoryRegion { guest_phys: 0, size: low }];
    let high = size.saturating_sub(low);
    if high > 0 {
        regions.push(MemoryRegion { guest_phys: HOLE_END, size: high });
    }
    regions
}

/// Where the window for 64-bit BARs starts in a guest with these regions.
#[must_use]
pub fn pci64_start(regions: &[MemoryRegion]) -> u64 {
    let end = regions.iter().map(|region| region.guest_phys.saturating_add(region.size)).max().unwrap_or(0);
    end.max(HOLE_END).checked_next_multiple_of(GIB).unwrap_or(u64::MAX)
}

/// Where persistent memory of these `sizes`, and behind that memory to be plugged in, lies in a guest with these regions of
/// RAM, in the same order. An address that does not exist, [`u64::MAX`], if there is none left.
#[must_use]
pub fn persistent(regions: &[MemoryRegion], sizes: &[u64]) -> Vec<MemoryRegion> {
    let mut next = pci64_start(regions).saturating_add(PCI64_SIZE);
    let mut place = |size: u64| {
        let guest_phys = next;
        let end = guest_phys.checked_add(size).and_then(|end| end.checked_next_multiple_of(GIB));
        next = end.unwrap_or(u64::MAX);
        MemoryRegion { guest_phys, size }
    };
    sizes.iter().map(|size| place(*size)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_goes_round_the_hole() {
        assert_eq!(regions(128 << 20), [MemoryRegion { guest_phys: 0, size: 128 << 20 }]);
        assert_eq!(regions(HOLE_START), [MemoryRegion { guest_phys: 0, size: HOLE_START }]);
        assert_eq!(
            regions(5 << 30),
            [
                MemoryRegion { guest_phys: 0, size: HOLE_START },
                MemoryRegion { guest_phys: HOLE_END, size: 2 << 30 }
            ]
        );
    }

    #[test]
    fn the_64_bit_window_follows_ram() {
        assert_eq!(pci64_start(&regions(1 << 30)), 4 << 30);
        assert_eq!(pci64_start(&regions((5 << 30) + 4096)), 7 << 30);
        let largest = pci64_start(&regions(crate::limits::MAX_MEMORY)) + PCI64_SIZE;
        assert!(largest <= 1 << 39, "the window ends at {largest:#x}");
    }

    #[test]
    fn persistent_memory_follows_the_window() {
        let sizes = [2 << 20, 3 << 30, 4 << 20];
        let starts = persistent(&regions(1 << 30), &sizes).into_iter().map(|region| region.guest_phys >> 30);
        assert_eq!(starts.collect::<Vec<_>>(), [20, 21, 24]);
        let none_left = persistent(&regions(1 << 30), &[u64::MAX - (20 << 30), 2 << 20]);
        assert_eq!(none_left[1].guest_phys, u64::MAX);
    }
}
