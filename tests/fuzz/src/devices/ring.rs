//! A split ring as the input lays it out (virtio 1.2, §2.7), and what its device made of it.

use crate::Input;
use device_backend::direct::DirectRing;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes of guest memory.
pub const MEMORY: u64 = ZEROES.len() as u64;

/// All of it, before the driver has written anything.
static ZEROES: [u8; 1 << 18] = [0; 1 << 18];

pub const DESCRIPTORS: u64 = 0;
pub const AVAILABLE: u64 = 0x1000;
pub const USED: u64 = 0x2000;
/// From here on are the buffers, and tables that descriptors point to, if they do.
pub const BUFFERS: u64 = 0x4000;
/// Where an answer goes to that is asked for alone.
pub const ANSWER: u64 = 0x2_0000;
pub const WRITE: u16 = 2;
pub const NEXT: u16 = 1;
const INDIRECT: u16 = 4;

#[derive(Clone, Copy)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

/// What the driver has made available.
pub struct Driver {
    /// On this queue.
    pub queue: u16,
    /// Accepted.
    pub features: u64,
    /// Where it is.
    pub ring: DirectRing,
    descriptors: Vec<Descriptor>,
    available: u16,
    /// No descriptor reaches where the ring itself lies, or is a table of others: what was written can be counted.
    plain: bool,
}

impl Driver {
    /// Writes the ring and the buffers into `memory`; `None` if that cannot be written.
    pub fn lay_out(data: &[u8], queues: u16, memory: &File) -> Option<Self> {
        let mut input = Input::new(data);
        let queue = u16::from(input.u8()).checked_rem(queues)?;
        let features = input.u64();
        let size = 1_u16 << (input.u8() % 7);
        let mut driver = Self {
            queue,
            features,
            ring: DirectRing { size, descriptors: DESCRIPTORS, available: AVAILABLE, used: USED },
            descriptors: Vec::new(),
            available: 0,
            plain: true,
        };
        memory.write_all_at(&ZEROES, 0).ok()?;
        for place in 0..u16::from(input.u8()) % (size + 1) {
            driver.descriptor(&mut input, place);
        }
        let table: Vec<u8> = driver.descriptors.iter().flat_map(Descriptor::bytes).collect();
        memory.write_all_at(&table, DESCRIPTORS).ok()?;
        let count = input.u8();
        // Wrong for once: an index that jumped.
        driver.available = if count == 0xFF { input.u16() } else { count.into() };
        let heads = (0..count).flat_map(|_| u16::from(input.u8()).to_le_bytes());
        let heads: Vec<u8> = heads.take(usize::from(size) * 2).collect();
        let ring = [&0_u16.to_le_bytes()[..], &driver.available.to_le_bytes(), &heads].concat();
        memory.write_all_at(&ring, AVAILABLE).ok()?;
        memory.write_all_at(input.rest(), BUFFERS).ok()?;
        Some(driver)
    }

    fn descriptor(&mut self, input: &mut Input<'_>, place: u16) {
        let form = input.u8();
        let flags = u16::from(form & 7);
        let (address, length) = match form >> 6 {
            0 | 1 => (BUFFERS + u64::from(input.u8()) * 256, u32::from(input.u8()) + 1),
            2 => (BUFFERS + u64::from(input.u8()) * 256, u32::from(input.u16())),
            _ => (input.u64(), input.u32()),
        };
        let next = if form & 8 == 0 { place + 1 } else { u16::from(input.u8()) };
        self.plain &= flags & INDIRECT == 0 && address >= BUFFERS;
        self.descriptors.push(Descriptor { address, length, flags, next });
    }

    /// The used ring says no more than what was written, of nothing but what was available.
    pub fn judge(&self, memory: &File, served: bool) {
        if !self.plain {
            return;
        }
        let size = usize::from(self.ring.size);
        let mut used = vec![0; 4 + size * 8];
        if memory.read_exact_at(&mut used, USED).is_err() {
            return;
        }
        let (head, elements) = used.split_at(4);
        let index = head.get(2..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes);
        assert!(index <= self.available, "{index} used of {} available", self.available);
        assert!(served || usize::from(index) <= size, "{index} used of a ring of {size}");
        for element in elements.chunks_exact(8).take(index.into()) {
            let word = |at: usize| {
                let bytes = element.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
                bytes.map_or(0, u32::from_le_bytes)
            };
            let (head, written) = (word(0), word(4));
            let room = self.room(head);
            assert!(u64::from(written) <= room, "{written} bytes written into {room}, head {head}");
        }
    }

    /// Bytes that the chain at `head` lets be written.
    fn room(&self, head: u32) -> u64 {
        let mut room = 0;
        let mut at = usize::try_from(head).unwrap_or(usize::MAX);
        assert!(at < usize::from(self.ring.size), "head {at} is beyond the ring");
        for _ in 0..self.ring.size {
            let Some(descriptor) = self.descriptors.get(at) else { break };
            if descriptor.flags & WRITE != 0 {
                room += u64::from(descriptor.length);
            }
            if descriptor.flags & NEXT == 0 {
                break;
            }
            at = descriptor.next.into();
        }
        room
    }
}

impl Descriptor {
    fn bytes(&self) -> Vec<u8> {
        let Self { address, length, flags, next } = self;
        [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()]
            .concat()
    }
}
