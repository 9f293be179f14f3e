//! Where in the first MiB the boot structures lie. All but the ACPI tables are the kernel's to reuse.

/// Global descriptor table of the boot processor.
pub const GDT: u64 = 0x500;
/// `hvm_start_info`, its memory map and its module list.
pub const START_INFO: u64 = 0x6000;
/// Memory map of `hvm_start_info`.
pub const START_INFO_MAP: u64 = 0x6100;
/// Module list of `hvm_start_info`.
pub const START_INFO_MODULES: u64 = 0x6800;
/// `boot_params`.
pub const ZERO_PAGE: u64 = 0x7000;
/// Top of the boot processor's stack.
pub const STACK: u64 = 0x8FF0;
/// Page tables: the PML4, one page directory pointer table, four page directories.
pub const PML4: u64 = 0x9000;
/// See [`PML4`].
pub const PDPT: u64 = 0xA000;
/// See [`PML4`].
pub const PAGE_DIRECTORIES: u64 = 0xB000;
/// The command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// End of conventional memory: what is above is the extended BIOS data area of old.
pub const CONVENTIONAL_END: u64 = 0x9_FC00;
/// The ACPI tables, RSDP first, where old kernels would scan for it (ACPI 6.5, 5.2.5.1).
pub const ACPI: u64 = 0xE_0000;
/// Their end.
pub const ACPI_END: u64 = 0xF_F000;
/// F000:FFF0, where a processor starts, and where Linux jumps to when it wants a BIOS to reboot.
pub const RESET_VECTOR: u64 = 0xF_FFF0;
/// Where RAM goes on, and the lowest address that a kernel may be loaded to.
pub const HIGH_MEMORY: u64 = 0x10_0000;
