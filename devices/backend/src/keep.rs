//! The keep: a page of memory that all processes of a device are handed, one after the other, for what of its state must
//! outlive them. The launcher makes it, seals it at its size, and neither maps nor reads it.
//!
//! It holds at most one record that counts: a version, and bytes that are the device's own. What is found there was
//! written by a predecessor, which may have been taken over: it is bytes to be parsed, like those of a guest. A checksum
//! tells a record from what a predecessor gone wild has left; it is no proof of who wrote it.
//!
//! # What a death leaves
//!
//! There are two slots, and a record is written to the one that does not hold the present one, by stores of one
//! instruction each which become visible in the order in which they are made: *sequence 0*, bytes, header, checksum,
//! *sequence*. A slot counts if its sequence is not 0 and its checksum is right, and of two the one whose sequence is the
//! later; sequences wrap, so that there is none that cannot be followed. So a death before the last store leaves the
//! record before as it was, beside a slot whose sequence is 0, and a death after it the new one: at every instant there
//! is one whole record, the old or the new, and never a mixture, and for that nothing hangs on the checksum. The test
//! steps through every store of two processes in a row, and shows that it would find stores that are swapped.
//!
//! Two processes have the page at once while one replaces the other. The new one reads before that, and writes only from
//! when it has the rings, which the old one has given back by then. What an old one that lies about that writes at the
//! same time is not a record, or one like any other that it could have written before.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::limits::KEEP_SIZE;
use vm_memory::{FileOffset, MmapRegion};

use crate::Error;
use crate::inflight::{Part, Words};
use crate::memory::{Unsealed, check_file};

const SLOT: usize = KEEP_SIZE / 2;
const WORD: usize = size_of::<u64>();
/// Bytes of the longest state.
pub(crate) const MAX_STATE: usize = SLOT - slot::STATE;

/// Offsets in a slot.
mod slot {
    pub(super) const SEQUENCE: usize = 0;
    /// Version in the low half of the low half, length of the state in the high one.
    pub(super) const HEADER: usize = 8;
    pub(super) const CHECKSUM: usize = 16;
    pub(super) const STATE: usize = 24;
}

/// What a device wants to outlive its process. Its meaning is the device's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Of the format of the bytes: a program that does not know it begins anew.
    pub version: u16,
    /// At most 2,024.
    pub state: Vec<u8>,
}

/// See above.
pub(crate) struct Keep<W> {
    words: W,
}

/// A device's way to its keep for a state that changes while a request is handled, on a queue's thread.
#[derive(Clone)]
pub struct Keeper(Arc<Mutex<Keep<Part>>>);

impl Keeper {
    pub(crate) fn new(keep: Keep<Part>) -> Self {
        Self(Arc::new(Mutex::new(keep)))
    }

    /// Keeps `kept` in the place of what was kept before. When this returns the change is kept.
    ///
    /// # Errors
    /// A state that is too long.
    pub fn keep(&self, kept: &Kept) -> Result<(), Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(kept)
    }

    pub(crate) fn read(&self) -> Option<Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).read()
    }
}

/// A record that was found whole.
struct Found {
    slot: usize,
    sequence: u64,
    kept: Kept,
}

impl Found {
    fn follows(&self, other: &Found) -> bool {
        self.sequence.wrapping_sub(other.sequence) <= u64::MAX / 2
    }
}

impl Keep<Part> {
    /// Maps what `Keep` brought. The launcher is trusted, but its memory is checked as everybody's.
    pub(crate) fn map(fd: OwnedFd) -> Result<Self, Error> {
        check_file(&fd, 0, u64::try_from(KEEP_SIZE).unwrap_or(u64::MAX), Unsealed::Refuse)?;
        let mapping = MmapRegion::from_file(FileOffset::new(File::from(fd), 0), KEEP_SIZE)
            .map_err(|error| Error::RegionMap { guest: 0, reason: error.to_string() })?;
        Ok(Self { words: Part::whole(mapping, KEEP_SIZE) })
    }
}

impl<W: Words> Keep<W> {
    /// The record that counts.
    pub(crate) fn read(&self) -> Option<Kept> {
        self.find().map(|found| found.kept)
    }

    /// Puts another record in its place.
    pub(crate) fn write(&self, kept: &Kept) -> Result<(), Error> {
        let size = kept.state.len();
        let too_long = Error::State { size, limit: MAX_STATE };
        let length = u16::try_from(size).ok().filter(|_| size <= MAX_STATE).ok_or(too_long)?;
        let (at, sequence) = self.find().map_or((0, 1), |found| {
            (if found.slot == 0 { SLOT } else { 0 }, found.sequence.wrapping_add(1).max(1))
        });
        let header = u64::from(kept.version) | u64::from(length) << 16;
        self.store(at, slot::SEQUENCE, 0)?;
        for (position, bytes) in kept.state.chunks(WORD).enumerate() {
            self.store(at, slot::STATE.saturating_add(position.saturating_mul(WORD)), word(bytes))?;
        }
        self.store(at, slot::HEADER, header)?;
        self.store(at, slot::CHECKSUM, checksum(sequence, header, &kept.state))?;
        self.store(at, slot::SEQUENCE, sequence)
    }

    fn find(&self) -> Option<Found> {
        match (self.found(0), self.found(SLOT)) {
            (Some(one), Some(other)) => Some(if one.follows(&other) { one } else { other }),
            (one, other) => one.or(other),
        }
    }

    /// The record in one slot, if there is one.
    fn found(&self, slot: usize) -> Option<Found> {
        let load = |offset: usize| self.words.load::<u64>(slot.checked_add(offset)?);
        let sequence = load(slot::SEQUENCE).filter(|sequence| *sequence != 0)?;
        let header = load(slot::HEADER)?;
        let checked = load(slot::CHECKSUM)?;
        let [v0, v1, l0, l1, 0, 0, 0, 0] = header.to_le_bytes() else { return None };
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        if length > MAX_STATE {
            return None;
        }
        let mut state = Vec::with_capacity(length.next_multiple_of(WORD));
        while state.len() < length {
            state.extend(load(slot::STATE.saturating_add(state.len()))?.to_le_bytes());
        }
        state.truncate(length);
        let whole = checked == checksum(sequence, header, &state);
        whole.then_some(Found { slot, sequence, kept: Kept { version: u16::from_le_bytes([v0, v1]), state } })
    }

    fn store(&self, slot: usize, offset: usize, value: u64) -> Result<(), Error> {
        let outside = || Error::State { size: slot.saturating_add(offset), limit: KEEP_SIZE };
        self.words.store(slot.saturating_add(offset), value).ok_or_else(outside)
    }
}

/// Up to eight bytes, the first the lowest.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// FNV-1a of 64 bits.
fn checksum(sequence: u64, header: u64, state: &[u8]) -> u64 {
    let bytes = [sequence.to_le_bytes(), header.to_le_bytes()];
    bytes
        .as_flattened()
        .iter()
        .chain(state)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests;
