//! The memory map, as a BIOS's INT 15h E820 would give it.
//!
//! Invariant: entries are sorted, do not overlap and are not empty.

use super::layout;
use protocol::{MemoryRegion, memory_layout};

/// Usable RAM.
pub const RAM: u32 = 1;
/// Not to be touched.
pub const RESERVED: u32 = 2;

/// A range of guest-physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Its first address.
    pub start: u64,
    /// Its size in bytes.
    pub size: u64,
    /// [`RAM`] or [`RESERVED`].
    pub kind: u32,
}

/// The map of a guest with these regions of RAM, lowest first.
#[must_use]
pub fn map(regions: &[MemoryRegion]) -> Vec<Range> {
    let mut map = Vec::new();
    let mut add = |start: u64, end: u64, kind: u32| {
        if let Some(size) = end.checked_sub(start).filter(|size| *size > 0) {
            map.push(Range { start, size, kind });
        }
    };
    let end = |region: &MemoryRegion| region.guest_phys.saturating_add(region.size);
    let (low, high): (Vec<&MemoryRegion>, Vec<&MemoryRegion>) =
        regions.iter().partition(|region| region.guest_phys < memory_layout::HOLE_START);
    add(0, layout::CONVENTIONAL_END, RAM);
    add(layout::CONVENTIONAL_END, 0xA_0000, RESERVED);
    // The ACPI tables and the reset vector.
    add(layout::ACPI, layout::HIGH_MEMORY, RESERVED);
    low.iter().for_each(|region| add(region.guest_phys.max(layout::HIGH_MEMORY), end(region), RAM));
    // Linux uses ECAM only where the map or the DSDT reserves it, early on only the map.
    add(
        memory_layout::ECAM_START,
        memory_layout::ECAM_START.saturating_add(memory_layout::ECAM_SIZE),
        RESERVED,
    );
    high.iter().for_each(|region| add(region.guest_phys, end(region), RAM));
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(size: u64) -> Vec<Range> {
        map(&memory_layout::regions(size))
    }

    #[test]
    fn ranges_are_sorted_disjoint_and_whole() {
        for size in [128 << 20, memory_layout::HOLE_START, memory_layout::HOLE_START + 4096, 64 << 30] {
            let map = of(size);
            assert!(map.windows(2).all(|pair| pair[0].start + pair[0].size <= pair[1].start), "{map:x?}");
            let ram: u64 = map.iter().filter(|range| range.kind == RAM).map(|range| range.size).sum();
            let below_1m = 0x10_0000 - layout::CONVENTIONAL_END;
            assert_eq!(ram, size - below_1m);
        }
    }

    #[test]
    fn the_holes_are_no_ram() {
        let map = of(8 << 30);
        let ram_at =
            |address| map.iter().any(|r| r.kind == RAM && (r.start..r.start + r.size).contains(&address));
        for hole in [0x9_FC00, 0xA_0000, layout::ACPI, 0xC000_0000, 0xE000_0000, 0xFEE0_0000, 0xFFFF_FFFF] {
            assert!(!ram_at(hole), "{hole:#x}");
        }
        for ram in [0, layout::COMMAND_LINE, 0x10_0000, 0xBFFF_FFFF, 1 << 32, (9 << 30) - 1] {
            assert!(ram_at(ram), "{ram:#x}");
        }
    }
}
