//! The virtio-pci register machine under a guest that reads and writes it anywhere, in any width and any order, beside the
//! front end's thread that tells it what became of the device.
//!
//! Asserted after each step: what leaves is what may leave ([`Event`]), the rings of an active device lie in guest memory
//! and keep their registers, and no interrupt goes anywhere but to the local APICs.

use crate::Input;
use vmm_core::virtio_pci::{Activation, BAR_SIZE, DeviceType, Event, Machine, Offer, Source, VERSION_1};

/// Registers of the common configuration (virtio 1.3, 4.1.4.3), with the width of each.
const COMMON: [(u16, usize); 20] = [
    (0x00, 4),
    (0x04, 4),
    (0x08, 4),
    (0x0C, 4),
    (0x10, 2),
    (0x12, 2),
    (0x14, 1),
    (0x15, 1),
    (0x16, 2),
    (0x18, 2),
    (0x1A, 2),
    (0x1C, 2),
    (0x1E, 2),
    (0x20, 4),
    (0x24, 4),
    (0x28, 4),
    (0x2C, 4),
    (0x30, 4),
    (0x34, 4),
    (0x38, 4),
];

/// Where the BAR is at first.
const BAR: u64 = 0x40_0000_0000;

/// A device as the input describes it, then its accesses.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(kind) = DeviceType::new(u16::from(input.u8())) else { return };
    let offer = Offer {
        kind,
        features: VERSION_1 | input.u64(),
        queues: u16::from(input.u8() % 64) + 1,
        queue_size: 1 << (input.u8() % 11),
        config: vec![0x5A; usize::from(input.u8())],
        ram: vec![(0, 0xC000_0000), (1 << 32, 0x1000)],
    };
    let mut guest = Guest { offer: offer.clone(), machine: Machine::new(offer), active: None, resets: false };
    guest.machine.set_bar(BAR);
    while !input.is_empty() {
        guest.step(&mut input);
    }
}

struct Guest {
    offer: Offer,
    machine: Machine,
    /// What the back end was started with, until it is to stop.
    active: Option<Activation>,
    /// The back end is to stop.
    resets: bool,
}

impl Guest {
    fn step(&mut self, input: &mut Input<'_>) {
        let event = match input.u8() % 16 {
            0..=3 => {
                let (offset, width) = input.one_of(&COMMON).unwrap_or_default();
                self.write(offset.into(), width, input.u32().into())
            }
            4 => {
                let status = [0, 1, 3, 11, 15];
                let value = input.one_of(&status).unwrap_or_default();
                self.write(0x14, 1, value)
            }
            5..=6 => {
                let (offset, width) = (input.u16(), usize::from(input.u8() % 9));
                self.write(offset.into(), width, input.u64())
            }
            7 => self.write(0x4000 + u64::from(input.u8()) * 4, 4, input.u32().into()),
            8 => self.write(0x3000 + u64::from(input.u8()) * 4, 2, 0),
            9 => {
                let (offset, width) = (usize::from(input.u8()), usize::from(input.u8() % 9));
                let value = input.u64().to_le_bytes();
                self.machine.config_write(offset, value.get(..width).unwrap_or_default())
            }
            10 => self.read(u64::from(input.u16()), usize::from(input.u8() % 9)),
            11 => {
                let mut data = [0; 8];
                let width = usize::from(input.u8() % 9);
                self.machine.config_read(usize::from(input.u16()), data.get_mut(..width).unwrap_or_default());
                None
            }
            // What becomes of the device, by the thread of its front end.
            12 => {
                if self.resets {
                    self.machine.transport_mut().reset_done();
                    self.resets = false;
                }
                None
            }
            13 => {
                self.machine.transport_mut().fail();
                None
            }
            14 => {
                let config = input.bytes(self.offer.config.len()).to_vec();
                let config = [config, vec![0; self.offer.config.len()]].concat();
                let config = config.get(..self.offer.config.len()).unwrap_or_default().to_vec();
                self.machine.transport_mut().set_config(config);
                None
            }
            _ => {
                let pending = vec![Source::Config, Source::Queue(input.u8().into())];
                self.machine.transport_mut().set_pending(pending);
                None
            }
        };
        self.judge(event);
        self.check();
    }

    fn write(&mut self, offset: u64, width: usize, value: u64) -> Option<Event> {
        self.machine.bar_write(offset, value.to_le_bytes().get(..width).unwrap_or_default())
    }

    fn read(&mut self, offset: u64, width: usize) -> Option<Event> {
        let mut data = [0; 8];
        self.machine.bar_read(offset, data.get_mut(..width).unwrap_or_default());
        None
    }

    /// What a write asked for is what a guest may ask for now.
    fn judge(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Activate(activation)) => {
                assert!(self.active.is_none() && !self.resets, "started twice: {activation:?}");
                assert_eq!(activation.features & !self.offer.features, 0, "never offered");
                assert_ne!(activation.features & VERSION_1, 0, "a legacy driver");
                assert!(activation.rings.is_sorted_by_key(|ring| ring.index));
                for ring in &activation.rings {
                    assert!(ring.index < self.offer.queues && ring.lies_in(&self.offer.ram), "{ring:?}");
                    assert!(ring.size.is_power_of_two() && ring.size <= self.offer.queue_size, "{ring:?}");
                }
                self.active = Some(activation);
            }
            Some(Event::Reset) => {
                assert!(self.active.take().is_some(), "nothing to stop");
                self.resets = true;
            }
            Some(Event::Notify(queue)) => {
                let rings = self.active.iter().flat_map(|active| &active.rings);
                assert!(rings.into_iter().any(|ring| ring.index == queue), "no such ring: {queue}");
            }
            Some(Event::ConfigWrite { offset, data }) => {
                let end = usize::from(offset) + data.len();
                assert!(!data.is_empty() && data.len() <= 8 && end <= self.offer.config.len(), "{offset}");
            }
            Some(Event::Interrupts | Event::NeedsReset | Event::Decode) | None => {}
        }
    }

    /// What holds at any time.
    fn check(&mut self) {
        assert_eq!(self.machine.transport().is_resetting(), self.resets);
        for source in self.machine.transport().sources() {
            let Some((vector, message)) = self.machine.transport().message(source) else { continue };
            assert!(usize::from(vector) < self.machine.transport().vectors(), "{vector}");
            assert!(message.is_interrupt(), "{message:?}");
        }
        if let Some(decoded) = self.machine.decoded() {
            assert!(decoded.start.is_multiple_of(BAR_SIZE) && decoded.end - decoded.start == BAR_SIZE);
        }
        let Some(active) = &self.active else { return };
        // On a copy: looking selects a queue.
        let mut machine = self.machine.clone();
        for ring in active.rings.iter().take(2) {
            machine.bar_write(0x16, &ring.index.to_le_bytes());
            let mut read = |offset: u64, width: usize| {
                let mut data = [0; 8];
                machine.bar_read(offset, data.get_mut(..width).unwrap_or_default());
                u64::from_le_bytes(data)
            };
            assert_eq!((read(0x1C, 2), read(0x18, 2)), (1, ring.size.into()), "{ring:?}");
            assert_eq!((read(0x20, 8), read(0x28, 8)), (ring.descriptors, ring.available), "{ring:?}");
            assert_eq!(read(0x30, 8), ring.used, "{ring:?}");
        }
    }
}
