//! ACPI 6.5 as far as stock kernels need it, hardware-reduced: RSDP, XSDT, FADT, MADT, MCFG, DSDT.
//!
//! Hardware-reduced means: no PM timer, no PM1 registers, no 8259 and 8254 as far as the guest is
//! concerned. Sleep and reset go through the registers of [`crate::power`]; the timer is the local APIC's.

mod dsdt;
mod tables;

pub use dsdt::POWER_BUTTON_GSI;

use super::layout;
use crate::{Error, GuestMemory, guest_memory};
use protocol::{MemoryRegion, memory_layout};

/// What the tables describe.
#[derive(Debug, Clone)]
pub struct Machine {
    /// vCPUs; their APIC ids are 0, 1, 2, …
    pub cpus: u8,
    /// Start of the PCI window for 64-bit BARs.
    pub pci64_start: u64,
}

impl Machine {
    /// A machine with these regions of RAM.
    #[must_use]
    pub fn new(cpus: u8, regions: &[MemoryRegion]) -> Self {
        Self { cpus, pci64_start: memory_layout::pci64_start(regions) }
    }
}

/// Writes the tables to their place, the RSDP first.
pub(super) fn write(memory: &GuestMemory, machine: &Machine) -> Result<(), Error> {
    let bytes = tables::assemble(machine, layout::ACPI);
    let (size, room) = (bytes.len() as u64, layout::ACPI_END.saturating_sub(layout::ACPI));
    if size > room {
        return Err(Error::AcpiTooBig { size, room });
    }
    guest_memory::write_bytes(memory, "ACPI tables", layout::ACPI, &bytes)
}
