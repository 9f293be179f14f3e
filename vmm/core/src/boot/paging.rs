//! What the 64-bit boot protocol asks for beyond registers: paging that maps the kernel, the zero page and
//! the command line one to one. Here the first 4 GiB, in pages of 2 MiB.

use super::layout;
use crate::{Error, GuestMemory, guest_memory};

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;
const PAGE: u64 = 4096;
const DIRECTORIES: u64 = 4;
const ENTRIES: u64 = 512;
const LARGE_PAGE_SHIFT: u32 = 21;

/// Writes the page tables.
pub(super) fn write(memory: &GuestMemory) -> Result<(), Error> {
    let entry = |at: u64, value: u64| guest_memory::write(memory, "page tables", at, &value);
    entry(layout::PML4, layout::PDPT | PRESENT_WRITABLE)?;
    for directory in 0..DIRECTORIES {
        let table = layout::PAGE_DIRECTORIES.wrapping_add(directory.wrapping_mul(PAGE));
        entry(layout::PDPT.wrapping_add(directory.wrapping_mul(8)), table | PRESENT_WRITABLE)?;
        let first = directory.wrapping_mul(ENTRIES);
        let pages: Vec<u8> = (first..first.wrapping_add(ENTRIES))
            .flat_map(|page| ((page << LARGE_PAGE_SHIFT) | PRESENT_WRITABLE | LARGE).to_le_bytes())
            .collect();
        guest_memory::write_bytes(memory, "page tables", table, &pages)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest_memory::tests::guest;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn an_address_below_4_gib_translates_to_itself() {
        let memory = guest(1 << 20);
        write(&memory).unwrap();
        let read = |at: u64| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
        for address in [0u64, 0x10_0000, 0x1234_5678, 0xBFFF_FFFF, 0xFFFF_FFFF] {
            let pdpt = read(layout::PML4 + (address >> 39) * 8);
            let directory = read((pdpt & !0xFFF) + ((address >> 30) & 511) * 8);
            let page = read((directory & !0xFFF) + ((address >> 21) & 511) * 8);
            assert_eq!(pdpt & directory & page & PRESENT_WRITABLE, PRESENT_WRITABLE);
            assert_eq!((page & !0x1F_FFFF) | (address & 0x1F_FFFF), address);
        }
        assert_eq!(read(layout::PDPT + 32), 0, "nothing beyond");
        assert_eq!(layout::PAGE_DIRECTORIES + DIRECTORIES * PAGE, 0xF000);
    }
}
