//! The in-flight area: which requests a ring has taken and not yet given back, kept in memory that outlives this
//! process (vhost-user, "Inflight I/O tracking", split rings). After a crash the next device program finds
//! there what to do again.
//!
//! The area belongs to the front end, which may write anything there at any time: whatever is read is checked,
//! and nothing read from it is used as an index without a bound.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use vhost::vhost_user::message::VhostUserInflight;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use crate::Error;
use crate::memory::{Unsealed, check_file};

/// Bytes in front of the descriptor states, and of one descriptor state.
const HEADER: usize = 16;
const STATE: usize = 16;
/// Where each ring's part begins is a multiple of this.
const ALIGNMENT: usize = 64;
const VERSION: u16 = 1;

/// Offsets in the header.
mod header {
    pub(super) const VERSION: usize = 8;
    pub(super) const DESC_NUM: usize = 10;
    pub(super) const LAST_BATCH_HEAD: usize = 12;
    pub(super) const USED_IDX: usize = 14;
}

/// Offsets in a descriptor state.
mod state {
    pub(super) const INFLIGHT: usize = 0;
    pub(super) const NEXT: usize = 6;
    pub(super) const COUNTER: usize = 8;
}

/// Bytes for one ring of `queue_size`.
fn ring_size(queue_size: u16) -> usize {
    STATE.saturating_mul(queue_size.into()).saturating_add(HEADER).next_multiple_of(ALIGNMENT)
}

/// A mapped area for all rings of a device.
#[derive(Clone)]
pub(crate) struct InflightArea {
    mapping: Arc<MmapRegion>,
    queues: u16,
    queue_size: u16,
}

impl InflightArea {
    /// Maps what SET_INFLIGHT_FD brought.
    pub(crate) fn map(
        description: &VhostUserInflight,
        fd: OwnedFd,
        unsealed: Unsealed,
    ) -> Result<Self, Error> {
        let VhostUserInflight { mmap_size, mmap_offset, num_queues, queue_size } = *description;
        let too_small = || Error::InflightSize { size: mmap_size, queues: num_queues, queue_size };
        let size = usize::try_from(mmap_size).map_err(|_| too_small())?;
        if ring_size(queue_size).saturating_mul(num_queues.into()) > size {
            return Err(too_small());
        }
        let end = mmap_offset.checked_add(mmap_size).ok_or_else(too_small)?;
        check_file(&fd, mmap_offset, end, unsealed)?;
        let mapping = MmapRegion::from_file(FileOffset::new(File::from(fd), mmap_offset), size)
            .map_err(|error| Error::RegionMap { guest: mmap_offset, reason: error.to_string() })?;
        Ok(Self { mapping: Arc::new(mapping), queues: num_queues, queue_size })
    }

    /// The part of ring `index`, if the area has one for a ring of `queue_size`.
    pub(crate) fn ring(&self, index: u16, queue_size: u16) -> Result<InflightRing, Error> {
        if index >= self.queues || queue_size > self.queue_size {
            return Err(Error::Inflight { index, what: "it was made for fewer or shorter rings" });
        }
        let offset = ring_size(self.queue_size).saturating_mul(index.into());
        Ok(InflightRing { area: self.clone(), offset, index, queue_size, counter: 0 })
    }
}

/// An area that we hand out on GET_INFLIGHT_FD. Made while memfd_create is still allowed.
pub(crate) struct InflightFile {
    fd: OwnedFd,
    mapping: MmapRegion,
}

impl InflightFile {
    /// Room for `queues` rings of `queue_size`, sealed at that size.
    pub(crate) fn create(queues: u16, queue_size: u16) -> Result<Self, Error> {
        let size = ring_size(queue_size).saturating_mul(queues.into());
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = memfd_create("inflight", flags).map_err(Error::system("create the in-flight area"))?;
        let length = i64::try_from(size).unwrap_or(i64::MAX);
        ftruncate(&fd, length).map_err(Error::system("size the in-flight area"))?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).map_err(Error::system("seal the in-flight area"))?;
        let unmapped = |reason: String| Error::RegionMap { guest: 0, reason };
        let file = File::from(fd.try_clone().map_err(|error| unmapped(error.to_string()))?);
        let mapping = MmapRegion::from_file(FileOffset::new(file, 0), size);
        Ok(Self { fd, mapping: mapping.map_err(|error| unmapped(error.to_string()))? })
    }

    /// Empties the area and describes it for `asked`.
    pub(crate) fn describe(&self, asked: &VhostUserInflight) -> Result<VhostUserInflight, Error> {
        let (queues, queue_size) = (asked.num_queues, asked.queue_size);
        let needed = ring_size(queue_size).saturating_mul(queues.into());
        let size = u64::try_from(needed).unwrap_or(u64::MAX);
        let too_small = || Error::InflightSize { size, queues, queue_size };
        let part = self.mapping.get_slice(0, needed).map_err(|_| too_small())?;
        part.write_slice(&vec![0; needed], 0).map_err(|_| too_small())?;
        Ok(VhostUserInflight::new(size, 0, queues, queue_size))
    }
}

impl AsFd for InflightFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One ring's part of the area.
pub(crate) struct InflightRing {
    area: InflightArea,
    offset: usize,
    index: u16,
    queue_size: u16,
    counter: u64,
}

impl InflightRing {
    /// What a predecessor left: the heads to do again, in the order in which they were taken. `used_idx` is the
    /// ring's own, which tells whether the predecessor died between giving a request back and noting it.
    pub(crate) fn recover(&mut self, used_idx: u16) -> Result<Vec<u16>, Error> {
        let version: u16 = self.load(header::VERSION)?;
        if version == 0 {
            self.store(header::DESC_NUM, self.queue_size)?;
            self.store(header::USED_IDX, used_idx)?;
            self.store(header::VERSION, VERSION)?;
            return Ok(Vec::new());
        }
        if version != VERSION || self.load::<u16>(header::DESC_NUM)? != self.queue_size {
            return Err(self.inconsistent("its version or its ring size is not ours"));
        }
        if self.load::<u16>(header::USED_IDX)? != used_idx {
            // One request at a time is given back, so at most one is noted as in flight that is not.
            let head = self.load::<u16>(header::LAST_BATCH_HEAD)?;
            self.store(self.state(head)?.saturating_add(state::INFLIGHT), 0u8)?;
            self.store(header::USED_IDX, used_idx)?;
        }
        let mut taken = Vec::new();
        for head in 0..self.queue_size {
            let at = self.state(head)?;
            if self.load::<u8>(at.saturating_add(state::INFLIGHT))? == 1 {
                let counter: u64 = self.load(at.saturating_add(state::COUNTER))?;
                taken.push((counter, head));
            }
        }
        taken.sort_unstable();
        self.counter = taken.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        Ok(taken.into_iter().map(|(_, head)| head).collect())
    }

    /// Before the first step of a request is done.
    pub(crate) fn taken(&mut self, head: u16) -> Result<(), Error> {
        let at = self.state(head)?;
        self.store(at.saturating_add(state::COUNTER), self.counter)?;
        self.counter = self.counter.wrapping_add(1);
        self.store(at.saturating_add(state::INFLIGHT), 1u8)
    }

    /// Before the used index moves.
    pub(crate) fn giving_back(&self, head: u16) -> Result<(), Error> {
        let last: u16 = self.load(header::LAST_BATCH_HEAD)?;
        self.store(self.state(head)?.saturating_add(state::NEXT), last)?;
        self.store(header::LAST_BATCH_HEAD, head)
    }

    /// After the used index has moved to `used_idx`.
    pub(crate) fn given_back(&self, head: u16, used_idx: u16) -> Result<(), Error> {
        self.store(self.state(head)?.saturating_add(state::INFLIGHT), 0u8)?;
        self.store(header::USED_IDX, used_idx)
    }

    /// Offset of the state of `head` within this ring's part.
    fn state(&self, head: u16) -> Result<usize, Error> {
        if head >= self.queue_size {
            return Err(self.inconsistent("it names a descriptor beyond the ring"));
        }
        Ok(STATE.saturating_mul(head.into()).saturating_add(HEADER))
    }

    fn load<T: vm_memory::AtomicAccess>(&self, at: usize) -> Result<T, Error> {
        self.slice()
            .load(self.offset.saturating_add(at), Ordering::Acquire)
            .map_err(|_| self.inconsistent("it is too short"))
    }

    /// Release: whoever reads the area after our death sees the stores in the order in which they are made.
    fn store<T: vm_memory::AtomicAccess>(&self, at: usize, value: T) -> Result<(), Error> {
        self.slice()
            .store(value, self.offset.saturating_add(at), Ordering::Release)
            .map_err(|_| self.inconsistent("it is too short"))
    }

    fn slice(&self) -> VolatileSlice<'_> {
        self.area.mapping.as_volatile_slice()
    }

    fn inconsistent(&self, what: &'static str) -> Error {
        Error::Inflight { index: self.index, what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(queues: u16, size: u16) -> InflightArea {
        let file = InflightFile::create(queues, size).unwrap();
        let description = file.describe(&VhostUserInflight::new(0, 0, queues, size)).unwrap();
        InflightArea::map(&description, file.fd.try_clone().unwrap(), Unsealed::Refuse).unwrap()
    }

    #[test]
    fn what_was_taken_and_not_given_back_is_found_in_order() {
        let area = area(2, 8);
        let mut ring = area.ring(1, 8).unwrap();
        assert!(ring.recover(0).unwrap().is_empty());
        for head in [5, 2, 7] {
            ring.taken(head).unwrap();
        }
        ring.giving_back(2).unwrap();
        ring.given_back(2, 1).unwrap();
        assert_eq!(area.ring(1, 8).unwrap().recover(1).unwrap(), [5, 7]);
        assert!(area.ring(0, 8).unwrap().recover(0).unwrap().is_empty(), "the other ring is untouched");
    }

    #[test]
    fn a_death_between_used_index_and_note_does_nothing_twice() {
        let area = area(1, 8);
        let mut ring = area.ring(0, 8).unwrap();
        ring.recover(0).unwrap();
        ring.taken(3).unwrap();
        ring.taken(4).unwrap();
        ring.giving_back(3).unwrap();
        // The used index is 1 now, and the process dies here.
        assert_eq!(area.ring(0, 8).unwrap().recover(1).unwrap(), [4]);
        // Died before the used index moved: it is done again.
        let mut ring = area.ring(0, 8).unwrap();
        ring.recover(1).unwrap();
        ring.giving_back(4).unwrap();
        assert_eq!(area.ring(0, 8).unwrap().recover(1).unwrap(), [4]);
    }

    #[test]
    fn an_area_that_does_not_fit_is_refused() {
        let file = InflightFile::create(2, 8).unwrap();
        assert!(file.describe(&VhostUserInflight::new(0, 0, 3, 8)).is_err());
        let map = |size, offset, queues, queue_size| {
            let description = VhostUserInflight::new(size, offset, queues, queue_size);
            InflightArea::map(&description, file.fd.try_clone().unwrap(), Unsealed::Refuse)
        };
        assert!(map(1, 0, 1, 8).is_err());
        assert!(map(384, 0, 2, 1024).is_err());
        assert!(map(384, u64::MAX, 2, 8).is_err());
        assert!(map(1 << 20, 0, 2, 8).is_err(), "past the end of the file");
        let area = map(384, 0, 2, 8).unwrap();
        assert!(area.ring(2, 8).is_err());
        assert!(area.ring(0, 16).is_err());
    }

    #[test]
    fn a_head_beyond_the_ring_is_an_error() {
        let area = area(1, 8);
        let mut ring = area.ring(0, 8).unwrap();
        ring.recover(0).unwrap();
        ring.store(header::LAST_BATCH_HEAD, 0xffffu16).unwrap();
        assert!(matches!(area.ring(0, 8).unwrap().recover(1), Err(Error::Inflight { .. })));
    }
}
