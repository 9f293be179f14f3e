//! Who serves which port and which address.
//!
//! A port access has an element size (1, 2 or 4 bytes) and, for string instructions, a count; each element
//! is an access of its own, to the same port. Byte-wide devices see a wide access as one byte access for
//! each port that it covers, as on an ISA bus. What nobody serves reads as all ones and swallows writes.

use crate::counters::{Category, ExitCounters};
use crate::pci::PciHost;
use crate::power;
use crate::rtc::{self, Rtc};
use crate::serial::{self, SerialPort};
use protocol::{Exit, memory_layout};
use std::sync::{Mutex, PoisonError};

const PCI_FIRST: u16 = 0xCF8;
const PCI_LAST: u16 = 0xCFF;
const SERIAL_LAST: u16 = serial::PORT + serial::PORTS - 1;
const ECAM_END: u64 = memory_layout::ECAM_START + memory_layout::ECAM_SIZE;

/// Everything that a vCPU can reach by an exit. Shared by all of them.
pub struct Bus {
    /// COM1.
    pub serial: SerialPort,
    /// The clock.
    pub rtc: Mutex<Rtc>,
    /// Bus 0 and its devices.
    pub pci: PciHost,
    /// Exits so far.
    pub counters: ExitCounters,
}

impl Bus {
    /// Reads from a port: `data` holds elements of `size` bytes each.
    pub fn port_read(&self, port: u16, size: usize, data: &mut [u8]) {
        self.counters.count(port_category(port));
        data.fill(0xFF);
        for element in data.chunks_mut(size.max(1)) {
            match port {
                PCI_FIRST..=PCI_LAST => self.pci.port_read(port, element),
                _ => {
                    for (port, byte) in (port..=u16::MAX).zip(element) {
                        *byte = self.byte_read(port);
                    }
                }
            }
        }
    }

    /// Writes to a port: `data` holds elements of `size` bytes each. Says how the machine ends, if it does.
    pub fn port_write(&self, port: u16, size: usize, data: &[u8]) -> Option<Exit> {
        self.counters.count(port_category(port));
        for element in data.chunks(size.max(1)) {
            match port {
                PCI_FIRST..=PCI_LAST => self.pci.port_write(port, element),
                _ => {
                    for (port, byte) in (port..=u16::MAX).zip(element) {
                        if let Some(exit) = self.byte_write(port, *byte) {
                            return Some(exit);
                        }
                    }
                }
            }
        }
        None
    }

    /// Reads from an address.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xFF);
        let category = match address {
            memory_layout::ECAM_START..ECAM_END => {
                self.pci.ecam_read(address.wrapping_sub(memory_layout::ECAM_START), data);
                Category::PciConfig
            }
            _ => self.pci.mmio_read(address, data).map_or(Category::UnassignedMmio, Category::from),
        };
        self.counters.count(category);
    }

    /// Writes to an address.
    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        let category = match address {
            memory_layout::ECAM_START..ECAM_END => {
                self.pci.ecam_write(address.wrapping_sub(memory_layout::ECAM_START), data);
                Category::PciConfig
            }
            _ => self.pci.mmio_write(address, data).map_or(Category::UnassignedMmio, Category::from),
        };
        self.counters.count(category);
    }

    fn byte_read(&self, port: u16) -> u8 {
        match port {
            serial::PORT..=SERIAL_LAST => self.serial.read(offset(port, serial::PORT)),
            rtc::INDEX | rtc::DATA => self.rtc.lock().unwrap_or_else(PoisonError::into_inner).read(port),
            _ if power::serves(port) => power::read(port),
            _ => 0xFF,
        }
    }

    fn byte_write(&self, port: u16, value: u8) -> Option<Exit> {
        match port {
            serial::PORT..=SERIAL_LAST => self.serial.write(offset(port, serial::PORT), value),
            rtc::INDEX | rtc::DATA => {
                self.rtc.lock().unwrap_or_else(PoisonError::into_inner).write(port, value);
            }
            _ => return power::write(port, value),
        }
        None
    }
}

fn offset(port: u16, first: u16) -> u8 {
    u8::try_from(port.wrapping_sub(first)).unwrap_or(u8::MAX)
}

fn port_category(port: u16) -> Category {
    match port {
        serial::PORT..=SERIAL_LAST => Category::Serial,
        rtc::INDEX | rtc::DATA => Category::Rtc,
        PCI_FIRST..=PCI_LAST => Category::PciConfig,
        _ if power::serves(port) => Category::Power,
        _ => Category::UnassignedPort,
    }
}
