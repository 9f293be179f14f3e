//! What a kernel entered by PVH finds by `ebx`: Xen's `hvm_start_info`, version 1
//! (xen/include/public/arch-x86/hvm/start_info.h).

use super::e820::Range;
use super::initrd::Initrd;
use super::layout;
use crate::{Error, GuestMemory, guest_memory};
use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};

const WHAT: &str = "PVH start info";
const MAP_ENTRY: u64 = size_of::<hvm_memmap_table_entry>() as u64;

/// Writes it, its memory map and its module list.
pub(super) fn write(memory: &GuestMemory, map: &[Range], initrd: Option<Initrd>) -> Result<(), Error> {
    for (address, range) in (layout::START_INFO_MAP..).step_by(size_of::<hvm_memmap_table_entry>()).zip(map) {
        let entry =
            hvm_memmap_table_entry { addr: range.start, size: range.size, type_: range.kind, reserved: 0 };
        guest_memory::write(memory, WHAT, address, &entry)?;
    }
    if let Some(initrd) = initrd {
        let module =
            hvm_modlist_entry { paddr: initrd.address, size: initrd.size, ..hvm_modlist_entry::default() };
        guest_memory::write(memory, WHAT, layout::START_INFO_MODULES, &module)?;
    }
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        flags: 0,
        nr_modules: u32::from(initrd.is_some()),
        modlist_paddr: initrd.map_or(0, |_| layout::START_INFO_MODULES),
        cmdline_paddr: layout::COMMAND_LINE,
        rsdp_paddr: layout::ACPI,
        memmap_paddr: layout::START_INFO_MAP,
        memmap_entries: u32::try_from(map.len()).unwrap_or(0),
        reserved: 0,
    };
    guest_memory::write(memory, WHAT, layout::START_INFO, &info)
}

/// The map of at most four regions and the fixed ranges never reaches the module list.
const _: () = assert!((layout::START_INFO_MODULES - layout::START_INFO_MAP) / MAP_ENTRY >= 16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::e820;
    use crate::guest_memory::tests::guest;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn a_guest_can_follow_it() {
        let memory = guest(16 << 20);
        let map = e820::map(&guest_memory::regions(&memory));
        write(&memory, &map, Some(Initrd { address: 0x70_0000, size: 42 })).unwrap();
        let info: hvm_start_info = memory.read_obj(GuestAddress(layout::START_INFO)).unwrap();
        assert_eq!((info.magic, info.version, info.nr_modules), (0x336e_c578, 1, 1));
        let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
        assert_eq!((module.paddr, module.size), (0x70_0000, 42));
        assert_eq!(info.memmap_entries as usize, map.len());
        for (index, range) in (0u64..).zip(&map) {
            let at = GuestAddress(info.memmap_paddr + index * 24);
            let entry: hvm_memmap_table_entry = memory.read_obj(at).unwrap();
            assert_eq!((entry.addr, entry.size, entry.type_), (range.start, range.size, range.kind));
        }
    }
}
