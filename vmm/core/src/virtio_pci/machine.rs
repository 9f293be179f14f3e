//! A virtio-pci function as its guest sees it: configuration space with its capabilities (virtio 1.3, 4.1.4), and the
//! BAR behind it. Pure, like [`Transport`]: this is what a fuzzer drives.

use super::layout::{self, BAR_SIZE, NOTIFY_MULTIPLIER};
use super::transport::{Event, Offer, Transport};
use crate::pci::config_space::{ConfigSpace, Identity};
use std::ops::Range;

const VENDOR: u16 = 0x1AF4;
/// Device id of virtio device type 0 (4.1.2.1).
const FIRST_DEVICE: u16 = 0x1040;

const CAPABILITY_MSIX: u8 = 0x11;
const CAPABILITY_VENDOR: u8 = 0x09;

/// `cfg_type` of the structures.
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;

/// Offsets in the capability for access through configuration space (4.1.4.9).
const WINDOW_BAR: usize = 4;
const WINDOW_OFFSET: usize = 8;
const WINDOW_LENGTH: usize = 12;
const WINDOW_DATA: usize = 16;

/// See above.
#[derive(Debug, Clone)]
pub struct Machine {
    config: ConfigSpace,
    transport: Transport,
    msix_at: usize,
    window_at: usize,
}

impl Machine {
    /// A function as after power-on, its BAR nowhere yet.
    #[must_use]
    pub fn new(offer: Offer) -> Self {
        let identity = Identity {
            vendor: VENDOR,
            device: FIRST_DEVICE.saturating_add(offer.kind.id),
            revision: 1,
            class: offer.kind.class,
            subsystem: FIRST_DEVICE.saturating_add(offer.kind.id),
        };
        let config_length = offer.config.len() as u64;
        let transport = Transport::new(offer);
        let mut config = ConfigSpace::new(identity);
        // The capabilities take 0x40 to 0xB0 and always fit.
        let msix_at = config.add_capability(CAPABILITY_MSIX, &msix_body(transport.vectors()), &[0, 0xC0]);
        for (kind, area) in [(CFG_COMMON, layout::COMMON), (CFG_ISR, layout::ISR)] {
            config.add_capability(CAPABILITY_VENDOR, &structure(kind, &area, &[]), &[]);
        }
        let notify = structure(CFG_NOTIFY, &layout::NOTIFY, &NOTIFY_MULTIPLIER.to_le_bytes());
        config.add_capability(CAPABILITY_VENDOR, &notify, &[]);
        if config_length > 0 {
            let area = layout::DEVICE.start..layout::DEVICE.start.saturating_add(config_length);
            config.add_capability(CAPABILITY_VENDOR, &structure(CFG_DEVICE, &area, &[]), &[]);
        }
        let mut writable = [0xFF; 18];
        for (index, byte) in writable.iter_mut().enumerate() {
            // bar, then offset, length and data; what the standard calls cap_len, cfg_type, id and padding stays
            if index.saturating_add(2) != WINDOW_BAR && index.saturating_add(2) < WINDOW_OFFSET {
                *byte = 0;
            }
        }
        let window = structure(CFG_PCI, &(0..0), &[0; 4]);
        let window_at = config.add_capability(CAPABILITY_VENDOR, &window, &writable);
        Self {
            config,
            transport,
            msix_at: msix_at.unwrap_or(usize::MAX),
            window_at: window_at.unwrap_or(usize::MAX),
        }
    }

    /// Places the BAR.
    pub fn set_bar(&mut self, address: u64) {
        self.config.set_bar(address, BAR_SIZE);
    }

    /// Where the BAR is decoded, if it is.
    #[must_use]
    pub fn decoded(&self) -> Option<Range<u64>> {
        let start = self.config.decoded()?;
        Some(start..start.checked_add(BAR_SIZE)?)
    }

    /// The registers.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The registers, for what is behind the device.
    pub fn transport_mut(&mut self) -> &mut Transport {
        &mut self.transport
    }

    /// Reads configuration space. Reading the window's data reads the BAR.
    pub fn config_read(&mut self, offset: usize, data: &mut [u8]) {
        if self.touches_window(offset, data.len())
            && let Some((at, length)) = self.window()
        {
            let mut word = [0; 4];
            self.transport.read(at, word.get_mut(..length).unwrap_or_default());
            self.config.write(self.window_at.saturating_add(WINDOW_DATA), &word);
        }
        self.config.read(offset, data);
    }

    /// Writes configuration space. Writing the window's data writes the BAR.
    pub fn config_write(&mut self, offset: usize, data: &[u8]) -> Option<Event> {
        let decoded = self.decoded();
        self.config.write(offset, data);
        if self.touches_window(offset, data.len())
            && let Some((at, length)) = self.window()
        {
            let word: [u8; 4] = self.config.take(self.window_at.saturating_add(WINDOW_DATA));
            return self.transport.write(at, word.get(..length).unwrap_or_default());
        }
        let control = u16::from_le_bytes(self.config.take(self.msix_at.saturating_add(2)));
        // A write of at most eight bytes reaches the header or the capability, never both.
        if self.transport.set_msix_control(control) {
            return Some(Event::Interrupts);
        }
        (decoded != self.decoded()).then_some(Event::Decode)
    }

    /// Reads the BAR.
    pub fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
        self.transport.read(offset, data);
    }

    /// Writes the BAR.
    pub fn bar_write(&mut self, offset: u64, data: &[u8]) -> Option<Event> {
        self.transport.write(offset, data)
    }

    fn touches_window(&self, offset: usize, length: usize) -> bool {
        let start = self.window_at.saturating_add(WINDOW_DATA);
        offset < start.saturating_add(4) && offset.saturating_add(length) > start
    }

    /// The offset in the BAR and the length of the window, if the driver set them as it must.
    fn window(&self) -> Option<(u64, usize)> {
        let [bar] = self.config.take(self.window_at.saturating_add(WINDOW_BAR));
        let offset = u32::from_le_bytes(self.config.take(self.window_at.saturating_add(WINDOW_OFFSET)));
        let length = u32::from_le_bytes(self.config.take(self.window_at.saturating_add(WINDOW_LENGTH)));
        let good = bar == 0 && matches!(length, 1 | 2 | 4) && offset.is_multiple_of(length);
        good.then_some((offset.into(), usize::try_from(length).ok()?))
    }
}

/// The MSI-X capability after its header: message control, table, pending bits (PCI 3.0, 6.8.2).
#[expect(clippy::cast_possible_truncation, reason = "at most 65 vectors, and offsets within the BAR")]
fn msix_body(vectors: usize) -> Vec<u8> {
    let control = (vectors as u16).saturating_sub(1);
    let table = layout::MSIX_TABLE.start as u32;
    let pending = layout::MSIX_PBA.start as u32;
    [&control.to_le_bytes()[..], &table.to_le_bytes(), &pending.to_le_bytes()].concat()
}

/// `struct virtio_pci_cap` after its header (4.1.4), with what some kinds append.
#[expect(clippy::cast_possible_truncation, reason = "offsets and lengths within the BAR")]
fn structure(kind: u8, area: &Range<u64>, more: &[u8]) -> Vec<u8> {
    let length = (more.len() as u8).saturating_add(16);
    let offset = area.start as u32;
    let size = area.end.saturating_sub(area.start) as u32;
    [&[length, kind, 0, 0, 0, 0][..], &offset.to_le_bytes(), &size.to_le_bytes(), more].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio_pci::{DeviceType, VERSION_1};

    fn machine() -> Machine {
        let mut machine = Machine::new(Offer {
            kind: DeviceType::new(2).unwrap(),
            features: VERSION_1,
            queues: 2,
            queue_size: 128,
            config: vec![0x5A; 60],
            ram: vec![(0, 1 << 20)],
        });
        machine.set_bar(0x40_0000_0000);
        machine
    }

    fn read32(machine: &mut Machine, offset: usize) -> u32 {
        let mut data = [0; 4];
        machine.config_read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Offsets of the capabilities by id and, for the vendor's, `cfg_type`.
    fn capabilities(machine: &mut Machine) -> Vec<(u8, u8, usize)> {
        let mut found = Vec::new();
        let mut at = read32(machine, 0x34) as usize & 0xFF;
        while at != 0 {
            let [id, next, _, kind] = read32(machine, at).to_le_bytes();
            found.push((id, if id == 9 { kind } else { 0 }, at));
            at = next.into();
        }
        found
    }

    #[test]
    fn a_driver_finds_every_structure() {
        let mut machine = machine();
        assert_eq!(read32(&mut machine, 0), 0x1042_1AF4);
        let found = capabilities(&mut machine);
        let kinds: Vec<_> = found.iter().map(|(id, kind, _)| (*id, *kind)).collect();
        assert_eq!(kinds, [(0x11, 0), (9, 1), (9, 3), (9, 2), (9, 4), (9, 5)]);
        let places: Vec<_> = found[1..5]
            .iter()
            .map(|(_, _, at)| (read32(&mut machine, at + 8), read32(&mut machine, at + 12)))
            .collect();
        assert_eq!(places, [(0, 60), (0x1000, 1), (0x3000, 0x1000), (0x2000, 60)]);
        assert_eq!(read32(&mut machine, found[3].2 + 16), 4, "the multiplier");
        assert_eq!(read32(&mut machine, found[0].2) >> 16, 2, "three vectors");
        assert_eq!(read32(&mut machine, found[0].2 + 4), 0x4000);
        assert_eq!(read32(&mut machine, found[0].2 + 8), 0x5000);
    }

    #[test]
    fn decoding_goes_on_moves_and_goes_off() {
        let mut machine = machine();
        assert_eq!(machine.decoded(), None);
        assert_eq!(machine.config_write(4, &[6, 0]), Some(Event::Decode));
        assert_eq!(machine.decoded(), Some(0x40_0000_0000..0x40_0000_8000));
        assert_eq!(machine.config_write(0x10, &0x8000_0000_u32.to_le_bytes()), Some(Event::Decode));
        assert_eq!(machine.decoded(), Some(0x40_8000_0000..0x40_8000_8000));
        assert_eq!(machine.config_write(4, &[2, 0]), None, "bus mastering alone");
        assert_eq!(machine.config_write(4, &[4, 0]), Some(Event::Decode));
        assert_eq!(machine.decoded(), None);
        machine.config_write(0x10, &[0xFF; 8]);
        machine.config_write(4, &[2, 0]);
        assert_eq!(machine.decoded(), None, "a BAR that would end beyond 2^64 is not decoded");
    }

    /// The bit is kept and not obeyed: what DMA hits is the guest's own memory, and the way to stop it is a reset.
    #[test]
    fn bus_mastering_is_a_bit_that_the_guest_keeps() {
        let mut machine = machine();
        machine.config_write(4, &[6, 0]);
        let queue = [(0x16, 0, 2), (0x18, 64, 2), (0x20, 0x1000, 4), (0x28, 0x2000, 4), (0x30, 0x3000, 4)];
        let agreed = [(0x14, 1, 1), (0x14, 3, 1), (0x08, 1, 4), (0x0C, 1, 4), (0x14, 11, 1)];
        let write = |machine: &mut Machine, (offset, value, width): (u64, u32, usize)| {
            machine.bar_write(offset, &value.to_le_bytes()[..width])
        };
        for register in agreed.into_iter().chain(queue).chain([(0x1C, 1, 2)]) {
            assert_eq!(write(&mut machine, register), None, "{register:?}");
        }
        assert!(matches!(write(&mut machine, (0x14, 15, 1)), Some(Event::Activate(_))));
        for command in [2, 6, 2] {
            assert_eq!(machine.config_write(4, &[command, 0]), None, "nothing stops and nothing starts");
            assert_eq!(read32(&mut machine, 4) & 0xFFFF, u32::from(command), "the guest reads it back");
            assert_eq!(write(&mut machine, (0x3000, 0, 2)), Some(Event::Notify(0)));
            let mut status = [0];
            machine.bar_read(0x14, &mut status);
            assert_eq!(status, [15]);
        }
        assert_eq!(write(&mut machine, (0x14, 0, 1)), Some(Event::Reset));
        machine.transport_mut().reset_done();
        assert_eq!(write(&mut machine, (0x3000, 0, 2)), None);
    }

    #[test]
    fn msix_control_is_an_event() {
        let mut machine = machine();
        let at = capabilities(&mut machine)[0].2;
        assert_eq!(machine.config_write(at + 2, &[0, 0x80]), Some(Event::Interrupts));
        assert_eq!(machine.config_write(at + 2, &[0, 0x80]), None);
        assert_eq!(machine.config_write(at + 3, &[0xC0]), Some(Event::Interrupts), "one byte will do");
        assert_eq!(read32(&mut machine, at) >> 16, 0xC002);
    }

    #[test]
    fn the_window_reaches_the_bar_and_refuses_nonsense() {
        let mut machine = machine();
        let at = capabilities(&mut machine)[5].2;
        let aim = |machine: &mut Machine, bar: u8, offset: u32, length: u32| {
            machine.config_write(at + 4, &[bar]);
            machine.config_write(at + 8, &offset.to_le_bytes());
            machine.config_write(at + 12, &length.to_le_bytes());
        };
        aim(&mut machine, 0, 0x14, 1);
        assert_eq!(machine.config_write(at + 16, &[1]), None);
        assert_eq!(read32(&mut machine, at + 16), 1, "the status took it");
        aim(&mut machine, 0, 0x2000, 2);
        assert_eq!(read32(&mut machine, at + 16), 0x5A5A);
        for (bar, offset, length) in
            [(1, 0x14, 1), (0, 0x15, 2), (0, 0x14, 8), (0, 0x14, 0), (0, 0x14, u32::MAX)]
        {
            aim(&mut machine, bar, offset, length);
            machine.config_write(at + 16, &[3]);
            aim(&mut machine, 0, 0x14, 1);
            assert_eq!(read32(&mut machine, at + 16), 1, "{bar} {offset:#x} {length}");
        }
        aim(&mut machine, 0, u32::MAX, 1);
        machine.config_read(at + 16, &mut [0; 4]);
    }
}
