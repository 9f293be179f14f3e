//! PCI bus 0: a host bridge at 00:00.0 and the devices of the guest, found by ports (PCI 3.0, 3.2.2.3.2) or by ECAM
//! (PCI Express 4.0, 7.2.2). Nothing else is on it, and there is no other bus.
//!
//! Each device has a mutex of its own; the bus has none but that of the address port.

pub mod config_space;

use crate::Error;
use crate::counters::Category;
use crate::frontend::{Succession, Worker};
use crate::interrupts::Interrupts;
use crate::virtio_pci::{BAR_SIZE, VirtioPciDevice};
use config_space::{ConfigSpace, Identity};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const CONFIG_ADDRESS: u16 = 0xCF8;
const CONFIG_DATA: u16 = 0xCFC;
const ENABLE: u32 = 1 << 31;
const SLOTS: usize = 32;

/// The host bridge: the vendor and device of QEMU's PCI Express host, which firmware and kernels know well.
const HOST_BRIDGE: Identity =
    Identity { vendor: 0x1B36, device: 0x0008, revision: 0, class: 0x06_00_00, subsystem: 0x1100 };

/// Where BARs may lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// Below 4 GiB.
    pub mmio32: Range<u64>,
    /// Above guest memory.
    pub mmio64: Range<u64>,
}

/// What an access to a BAR was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touched {
    /// virtio-pci common configuration.
    Common,
    /// A notification that no ioeventfd took.
    Notify,
    /// ISR status.
    Isr,
    /// Device configuration.
    DeviceConfig,
    /// The MSI-X table or its pending bits.
    Msix,
    /// A part of the BAR that holds nothing.
    Gap,
}

impl From<Touched> for Category {
    fn from(touched: Touched) -> Self {
        match touched {
            Touched::Common => Self::VirtioCommon,
            Touched::Notify => Self::VirtioNotify,
            Touched::Isr => Self::VirtioIsr,
            Touched::DeviceConfig => Self::VirtioConfig,
            Touched::Msix => Self::Msix,
            Touched::Gap => Self::UnassignedMmio,
        }
    }
}

/// See above.
pub struct PciHost {
    windows: Windows,
    address: AtomicU32,
    bridge: Mutex<ConfigSpace>,
    devices: [Option<VirtioPciDevice>; SLOTS],
    // Their owner as long as there may be devices.
    _interrupts: Arc<Interrupts>,
}

impl PciHost {
    /// A bus with nothing but the host bridge.
    #[must_use]
    pub fn new(windows: Windows, interrupts: Arc<Interrupts>) -> Self {
        Self {
            windows,
            address: AtomicU32::new(0),
            bridge: Mutex::new(ConfigSpace::new(HOST_BRIDGE)),
            devices: [const { None }; SLOTS],
            _interrupts: interrupts,
        }
    }

    /// Puts a device at 00:`slot`.0, `slot` 1 to 31, its BAR in the window above guest memory; decoding is off.
    pub fn add(&mut self, slot: u8, device: VirtioPciDevice) -> Result<(), Error> {
        let refuse =
            |problem: &str| Error::Device { name: format!("PCI slot {slot}"), problem: problem.into() };
        let at = self.windows.mmio64.start.checked_next_multiple_of(BAR_SIZE);
        let at = at.and_then(|start| start.checked_add(u64::from(slot).checked_mul(BAR_SIZE)?));
        let at = at.filter(|at| at.checked_add(BAR_SIZE).is_some_and(|end| end <= self.windows.mmio64.end));
        let at = at.ok_or_else(|| refuse("the window for its registers is too small"))?;
        let place = self.devices.get_mut(usize::from(slot)).filter(|_| slot != 0);
        match place {
            Some(place @ None) => {
                device.set_bar(at);
                *place = Some(device);
                Ok(())
            }
            Some(Some(_)) => Err(refuse("there is a device in it already")),
            None => Err(refuse("slots are 1 to 31")),
        }
    }

    /// The thread of each device's front end, to be started before the guest runs.
    pub fn workers(&mut self) -> Vec<Worker> {
        self.devices.iter_mut().flatten().filter_map(VirtioPciDevice::take_worker).collect()
    }

    /// Tells the device in `slot` what becomes of its lost back end; false when there is none.
    pub fn succeed(&self, slot: u8, succession: Succession) -> bool {
        let device = self.devices.get(usize::from(slot)).and_then(Option::as_ref);
        device.map(|device| device.succeed(succession)).is_some()
    }

    /// Reads ports 0xCF8 to 0xCFF.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xFF);
        if port == CONFIG_ADDRESS && data.len() == 4 {
            data.copy_from_slice(&self.address.load(Ordering::Relaxed).to_le_bytes());
        } else if let Some((slot, offset)) = self.selected(port, data.len()) {
            self.config_read(slot, offset, data);
        }
    }

    /// Writes ports 0xCF8 to 0xCFF.
    pub fn port_write(&self, port: u16, data: &[u8]) {
        if let (CONFIG_ADDRESS, Ok(address)) = (port, <[u8; 4]>::try_from(data)) {
            self.address.store(u32::from_le_bytes(address), Ordering::Relaxed);
        } else if let Some((slot, offset)) = self.selected(port, data.len()) {
            self.config_write(slot, offset, data);
        }
    }

    /// Reads `offset` of the ECAM window.
    pub fn ecam_read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xFF);
        if let Some((slot, register)) = ecam(offset, data.len()) {
            self.config_read(slot, register, data);
        }
    }

    /// Writes `offset` of the ECAM window.
    pub fn ecam_write(&self, offset: u64, data: &[u8]) {
        if let Some((slot, register)) = ecam(offset, data.len()) {
            self.config_write(slot, register, data);
        }
    }

    /// Reads from a BAR; `None` when there is none at `address`. Of two at one place the lower slot answers.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) -> Option<Touched> {
        self.devices.iter().flatten().find_map(|device| device.mmio_read(address, data))
    }

    /// Writes to a BAR; `None` when there is none at `address`.
    pub fn mmio_write(&self, address: u64, data: &[u8]) -> Option<Touched> {
        self.devices.iter().flatten().find_map(|device| device.mmio_write(address, data))
    }

    /// The slot and register that the address port has chosen, for an access to the data port that stays in one dword.
    fn selected(&self, port: u16, length: usize) -> Option<(usize, usize)> {
        let lane = usize::from(port.checked_sub(CONFIG_DATA)?);
        let address = self.address.load(Ordering::Relaxed);
        let on_bus_0 = address & ENABLE != 0 && address & 0x7FFF_0000 == 0;
        if !on_bus_0 || address & 0x700 != 0 || lane.saturating_add(length) > 4 {
            return None;
        }
        let register = usize::try_from(address & 0xFC).ok()?.saturating_add(lane);
        Some((usize::try_from(address >> 11 & 0x1F).ok()?, register))
    }

    fn config_read(&self, slot: usize, register: usize, data: &mut [u8]) {
        if slot == 0 {
            self.bridge.lock().unwrap_or_else(PoisonError::into_inner).read(register, data);
        } else if let Some(Some(device)) = self.devices.get(slot) {
            device.config_read(register, data);
        }
    }

    fn config_write(&self, slot: usize, register: usize, data: &[u8]) {
        if slot == 0 {
            self.bridge.lock().unwrap_or_else(PoisonError::into_inner).write(register, data);
        } else if let Some(Some(device)) = self.devices.get(slot) {
            device.config_write(register, data);
        }
    }
}

/// Slot and register of an ECAM access to function 0 of a device on bus 0 that stays in one dword, which is all that
/// software may count on (PCI Express 4.0, 7.2.2).
fn ecam(offset: u64, length: usize) -> Option<(usize, usize)> {
    let register = usize::try_from(offset & 0xFFF).ok()?;
    let inside = (register & 3).saturating_add(length) <= 4;
    let function_0 = offset & 0x7000 == 0 && offset >> 20 == 0;
    (inside && function_0).then_some((usize::try_from(offset >> 15).ok()?, register))
}
