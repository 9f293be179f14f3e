//! From a kernel image to a first instruction: what firmware and a boot loader would leave in memory.
//!
//! Two ways in, by what the image offers. PVH (Xen's `start_info` ABI, 32-bit protected mode) where an ELF
//! image carries the note; otherwise the 64-bit boot protocol of Documentation/arch/x86/boot.rst. Both find
//! ACPI by the address of the RSDP.

pub mod acpi;
pub mod command_line;
pub mod e820;
pub mod image;
pub mod initrd;
pub mod kernel;
pub mod layout;
pub mod start_info;
pub mod zero_page;

mod paging;
mod reset_vector;

use crate::{Error, GuestMemory, guest_memory};
use kernel::Entry;
use std::fs::File;

/// What is to be started.
#[derive(Debug)]
pub struct Source {
    /// bzImage or vmlinux.
    pub kernel: File,
    /// Its initial RAM disk.
    pub initrd: Option<File>,
    /// Its command line, without the terminating zero.
    pub command_line: String,
}

/// Loads everything into guest memory and says where the boot processor starts.
///
/// # Errors
/// An image that cannot be started, or something that does not fit.
pub fn load(memory: &GuestMemory, source: Source, cpus: u8) -> Result<Entry, Error> {
    let Source { kernel, initrd, command_line } = source;
    let regions = guest_memory::regions(memory);
    let map = e820::map(&regions);
    let kernel = kernel::load(memory, kernel)?;
    let initrd = initrd.map(|initrd| initrd::load(memory, initrd, &kernel)).transpose()?;
    command_line::write(memory, &command_line, kernel.command_line_max)?;
    reset_vector::write(memory)?;
    acpi::write(memory, &acpi::Machine::new(cpus, &regions))?;
    match kernel.entry {
        Entry::Pvh { .. } => start_info::write(memory, &map, initrd)?,
        Entry::Linux64 { .. } => {
            paging::write(memory)?;
            zero_page::write(memory, &kernel, &map, initrd)?;
        }
    }
    Ok(kernel.entry)
}
