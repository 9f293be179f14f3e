//! The registers of a modern virtio-pci function (virtio 1.3, 2.1 and 4.1.4) as a pure state machine: no descriptor, no
//! guest memory, no input or output, no time.
//!
//! Invariants: an access of any offset and length is answered; a write that a driver may not make changes nothing; a
//! queue's registers do not change from `queue_enable` to reset; only rings that were checked against guest memory
//! leave in an [`Activation`]; after a reset of an active device the status reads non-zero, and writes are ignored,
//! until [`Transport::reset_done`] says that the back end has stopped.

use super::device_type::{DeviceType, PLUGGED_SIZE};
use super::layout::{self, Area};
use super::msix::Msix;
use super::queue::{NO_VECTOR, QueueRegisters, Ram, Ring};
use super::status::{self, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FAILED, FEATURES_OK};
use crate::interrupts::MsiMessage;

/// VIRTIO_F_VERSION_1: no legacy driver.
pub const VERSION_1: u64 = 1 << 32;

const ISR_CONFIG: u8 = 2;

/// Largest write to the device configuration.
const MAX_CONFIG_WRITE: usize = 8;

/// What a function is made of, as agreed with its back end.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The device type.
    pub kind: DeviceType,
    /// Features offered to the driver.
    pub features: u64,
    /// The number of queues, at most 64.
    pub queues: u16,
    /// The largest size of each, a power of two.
    pub queue_size: u16,
    /// The device configuration.
    pub config: Vec<u8>,
    /// Where guest memory is.
    pub ram: Ram,
}

/// What a back end must know to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    /// Features that the driver accepted.
    pub features: u64,
    /// The enabled queues, their addresses checked.
    pub rings: Vec<Ring>,
}

/// What a write asks of those who hold descriptors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The driver is set up: start the back end.
    Activate(Activation),
    /// Stop the back end, then call [`Transport::reset_done`].
    Reset,
    /// A queue has work, and no ioeventfd saw it.
    Notify(u16),
    /// The driver wrote the device configuration.
    ConfigWrite {
        /// Offset in it.
        offset: u16,
        /// Its new bytes.
        data: Vec<u8>,
    },
    /// What [`Transport::message`] says may have changed.
    Interrupts,
    /// The device has failed: tell the driver by a configuration interrupt.
    NeedsReset,
    /// The BAR is decoded elsewhere, no longer or again.
    Decode,
}

/// Who raises an interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A change of the device configuration.
    Config,
    /// Used buffers of a queue.
    Queue(u16),
}

/// See above.
#[derive(Debug, Clone)]
pub struct Transport {
    offer: Offer,
    msix: Msix,
    pending: Vec<Source>,
    status: u8,
    resetting: bool,
    active: bool,
    isr: u8,
    generation: u8,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
}

impl Transport {
    /// A function as after power-on.
    #[must_use]
    pub fn new(offer: Offer) -> Self {
        let queues = vec![QueueRegisters::new(offer.queue_size); offer.queues.into()];
        Self {
            msix: Msix::new(offer.queues.saturating_add(1)),
            pending: Vec::new(),
            status: 0,
            resetting: false,
            active: false,
            isr: 0,
            generation: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
            queues,
            offer,
        }
    }

    /// Reads from `offset` of the BAR. Reading the ISR clears it; nothing else has an effect.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let (area, at) = layout::area(offset);
        match area {
            Area::Common => copy(&self.common(), at, data),
            Area::Isr => copy(&[std::mem::take(&mut self.isr)], at, data),
            Area::DeviceConfig => copy(&self.offer.config, at, data),
            Area::MsixTable => self.msix.read(at, data),
            Area::MsixPba => copy(&self.pending_bits(), at, data),
            Area::Notify | Area::Gap => {}
        }
    }

    /// Writes to `offset` of the BAR.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Option<Event> {
        let (area, at) = layout::area(offset);
        match area {
            Area::Common => self.write_common(at, data),
            Area::DeviceConfig => self.write_config(at, data),
            Area::Notify => self.notify(at),
            Area::MsixTable => self.msix.write(at, data).then_some(Event::Interrupts),
            Area::Isr | Area::MsixPba | Area::Gap => None,
        }
    }

    /// The back end has stopped: a reset that waited for it is done.
    pub fn reset_done(&mut self) {
        if self.resetting {
            self.resetting = false;
            self.status = 0;
        }
    }

    /// Whether a reset waits for the back end.
    #[must_use]
    pub fn is_resetting(&self) -> bool {
        self.resetting
    }

    /// The device cannot go on (2.1.2). Says whether the driver is to be told by an interrupt.
    pub fn fail(&mut self) -> bool {
        let told = self.status & DEVICE_NEEDS_RESET != 0;
        self.status |= DEVICE_NEEDS_RESET;
        self.isr |= ISR_CONFIG;
        !told && !self.resetting && self.status & DRIVER_OK != 0
    }

    /// The back end's configuration, which may be another than before. Says whether the driver is to be told.
    pub fn set_config(&mut self, config: Vec<u8>) -> bool {
        if config == self.offer.config {
            return false;
        }
        self.offer.config = config;
        self.generation = self.generation.wrapping_add(1);
        self.isr |= ISR_CONFIG;
        self.status & DRIVER_OK != 0
    }

    /// `plugged_size` is this now (virtio 1.2, 5.15.4). No change that a driver is told of: it has made it.
    pub fn show_plugged(&mut self, bytes: u64) {
        if let Some(field) = self.offer.config.get_mut(PLUGGED_SIZE) {
            field.copy_from_slice(&bytes.to_le_bytes());
        }
    }

    /// The back end offers no more than this any more. What the driver has accepted stays.
    pub fn narrow_features(&mut self, features: u64) {
        self.offer.features &= features;
    }

    /// The message control register of the MSI-X capability. Says whether it changed.
    pub fn set_msix_control(&mut self, control: u16) -> bool {
        self.msix.set_control(control)
    }

    /// Vectors of the MSI-X table.
    #[must_use]
    pub fn vectors(&self) -> usize {
        self.msix.vectors()
    }

    /// Everything that raises interrupts.
    pub fn sources(&self) -> impl Iterator<Item = Source> + use<> {
        std::iter::once(Source::Config).chain((0..self.offer.queues).map(Source::Queue))
    }

    /// The vector of a source and what it is to write now: `None` while it is masked, disabled or has no vector.
    #[must_use]
    pub fn message(&self, source: Source) -> Option<(u16, MsiMessage)> {
        let vector = self.vector(source)?;
        self.msix.message(vector).map(|message| (vector, message))
    }

    /// Which sources hold an interrupt back; read as pending bits where their vector is masked.
    pub fn set_pending(&mut self, pending: Vec<Source>) {
        self.pending = pending;
    }

    fn vector(&self, source: Source) -> Option<u16> {
        match source {
            Source::Config => Some(self.config_vector),
            Source::Queue(index) => self.queues.get(usize::from(index)).map(|queue| queue.vector),
        }
    }

    fn pending_bits(&self) -> Vec<u8> {
        let mut bits = vec![0_u8; self.vectors().div_ceil(64).saturating_mul(8)];
        let vectors = self.pending.iter().filter_map(|source| self.vector(*source));
        for vector in vectors.filter(|vector| self.msix.is_masked(*vector)) {
            if let Some(byte) = bits.get_mut(usize::from(vector >> 3)) {
                *byte |= 1 << (vector & 7);
            }
        }
        bits
    }

    /// The structure of 4.1.4.3 as bytes.
    fn common(&self) -> Vec<u8> {
        let half = |features: u64, select: u32| match select {
            0 => low(features),
            1 => low(features >> 32),
            _ => 0,
        };
        let queue = self.queues.get(usize::from(self.queue_select));
        let word = |value: fn(&QueueRegisters) -> u16| queue.map_or(0, value).to_le_bytes();
        let address = |value: fn(&QueueRegisters) -> u64| queue.map_or(0, value).to_le_bytes();
        let notify_off = if queue.is_some() { self.queue_select } else { 0 };
        [
            &self.device_feature_select.to_le_bytes()[..],
            &half(self.offer.features, self.device_feature_select).to_le_bytes(),
            &self.driver_feature_select.to_le_bytes(),
            &half(self.driver_features, self.driver_feature_select).to_le_bytes(),
            &self.config_vector.to_le_bytes(),
            &self.offer.queues.to_le_bytes(),
            &[self.status, self.generation],
            &self.queue_select.to_le_bytes(),
            &word(|queue| queue.size),
            &word(|queue| queue.vector),
            &word(|queue| queue.enabled.into()),
            &notify_off.to_le_bytes(),
            &address(|queue| queue.descriptors),
            &address(|queue| queue.available),
            &address(|queue| queue.used),
            // queue_notify_data and queue_reset: their features are not offered
            &[0; 4],
        ]
        .concat()
    }

    /// Each field takes a write of its own width at its own offset, 64-bit ones by halves (4.1.3.1).
    fn write_common(&mut self, at: usize, data: &[u8]) -> Option<Event> {
        if self.resetting {
            return None;
        }
        match (at, data) {
            (0x14, &[value]) => return self.write_status(value),
            (at, &[a, b]) => return self.write_word(at, u16::from_le_bytes([a, b])),
            (0x00, &[a, b, c, d]) => self.device_feature_select = u32::from_le_bytes([a, b, c, d]),
            (0x08, &[a, b, c, d]) => self.driver_feature_select = u32::from_le_bytes([a, b, c, d]),
            (0x0C, &[a, b, c, d]) => self.write_features(u32::from_le_bytes([a, b, c, d])),
            (at, &[a, b, c, d]) => self.write_address(at, u32::from_le_bytes([a, b, c, d])),
            _ => {}
        }
        None
    }

    fn write_word(&mut self, at: usize, value: u16) -> Option<Event> {
        let vector = if usize::from(value) < self.vectors() { value } else { NO_VECTOR };
        match at {
            0x10 => self.config_vector = vector,
            0x16 => self.queue_select = value,
            0x18 => self.configurable_queue()?.set_size(value),
            0x1A => self.queues.get_mut(usize::from(self.queue_select))?.vector = vector,
            0x1C if value == 1 => self.configurable_queue()?.enabled = true,
            _ => {}
        }
        matches!(at, 0x10 | 0x1A).then_some(Event::Interrupts)
    }

    fn write_features(&mut self, value: u32) {
        let agreed = self.status & (FEATURES_OK | FAILED) != 0;
        let value = u64::from(value);
        match self.driver_feature_select {
            0 if !agreed => self.driver_features = self.driver_features & !0xFFFF_FFFF | value,
            1 if !agreed => self.driver_features = self.driver_features & 0xFFFF_FFFF | value << 32,
            _ => {}
        }
    }

    fn write_address(&mut self, at: usize, value: u32) {
        let Some(queue) = self.configurable_queue() else { return };
        let (register, high) = match at {
            0x20 | 0x24 => (&mut queue.descriptors, at == 0x24),
            0x28 | 0x2C => (&mut queue.available, at == 0x2C),
            0x30 | 0x34 => (&mut queue.used, at == 0x34),
            _ => return,
        };
        let value = u64::from(value);
        *register =
            if high { *register & 0xFFFF_FFFF | value << 32 } else { *register & !0xFFFF_FFFF | value };
    }

    /// The selected queue, between FEATURES_OK and DRIVER_OK (3.1.1) and not yet enabled.
    fn configurable_queue(&mut self) -> Option<&mut QueueRegisters> {
        let stage = self.status & (DRIVER | FEATURES_OK | DRIVER_OK | FAILED | DEVICE_NEEDS_RESET);
        if stage != DRIVER | FEATURES_OK {
            return None;
        }
        self.queues.get_mut(usize::from(self.queue_select)).filter(|queue| !queue.enabled)
    }

    fn write_status(&mut self, value: u8) -> Option<Event> {
        if value == 0 {
            return self.reset();
        }
        let mut added = status::added(self.status, value)?;
        if added & FEATURES_OK != 0 && !self.features_are_good() {
            // Refused (3.1.1, step 6): the driver reads the bit back as 0.
            added &= !(FEATURES_OK | DRIVER_OK);
        }
        self.status |= added;
        if added & DRIVER_OK == 0 { None } else { self.activate() }
    }

    fn features_are_good(&self) -> bool {
        self.driver_features & !self.offer.features == 0 && self.driver_features & VERSION_1 != 0
    }

    fn activate(&mut self) -> Option<Event> {
        let enabled = (0..).zip(&self.queues).filter(|(_, queue)| queue.enabled);
        let rings: Vec<Ring> = enabled.map(|(index, queue)| queue.ring(index)).collect();
        if self.status & DEVICE_NEEDS_RESET != 0 || !rings.iter().all(|ring| ring.lies_in(&self.offer.ram)) {
            self.fail();
            return Some(Event::NeedsReset);
        }
        self.active = true;
        Some(Event::Activate(Activation { features: self.driver_features, rings }))
    }

    fn reset(&mut self) -> Option<Event> {
        self.resetting = std::mem::take(&mut self.active);
        if !self.resetting {
            self.status = 0;
        }
        self.isr = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.config_vector = NO_VECTOR;
        self.queue_select = 0;
        self.queues.iter_mut().for_each(QueueRegisters::reset);
        Some(if self.resetting { Event::Reset } else { Event::Interrupts })
    }

    /// The driver's write is on its way to the back end, for whose answer no vCPU waits, and is shown at once. But for a
    /// write cache that is to be switched off: it is shown as on until the back end says that it is off, for a driver that
    /// sees it off takes each write that it makes from then on to be durable when it is answered (5.2.6.2).
    fn write_config(&mut self, at: usize, data: &[u8]) -> Option<Event> {
        if self.resetting || self.status & DRIVER == 0 || data.is_empty() || data.len() > MAX_CONFIG_WRITE {
            return None;
        }
        let end = at.checked_add(data.len())?;
        let cache = self.offer.kind.write_cache_at;
        for ((place, shown), written) in (at..).zip(self.offer.config.get_mut(at..end)?).zip(data) {
            *shown = if Some(place) == cache { *shown | written } else { *written };
        }
        Some(Event::ConfigWrite { offset: u16::try_from(at).ok()?, data: data.to_vec() })
    }

    fn notify(&self, at: usize) -> Option<Event> {
        let step = usize::try_from(layout::NOTIFY_MULTIPLIER).ok()?;
        let index = at.checked_div(step).filter(|_| at.is_multiple_of(step))?;
        let running = self.active && self.queues.get(index)?.enabled;
        running.then_some(Event::Notify(u16::try_from(index).ok()?))
    }
}

/// Copies what there is of `from`, from `at` on.
fn copy(from: &[u8], at: usize, to: &mut [u8]) {
    for (byte, found) in to.iter_mut().zip(from.iter().skip(at)) {
        *byte = *found;
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn low(value: u64) -> u32 {
    value as u32
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
