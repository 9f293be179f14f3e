//! The static tables and their assembly: each at the next multiple of 64 bytes behind the RSDP.

use super::{Machine, dsdt};
use crate::{power, rtc};
use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use protocol::memory_layout;

const OEM: [u8; 6] = *b"VMM   ";
const OEM_TABLE: [u8; 8] = *b"VMMCORE ";
const OEM_REVISION: u32 = 1;
const ALIGNMENT: usize = 64;
/// IA-PC boot architecture flags (ACPI 6.5, table 5.11): there is no VGA to probe for. Bit 1 clear says that
/// there is no 8042, bit 0 clear that there are no legacy devices that the DSDT does not name.
const VGA_NOT_PRESENT: u16 = 1 << 2;

/// All tables as they are to lie at guest address `base`.
pub(super) fn assemble(machine: &Machine, base: u64) -> Vec<u8> {
    let mut image = vec![0; size_of::<Rsdp>().next_multiple_of(ALIGNMENT)];
    let mut place = |table: &dyn Aml| {
        let address = base.saturating_add(image.len() as u64);
        table.to_aml_bytes(&mut image);
        image.resize(image.len().next_multiple_of(ALIGNMENT), 0);
        address
    };
    let dsdt = place(&dsdt_table(machine));
    let entries = [place(&fadt(dsdt).finalize()), place(&madt(machine.cpus)), place(&mcfg())];
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    entries.into_iter().for_each(|address| xsdt.add_entry(address));
    let xsdt = place(&xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    image.iter_mut().zip(rsdp).for_each(|(place, byte)| *place = byte);
    image
}

fn dsdt_table(machine: &Machine) -> Sdt {
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&dsdt::aml(machine));
    table
}

fn fadt(dsdt: u64) -> FADTBuilder {
    let register = |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into());
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        // Set means: power and sleep button are not fixed hardware, the clock's alarm wakes nobody.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc);
    fadt.century = rtc::CENTURY;
    fadt.iapc_boot_arch = VGA_NOT_PRESENT.into();
    fadt.reset_reg = register(power::RESET);
    fadt.reset_value = power::RESET_VALUE;
    fadt.sleep_control_reg = register(power::SLEEP_CONTROL);
    fadt.sleep_status_reg = register(power::SLEEP_STATUS);
    fadt
}

fn madt(cpus: u8) -> MADT {
    let address = u32::try_from(memory_layout::LAPIC_START).unwrap_or(0);
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, LocalInterruptController::Address(address));
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, u32::try_from(memory_layout::IOAPIC_START).unwrap_or(0), 0));
    madt
}

fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(memory_layout::ECAM_START, 0, 0, 0);
    mcfg
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xE_0000;

    fn image(cpus: u8) -> Vec<u8> {
        assemble(&Machine { cpus, pci64_start: 4 << 30 }, BASE)
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// The table at a guest address, whole and with a sum of zero.
    fn table(image: &[u8], address: u64) -> &[u8] {
        let at = usize::try_from(address - BASE).unwrap();
        let table = &image[at..at + u32_at(image, at + 4) as usize];
        assert_eq!(sum(table), 0, "{:?}", std::str::from_utf8(&table[..4]));
        table
    }

    /// Signature and bytes of every table that the RSDP leads to, and the DSDT.
    fn walk(image: &[u8]) -> Vec<(String, Vec<u8>)> {
        assert_eq!((&image[..8], image[15]), (&b"RSD PTR "[..], 2));
        assert_eq!((sum(&image[..20]), sum(&image[..36])), (0, 0));
        let xsdt = table(image, u64_at(image, 24));
        let mut tables: Vec<&[u8]> =
            xsdt[36..].chunks(8).map(|entry| table(image, u64_at(entry, 0))).collect();
        tables.push(table(image, u64_at(tables[0], 140)));
        let name = |table: &[u8]| String::from_utf8(table[..4].to_vec()).unwrap();
        tables.into_iter().map(|table| (name(table), table.to_vec())).collect()
    }

    #[test]
    fn the_rsdp_leads_to_every_table_and_all_sums_are_zero() {
        for cpus in [1, 4, 32] {
            let names: Vec<String> = walk(&image(cpus)).into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["FACP", "APIC", "MCFG", "DSDT"]);
        }
    }

    #[test]
    fn the_madt_lists_every_cpu_and_the_io_apic() {
        let tables = walk(&image(32));
        let madt = &tables[1].1;
        let mut at = 44;
        let mut seen = (0u8, 0u8);
        while at < madt.len() {
            match madt[at] {
                0 => {
                    assert_eq!((madt[at + 2], madt[at + 3]), (seen.0, seen.0), "uid and APIC id");
                    assert_eq!(u32_at(madt, at + 4) & 1, 1, "enabled");
                    seen.0 += 1;
                }
                1 => {
                    assert_eq!(u32_at(madt, at + 4), 0xFEC0_0000);
                    seen.1 += 1;
                }
                other => panic!("structure {other}"),
            }
            at += usize::from(madt[at + 1]);
        }
        assert_eq!(seen, (32, 1));
    }

    #[test]
    fn the_fadt_names_our_registers() {
        let tables = walk(&image(1));
        let fadt = &tables[0].1;
        assert_eq!(fadt.len(), 276);
        assert_eq!(u32_at(fadt, 112), 1 << 20 | 1 << 10 | 1 << 6 | 1 << 5 | 1 << 4 | 1, "flags");
        let register = |at: usize| (fadt[at], u64_at(fadt, at + 4));
        assert_eq!((register(116), fadt[128]), ((1, 0x602), 1), "reset register");
        assert_eq!([register(244), register(256)], [(1, 0x600), (1, 0x601)], "sleep control and status");
    }

    #[test]
    fn everything_fits_below_1_mib() {
        assert!(BASE + (image(32).len() as u64) < crate::boot::layout::ACPI_END);
    }
}
