//! The in-flight region of one device (vhost-user, "Inflight I/O tracking"): where its back end keeps account of the
//! requests that it has taken, so that a successor can do again what a dead one left undone.
//!
//! Invariants: **this process makes the region and seals its size**, so that no back end can truncate it under us or
//! under its successor, or keep a successor from mapping it by another seal; and this process **never reads it**: what
//! a back end wrote there is for its successor to judge. All that we write is zeros, before the driver's first request.

use crate::Error;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

/// Bytes in front of a ring's descriptor states, and of one descriptor state (`struct QueueRegionSplit`,
/// `struct DescStateSplit`).
const HEADER: usize = 16;
const STATE: usize = 16;
/// Each ring's part begins at a multiple of this; back ends agree on it (QEMU's `INFLIGHT_ALIGNMENT`).
const ALIGNMENT: usize = 64;

/// See above.
#[derive(Debug)]
pub struct InflightRegion {
    file: File,
    mapping: MmapRegion,
    queues: u16,
    queue_size: u16,
}

impl InflightRegion {
    /// Room for `queues` split rings of at most `queue_size` entries; all zeros.
    pub fn new(queues: u16, queue_size: u16) -> Result<Self, Error> {
        let ring = STATE.saturating_mul(queue_size.into()).saturating_add(HEADER);
        let size = ring.next_multiple_of(ALIGNMENT).saturating_mul(queues.into());
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create("inflight", flags).map_err(Error::system("memfd_create"))?);
        file.set_len(size as u64).map_err(Error::io("ftruncate"))?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(Error::system("fcntl(F_ADD_SEALS)"))?;
        let copy = file.try_clone().map_err(Error::io("fcntl(F_DUPFD_CLOEXEC)"))?;
        let mapping = MmapRegion::from_file(FileOffset::new(copy, 0), size)
            .map_err(|error| Error::Layout(format!("mapping an in-flight region: {error}")))?;
        Ok(Self { file, mapping, queues, queue_size })
    }

    /// Forgets all requests. No back end may be serving.
    pub fn clear(&self) {
        let all = self.mapping.as_volatile_slice();
        // As long as the slice is, so it fits.
        let _fits = all.write_slice(&vec![0; all.len()], 0);
    }

    /// The body of SET_INFLIGHT_FD, written out by field: the C structure ends in padding, which goes along.
    pub(super) fn body(&self) -> Vec<u8> {
        let size = self.mapping.size() as u64;
        let numbers = [self.queues.to_ne_bytes(), self.queue_size.to_ne_bytes(), [0; 2], [0; 2]];
        [&size.to_ne_bytes()[..], &0_u64.to_ne_bytes(), numbers.as_flattened()].concat()
    }

    /// The descriptor of SET_INFLIGHT_FD.
    pub(super) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_region_has_room_for_its_rings_and_its_size_is_fixed() {
        let region = InflightRegion::new(3, 256).unwrap();
        // 16 + 256 × 16, up to the next multiple of 64.
        assert_eq!(region.file.metadata().unwrap().len(), 3 * 4160);
        assert!(region.file.set_len(0).is_err() && region.file.set_len(1 << 20).is_err());
        assert!(fcntl(&region.file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_FUTURE_WRITE)).is_err());
        let body = region.body();
        assert_eq!((body.len(), &body[..8]), (24, &(3 * 4160_u64).to_ne_bytes()[..]));
        assert_eq!((&body[16..18], &body[18..20]), (&3_u16.to_ne_bytes()[..], &256_u16.to_ne_bytes()[..]));
    }

    #[test]
    fn what_a_back_end_wrote_is_forgotten() {
        let region = InflightRegion::new(1, 2).unwrap();
        region.file.write_all_at(&[0xFF; 64], 0).unwrap();
        region.clear();
        let mut found = [1; 64];
        region.file.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found, [0; 64]);
    }
}
