//! The verifying writer: a driver with as many requests in flight on both queues as fit, that knows of each slot of
//! the disk what must be there, and looks.
//!
//! Two writes to one slot are never in flight at once, so that there is one right content; but both queues write
//! all slots, and a descriptor is used again as soon as its request is back.

use std::fs::File;

use crate::core::{Core, RING};
use crate::front_end::driver::{BUFFERS, WRITE};
use crate::front_end::header_bytes;
use crate::image::{SLOT, SLOTS, Slot, content, prepare, verify, verify_on_disk};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
/// Descriptors of a request: header, data in two pieces, status.
const PIECES: u16 = 4;
const DEPTH: usize = (RING / PIECES) as usize;
const FIRST_PIECE: u32 = 1024;

/// What a request in flight is for.
enum Work {
    Write {
        slot: usize,
        sequence: u64,
    },
    Read {
        slot: usize,
    },
    /// With the newest write of each slot that was done when it began.
    Flush {
        done: Vec<u64>,
    },
}

/// A xorshift generator: the moments and choices of a run, by its seed.
pub struct Random(pub u64);

impl Random {
    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

pub struct Writer {
    pub core: Core,
    disk: File,
    slots: Vec<Slot>,
    /// By queue and place.
    inflight: Vec<Vec<Option<Work>>>,
    newest: u64,
    /// Requests that came back.
    pub completed: u64,
}

impl Writer {
    pub fn new(disk: File) -> Self {
        prepare(&disk);
        let core = Core::new();
        let inflight = core.queues.iter().map(|_| (0..DEPTH).map(|_| None).collect()).collect();
        Self { core, disk, slots: vec![Slot::default(); SLOTS], inflight, newest: 0, completed: 0 }
    }

    pub fn idle(&self) -> bool {
        self.inflight.iter().flatten().all(Option::is_none)
    }

    /// Fills both queues.
    pub fn submit(&mut self, random: &mut Random) -> Result<(), String> {
        for queue in 0..self.inflight.len() {
            let mut heads = Vec::new();
            for place in 0..DEPTH {
                if self.inflight[queue][place].is_none()
                    && let Some(work) = self.choose(random)?
                {
                    heads.push(self.describe(queue, place, &work));
                    self.inflight[queue][place] = Some(work);
                }
            }
            if !heads.is_empty() {
                self.core.memory.offer(&mut self.core.queues[queue], &heads);
            }
        }
        Ok(())
    }

    /// The next request, on a slot that nothing else is done to; the slot must be as it is known until now.
    fn choose(&mut self, random: &mut Random) -> Result<Option<Work>, String> {
        if random.below(10) == 0 {
            return Ok(Some(Work::Flush { done: self.slots.iter().map(|slot| slot.done).collect() }));
        }
        let slot = random.below(SLOTS as u64) as usize;
        let known = &mut self.slots[slot];
        if known.writing.is_some() || known.reading > 0 {
            return Ok(None);
        }
        verify_on_disk(&self.disk, slot, known)?;
        if random.below(5) == 0 {
            known.reading += 1;
            return Ok(Some(Work::Read { slot }));
        }
        self.newest += 1;
        known.writing = Some(self.newest);
        Ok(Some(Work::Write { slot, sequence: self.newest }))
    }

    /// Writes the request into guest memory and returns its head.
    fn describe(&self, queue: usize, place: usize, work: &Work) -> u16 {
        let (memory, at) = (&self.core.memory, buffer(queue, place));
        let (kind, slot, flags) = match work {
            Work::Write { slot, sequence } => {
                memory.put(at + 0x1000, &content(*slot, *sequence));
                (OUT, *slot, 0)
            }
            Work::Read { slot } => {
                memory.put(at + 0x1000, &[0xee; SLOT]);
                (IN, *slot, WRITE)
            }
            Work::Flush { .. } => (FLUSH, 0, 0),
        };
        memory.put(at, &header_bytes(kind, (slot * (SLOT / 512)) as u64));
        memory.put(at + 0x800, &[0xff]);
        let rest = SLOT as u32 - FIRST_PIECE;
        let data = [(at + 0x1000, FIRST_PIECE, flags), (at + 0x1000 + u64::from(FIRST_PIECE), rest, flags)];
        let data = if kind == FLUSH { &[][..] } else { &data[..] };
        let parts = [&[(at, 16, 0)], data, &[(at + 0x800, 1, WRITE)]].concat();
        let head = place as u16 * PIECES;
        memory.chain(self.core.queues[queue].table(), head, &parts);
        head
    }

    /// Takes back all that the device has done, and checks it. Returns how many there were.
    pub fn complete(&mut self) -> Result<usize, String> {
        let before = self.completed;
        for queue in 0..self.inflight.len() {
            while let Some((head, length)) = self.core.memory.take_used(&mut self.core.queues[queue]) {
                self.completed += 1;
                let place = head as usize / usize::from(PIECES);
                let work = self.inflight[queue].get_mut(place).and_then(Option::take);
                let Some(work) = work.filter(|_| head % u32::from(PIECES) == 0) else {
                    return Err(format!("queue {queue}: head {head} came back and was not in flight"));
                };
                self.check(queue, place, work, length)?;
            }
        }
        Ok((self.completed - before) as usize)
    }

    fn check(&mut self, queue: usize, place: usize, work: Work, length: u32) -> Result<(), String> {
        let at = buffer(queue, place);
        let status = self.core.memory.look(at + 0x800, 1)[0];
        let expected = if matches!(work, Work::Read { .. }) { SLOT as u32 + 1 } else { 1 };
        if (status, length) != (0, expected) {
            return Err(format!("queue {queue}, place {place}: status {status}, {length} bytes written"));
        }
        match work {
            Work::Write { slot, sequence } => {
                let known = &mut self.slots[slot];
                (known.done, known.writing, known.seen) = (sequence, None, false);
                verify_on_disk(&self.disk, slot, known)
            }
            Work::Read { slot } => {
                self.slots[slot].reading -= 1;
                verify(slot, self.slots[slot], &self.core.memory.look(at + 0x1000, SLOT))
            }
            Work::Flush { done } => {
                for (slot, done) in self.slots.iter_mut().zip(done) {
                    slot.flushed = slot.flushed.max(done);
                }
                self.verify_all(|slot| slot.writing.is_none())
            }
        }
    }

    /// Looks at every slot that is `wanted`. One with a write in flight can only be looked at when no device runs.
    pub fn verify_all(&mut self, wanted: impl Fn(&Slot) -> bool) -> Result<(), String> {
        for (slot, known) in self.slots.iter_mut().enumerate().filter(|(_, known)| wanted(known)) {
            verify_on_disk(&self.disk, slot, known)?;
        }
        Ok(())
    }
}

fn buffer(queue: usize, place: usize) -> u64 {
    BUFFERS + (queue * DEPTH + place) as u64 * 0x4000
}
