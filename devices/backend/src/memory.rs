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

use nix::fcntl::{FcntlArg, fcntl};
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::message::MAX_REGIONS;
use crate::{Error, read_at};

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
