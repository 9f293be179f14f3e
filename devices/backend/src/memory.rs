//! Guest memory as the front end sent it: checked against the files behind it, then mapped.
//!
//! A mapping past the end of its file, or of a file that shrinks later, is a SIGBUS at first touch, which
//! `vm-memory` neither prevents nor handles. So the file must be sealed against shrinking, and *then* a region must lie
//! within it: in that order, so that nobody can shrink it in between. A foreign front end's unsealed memory is taken
//! only when the user said so.
//!
//! Mapped read-write and shared, never executable: the serving filter allows nothing else.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, fallocate, fcntl};
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MmapRegion, VolatileSlice,
};

use crate::message::MAX_REGIONS;
use crate::{Error, Writer, read_at};

/// What to do with memory whose file may shrink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsealed {
    Refuse,
    Accept,
}

/// Where the front end sees a region, which is how it names ring addresses.
#[derive(Debug, Clone, Copy)]
struct UserRange {
    user: u64,
    guest: u64,
    size: u64,
}

/// The memory table of SET_MEM_TABLE. Regions overlap neither in guest-physical nor in user addresses.
#[derive(Debug)]
pub(crate) struct MemoryTable {
    ranges: Vec<UserRange>,
    memory: GuestMemoryMmap,
}

impl MemoryTable {
    /// Checks and maps. All or nothing: on an error every mapping made so far is gone again.
    pub(crate) fn map(
        mut regions: Vec<(VhostUserMemoryRegion, OwnedFd)>,
        unsealed: Unsealed,
    ) -> Result<Self, Error> {
        if regions.is_empty() || regions.len() > MAX_REGIONS {
            return Err(Error::RegionCount { count: regions.len(), limit: MAX_REGIONS });
        }
        regions.sort_unstable_by_key(|(region, _)| region.guest_phys_addr);
        let ranges: Vec<UserRange> = regions.iter().map(|(region, _)| UserRange::of(region)).collect();
        refuse_overlap(ranges.iter().map(|range| (range.guest, range.size)).collect())?;
        refuse_overlap(ranges.iter().map(|range| (range.user, range.size)).collect())?;
        let mapped = regions
            .into_iter()
            .map(|(region, fd)| map_region(&region, fd, unsealed))
            .collect::<Result<_, _>>()?;
        let memory = GuestMemoryMmap::from_regions(mapped)
            .map_err(|error| Error::RegionMap { guest: 0, reason: error.to_string() })?;
        Ok(Self { ranges, memory })
    }

    pub(crate) fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The guest-physical address of a user address, if all of `size` bytes from it are in one region.
    pub(crate) fn translate(&self, user: u64, size: u64) -> Option<GuestAddress> {
        self.ranges.iter().find_map(|range| {
            let offset = user.checked_sub(range.user)?;
            let end = offset.checked_add(size)?;
            (end <= range.size).then(|| range.guest.checked_add(offset).map(GuestAddress))?
        })
    }
}

/// Why guest memory was not given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GiveBackError {
    /// It is not all of it guest memory, or not in whole pages.
    #[error("it is not in whole pages of guest memory")]
    Outside,
    /// The host does not take it.
    #[error("the host does not take it: {0}")]
    Host(Errno),
}

/// Guest memory, to be given back to the host: what a balloon is for.
#[derive(Debug, Clone)]
pub struct GuestPages(Arc<MemoryTable>);

/// Bytes of a page.
const PAGE: u64 = 4096;
const WHOLE_PAGES: u64 = !(PAGE - 1);

impl GuestPages {
    pub(crate) fn new(memory: Arc<MemoryTable>) -> Self {
        Self(memory)
    }

    pub(crate) fn table(&self) -> &MemoryTable {
        &self.0
    }

    /// How many of `length` bytes from `address` on are in the region that `address` is in; 0 if it is in none.
    #[must_use]
    pub fn within_region(&self, address: u64, length: u64) -> u64 {
        let region = self.0.memory.find_region(GuestAddress(address));
        let left = region.and_then(|region| {
            region.len().checked_sub(address.checked_sub(region.start_addr().raw_value())?)
        });
        left.unwrap_or(0).min(length)
    }

    /// Gives `length` bytes from `address` on back to the host, in every process that maps them: they read as zeroes from then on, and cost memory
    /// again when they are touched. Whole pages in one region only.
    ///
    /// Of memory made of huge pages the host takes huge pages only, and of one that is not given back as a whole it
    /// clears the part.
    ///
    /// # Errors
    /// See [`GiveBackError`]. Nothing has changed.
    pub fn give_back(&self, address: u64, length: u64) -> Result<(), GiveBackError> {
        let outside = GiveBackError::Outside;
        if length == 0 || !address.is_multiple_of(PAGE) || !length.is_multiple_of(PAGE) {
            return Err(outside);
        }
        if self.within_region(address, length) != length {
            return Err(outside);
        }
        let region = self.0.memory.find_region(GuestAddress(address)).ok_or(outside)?;
        let file = region.file_offset().ok_or(outside)?;
        let inside = address.checked_sub(region.start_addr().raw_value()).ok_or(outside)?;
        let start = file.start().checked_add(inside).and_then(|start| i64::try_from(start).ok());
        let (start, length) = start.zip(i64::try_from(length).ok()).ok_or(outside)?;
        let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        loop {
            match fallocate(file.file(), how, start, length) {
                Err(Errno::EINTR) => {}
                result => return result.map_err(GiveBackError::Host),
            }
        }
    }

    /// Gives back the whole pages of what the driver lets the device write, up to as many as there are: who names pages
    /// twice is not worked for without end. Answers how many bytes those were.
    ///
    /// # Errors
    /// The host does not take it.
    pub fn give_back_room(&self, writer: &Writer<'_, '_>) -> Result<u64, GiveBackError> {
        let mut given = 0u64;
        let most = self.0.memory.iter().map(GuestMemoryRegion::len).fold(0, u64::saturating_add);
        for (address, length) in writer.0.pieces().filter_map(|piece| self.place(&piece)) {
            let end = address.saturating_add(length) & WHOLE_PAGES;
            let start = address.checked_next_multiple_of(PAGE).filter(|start| *start < end);
            let Some((start, length)) = start.and_then(|start| Some((start, end.checked_sub(start)?))) else {
                continue;
            };
            if given >= most {
                break;
            }
            self.give_back(start, length)?;
            given = given.saturating_add(length);
        }
        Ok(given)
    }

    /// The guest-physical address and the length of a piece of guest memory.
    fn place(&self, piece: &VolatileSlice<'_>) -> Option<(u64, u64)> {
        let at = piece.ptr_guard().as_ptr().addr();
        let length = u64::try_from(piece.len()).ok()?;
        self.0.memory.iter().find_map(|region| {
            let inside = u64::try_from(at.checked_sub(region.as_ptr().addr())?).ok()?;
            let fits = inside.checked_add(length)? <= region.len();
            fits.then(|| region.start_addr().raw_value().checked_add(inside))?
                .map(|address| (address, length))
        })
    }
}

impl UserRange {
    fn of(region: &VhostUserMemoryRegion) -> Self {
        Self { user: region.user_addr, guest: region.guest_phys_addr, size: region.memory_size }
    }
}

fn refuse_overlap(mut ranges: Vec<(u64, u64)>) -> Result<(), Error> {
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        if let [(start, size), (next, _)] = pair
            && start.checked_add(*size).is_none_or(|end| end > *next)
        {
            return Err(Error::RegionOverlap { address: *next });
        }
    }
    Ok(())
}

fn map_region(
    region: &VhostUserMemoryRegion,
    fd: OwnedFd,
    unsealed: Unsealed,
) -> Result<GuestRegionMmap, Error> {
    let (guest, size, offset) = (region.guest_phys_addr, region.memory_size, region.mmap_offset);
    let range = || Error::RegionRange { guest, size };
    let in_address_space = guest.checked_add(size).is_some() && region.user_addr.checked_add(size).is_some();
    if size == 0 || !in_address_space {
        return Err(range());
    }
    check_file(&fd, guest, offset.checked_add(size).ok_or_else(range)?, unsealed)?;
    let length = usize::try_from(size).map_err(|_| range())?;
    let mapping = MmapRegion::from_file(FileOffset::new(File::from(fd), offset), length)
        .map_err(|error| Error::RegionMap { guest, reason: error.to_string() })?;
    GuestRegionMmap::new(mapping, GuestAddress(guest)).ok_or_else(range)
}

/// That bytes 0 to `end` of the file are there, and stay there. `guest` is only for the message.
pub(crate) fn check_file(fd: &impl AsFd, guest: u64, end: u64, unsealed: Unsealed) -> Result<(), Error> {
    // A file that knows no seals (tmpfs, hugetlbfs by path) answers EINVAL: it has none.
    let seals = fcntl(fd, FcntlArg::F_GET_SEALS).unwrap_or(0);
    if seals & nix::libc::F_SEAL_SHRINK == 0 && unsealed == Unsealed::Refuse {
        return Err(Error::Unsealed { guest, seals });
    }
    // The last byte is read rather than the size asked for: one system call less while serving.
    match read_at(fd, &mut [0], end.saturating_sub(1)) {
        Ok(0) => Err(Error::RegionPastEnd { guest, end }),
        Ok(_) => Ok(()),
        Err(errno) => Err(Error::RegionFile { guest, errno }),
    }
}
