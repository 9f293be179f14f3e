//! The memory of the in-flight area: made or mapped, bounded, cut into a part for each ring.
//!
//! It belongs to the front end, or to us and to a front end that asked for it: either way others write to it. No
//! access goes past a part's end, and nothing here says what the words mean.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use vhost::vhost_user::message::VhostUserInflight;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use super::{HEADER, InflightRing, Kept, STATE, Word, Words};
use crate::Error;
use crate::memory::{Unsealed, check_file};

/// Where each ring's part begins is a multiple of this.
const ALIGNMENT: usize = 64;

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

    /// The part of ring `index`, if the area has one for a ring of `queue_size`. `kept`: what that ring keeps there.
    pub(crate) fn ring(&self, index: u16, queue_size: u16, kept: Kept) -> Result<InflightRing<Part>, Error> {
        if index >= self.queues || queue_size > self.queue_size {
            return Err(Error::Inflight { index, what: "it was made for fewer or shorter rings" });
        }
        let offset = ring_size(self.queue_size).saturating_mul(index.into());
        let part = Part { mapping: Arc::clone(&self.mapping), offset, size: ring_size(queue_size) };
        Ok(InflightRing::new(part, index, queue_size, kept))
    }
}

/// The bytes of one ring, or of another piece of memory that outlives a process.
pub(crate) struct Part {
    mapping: Arc<MmapRegion>,
    offset: usize,
    size: usize,
}

impl Part {
    /// All of a mapping of `size` bytes.
    pub(crate) fn whole(mapping: MmapRegion, size: usize) -> Self {
        Self { mapping: Arc::new(mapping), offset: 0, size }
    }

    fn place<T>(&self, at: usize) -> Option<usize> {
        let end = at.checked_add(size_of::<T>())?;
        if end <= self.size { self.offset.checked_add(at) } else { None }
    }
}

impl Words for Part {
    fn load<T: Word>(&self, at: usize) -> Option<T> {
        self.mapping.as_volatile_slice().load(self.place::<T>(at)?, Ordering::Acquire).ok()
    }

    fn store<T: Word>(&self, at: usize, value: T) -> Option<()> {
        self.mapping.as_volatile_slice().store(value, self.place::<T>(at)?, Ordering::Release).ok()
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::inflight) fn area(queues: u16, size: u16) -> InflightArea {
        let file = InflightFile::create(queues, size).unwrap();
        let description = file.describe(&VhostUserInflight::new(0, 0, queues, size)).unwrap();
        InflightArea::map(&description, file.fd.try_clone().unwrap(), Unsealed::Refuse).unwrap()
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
        assert!(area.ring(2, 8, Kept::Requests).is_err());
        assert!(area.ring(0, 16, Kept::Requests).is_err());
    }

    #[test]
    fn a_part_ends_where_the_next_begins() {
        let area = area(2, 8);
        let part = Part { mapping: Arc::clone(&area.mapping), offset: 0, size: ring_size(8) };
        assert_eq!(part.load::<u16>(190), Some(0));
        assert_eq!(part.load::<u16>(192), None);
        assert_eq!(part.store(188, 1u64), None);
        assert_eq!(part.store(usize::MAX, 1u16), None);
    }
}
