//! The differentiated definition block: the devices that cannot be enumerated (ACPI 6.5, 5.2.11.1).

use super::Machine;
use crate::{power, rtc, serial};
use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, Device, EISAName, Equal, IO, If, Interrupt, Memory32Fixed,
    Method, Name, Notify, Package, Path, ResourceTemplate, Scope,
};
use protocol::memory_layout::{ECAM_SIZE, ECAM_START, PCI32_SIZE, PCI32_START, PCI64_SIZE};

/// The interrupt of the generic event device, which stands for the power button.
pub const POWER_BUTTON_GSI: u32 = 5;
/// Notification value of a pressed button (ACPI 6.5, 5.6.6, table 5.163).
const BUTTON_PRESSED: u8 = 0x80;
const POWER_BUTTON: &str = "\\_SB_.PWRB";
/// Ports of [`power`]: control, status, reset.
const POWER_PORTS: u8 = 3;
const RTC_PORTS: u8 = 2;
const PCI_CONFIG_PORT: u16 = 0xCF8;
const PCI_CONFIG_PORTS: u8 = 8;

/// The byte code.
pub(super) fn aml(machine: &Machine) -> Vec<u8> {
    let mut devices = Vec::new();
    pci_host(&mut devices, machine.pci64_start);
    motherboard(&mut devices);
    serial_port(&mut devices);
    clock(&mut devices);
    power_button(&mut devices);
    (0..machine.cpus).for_each(|cpu| processor(&mut devices, cpu));
    let mut aml = Scope::raw(Path::new("\\_SB_"), devices);
    let package = Package::new(vec![&power::S5, &power::S5, &0u8, &0u8]);
    Name::new(Path::new("\\_S5_"), &package).to_aml_bytes(&mut aml);
    aml
}

/// Bus 0 and its windows. Without `_PRT`, since there are no INTx interrupts; without `_OSC`, since there is
/// no PCI Express feature to hand over.
fn pci_host(aml: &mut Vec<u8>, pci64: u64) {
    let low = |address: u64| u32::try_from(address).unwrap_or(u32::MAX);
    let last = |start: u64, size: u64| start.saturating_add(size).saturating_sub(1);
    let bus = AddressSpace::new_bus_number(0u16, 0u16);
    let ports = IO::new(PCI_CONFIG_PORT, PCI_CONFIG_PORT, 1, PCI_CONFIG_PORTS);
    let window = AddressSpaceCacheable::NotCacheable;
    let pci32 =
        AddressSpace::new_memory(window, true, low(PCI32_START), low(last(PCI32_START, PCI32_SIZE)), None);
    let pci64 = AddressSpace::new_memory(window, true, pci64, last(pci64, PCI64_SIZE), None);
    let resources = ResourceTemplate::new(vec![&bus, &ports, &pci32, &pci64]);
    device(
        aml,
        "PCI0",
        &[
            &named("_HID", &EISAName::new("PNP0A08")),
            &named("_CID", &EISAName::new("PNP0A03")),
            &named("_UID", &0u8),
            &named("_SEG", &0u8),
            &named("_BBN", &0u8),
            &named("_CRS", &resources),
        ],
    );
}

/// What is reserved though no driver takes it: ECAM, which Linux uses only if it is, and the power registers.
fn motherboard(aml: &mut Vec<u8>) {
    let low = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let ecam = Memory32Fixed::new(true, low(ECAM_START), low(ECAM_SIZE));
    let ports = IO::new(power::SLEEP_CONTROL, power::SLEEP_CONTROL, 1, POWER_PORTS);
    let resources = ResourceTemplate::new(vec![&ecam, &ports]);
    device(
        aml,
        "MBRD",
        &[&named("_HID", &EISAName::new("PNP0C02")), &named("_UID", &0u8), &named("_CRS", &resources)],
    );
}

fn serial_port(aml: &mut Vec<u8>) {
    let ports = IO::new(serial::PORT, serial::PORT, 1, offset(serial::PORTS));
    let interrupt = edge(serial::GSI);
    let resources = ResourceTemplate::new(vec![&ports, &interrupt]);
    device(
        aml,
        "COM1",
        &[
            &named("_HID", &EISAName::new("PNP0501")),
            &named("_UID", &0u8),
            &named("_DDN", &"COM1"),
            &named("_CRS", &resources),
        ],
    );
}

/// Without an interrupt: Linux then offers no alarm, and `hwclock` polls instead of waiting for one.
fn clock(aml: &mut Vec<u8>) {
    let ports = IO::new(rtc::INDEX, rtc::INDEX, 1, RTC_PORTS);
    let resources = ResourceTemplate::new(vec![&ports]);
    device(aml, "RTC_", &[&named("_HID", &EISAName::new("PNP0B00")), &named("_CRS", &resources)]);
}

/// The button, and the generic event device whose interrupt presses it (ACPI 6.5, 5.6.9).
fn power_button(aml: &mut Vec<u8>) {
    device(aml, "PWRB", &[&named("_HID", &EISAName::new("PNP0C0C")), &named("_UID", &0u8)]);
    let interrupt = edge(POWER_BUTTON_GSI);
    let resources = ResourceTemplate::new(vec![&interrupt]);
    let (button, gsi) = (Path::new(POWER_BUTTON), POWER_BUTTON_GSI);
    let notify = Notify::new(&button, &BUTTON_PRESSED);
    let which = Equal::new(&Arg(0), &gsi);
    let press = If::new(&which, vec![&notify]);
    device(
        aml,
        "GED_",
        &[
            &named("_HID", &"ACPI0013"),
            &named("_UID", &0u8),
            &named("_CRS", &resources),
            &Method::new(Path::new("_EVT"), 1, true, vec![&press]),
        ],
    );
}

fn processor(aml: &mut Vec<u8>, cpu: u8) {
    let name = format!("C{cpu:03}");
    device(aml, &name, &[&named("_HID", &"ACPI0007"), &named("_UID", &cpu)]);
}

fn device(aml: &mut Vec<u8>, name: &str, children: &[&dyn Aml]) {
    Device::new(Path::new(name), children.to_vec()).to_aml_bytes(aml);
}

fn named(name: &str, value: &dyn Aml) -> Name {
    Name::new(Path::new(name), value)
}

/// Edge-triggered, active high, not shared: what an irqfd without resampling gives.
fn edge(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

fn offset(ports: u16) -> u8 {
    u8::try_from(ports).unwrap_or(u8::MAX)
}
