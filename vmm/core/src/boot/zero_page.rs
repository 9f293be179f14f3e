//! What a kernel entered by the 64-bit boot protocol finds by `rsi`: `boot_params`, the zero page
//! (Documentation/arch/x86/boot.rst and zero-page.rst).

use super::e820::Range;
use super::initrd::Initrd;
use super::kernel::Kernel;
use super::layout;
use crate::{Error, GuestMemory, guest_memory};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};

const BOOT_FLAG: u16 = 0xAA55;
const HEADER_MAGIC: u32 = 0x5372_6448;
/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xFF;
/// Version of the protocol that a vmlinux without setup header gets: the last one that asks nothing of us.
const PROTOCOL: u16 = 0x020C;

/// Writes it. The kernel's own setup header goes in, filled up with what a boot loader fills in.
pub(super) fn write(
    memory: &GuestMemory,
    kernel: &Kernel,
    map: &[Range],
    initrd: Option<Initrd>,
) -> Result<(), Error> {
    let low = |value: u64| u32::try_from(value).unwrap_or(0);
    let mut params = boot_params {
        hdr: kernel.setup_header.unwrap_or(setup_header {
            boot_flag: BOOT_FLAG,
            header: HEADER_MAGIC,
            version: PROTOCOL,
            ..setup_header::default()
        }),
        ..boot_params::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = low(layout::COMMAND_LINE);
    // Both are below 4 GiB, for initrds go into low memory.
    params.hdr.ramdisk_image = initrd.map_or(0, |initrd| low(initrd.address));
    params.hdr.ramdisk_size = initrd.map_or(0, |initrd| low(initrd.size));
    params.acpi_rsdp_addr = layout::ACPI;
    let mut table = params.e820_table;
    for (slot, range) in table.iter_mut().zip(map) {
        *slot = boot_e820_entry { addr: range.start, size: range.size, r#type: range.kind };
    }
    params.e820_table = table;
    params.e820_entries = u8::try_from(map.len()).unwrap_or(0);
    guest_memory::write(memory, "zero page", layout::ZERO_PAGE, &params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::e820;
    use crate::boot::kernel::Entry;
    use crate::guest_memory::tests::guest;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn fields_lie_where_the_protocol_says() {
        let memory = guest(16 << 20);
        let map = e820::map(&guest_memory::regions(&memory));
        let header = setup_header { header: HEADER_MAGIC, init_size: 0x1234, ..setup_header::default() };
        let kernel = Kernel {
            entry: Entry::Linux64 { address: 0x10_0200 },
            end: 0,
            initrd_end_max: 0,
            command_line_max: 2047,
            setup_header: Some(header),
        };
        write(&memory, &kernel, &map, Some(Initrd { address: 0x70_0000, size: 42 })).unwrap();
        let u8_at = |at: u64| memory.read_obj::<u8>(GuestAddress(layout::ZERO_PAGE + at)).unwrap();
        let u32_at = |at: u64| memory.read_obj::<u32>(GuestAddress(layout::ZERO_PAGE + at)).unwrap();
        assert_eq!(u32_at(0x070), 0xE_0000, "acpi_rsdp_addr");
        assert_eq!(usize::from(u8_at(0x1E8)), map.len(), "e820_entries");
        assert_eq!(u8_at(0x1EF), 0, "sentinel");
        assert_eq!(u8_at(0x210), 0xFF, "type_of_loader");
        assert_eq!((u32_at(0x218), u32_at(0x21C)), (0x70_0000, 42), "ramdisk");
        assert_eq!(u32_at(0x228), 0x2_0000, "cmd_line_ptr");
        assert_eq!(u32_at(0x260), 0x1234, "init_size is the kernel's own");
        assert_eq!(u32_at(0x2D0 + 20), 0x9_FC00, "the second range");
        assert_eq!(u32_at(0x2D0 + 20 + 16), e820::RESERVED);
    }
}
