//! One number that a device shows to whoever has a page of memory with it, which is given to every process of the device:
//! what somebody needs to know at an instant at which he cannot ask. The launcher makes the page and seals it.

use std::fs::File;
use std::os::fd::OwnedFd;

use vm_memory::{FileOffset, MmapRegion};

use crate::Error;
use crate::inflight::{Part, Words};
use crate::memory::{Unsealed, check_file};

/// Bytes of the page.
const PAGE: usize = 4096;

/// See above.
pub struct SharedWord(Part);

impl SharedWord {
    /// Maps the page.
    ///
    /// # Errors
    /// It is smaller, can shrink, or cannot be mapped.
    pub fn map(page: OwnedFd) -> Result<Self, Error> {
        check_file(&page, 0, u64::try_from(PAGE).unwrap_or(u64::MAX), Unsealed::Refuse)?;
        let mapping = MmapRegion::from_file(FileOffset::new(File::from(page), 0), PAGE)
            .map_err(|error| Error::RegionMap { guest: 0, reason: error.to_string() })?;
        Ok(Self(Part::whole(mapping, PAGE)))
    }

    /// Shows another number. Whoever sees what is done after this sees the number.
    pub fn show(&self, value: u64) {
        // The page has a first word.
        let _ = self.0.store(0, value.to_le());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    fn page(size: usize, seals: SealFlag) -> OwnedFd {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = memfd_create("word", flags).unwrap();
        nix::unistd::ftruncate(&fd, i64::try_from(size).unwrap()).unwrap();
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        fd
    }

    #[test]
    fn whoever_has_the_page_sees_the_last_number() {
        let fd = page(PAGE, SealFlag::F_SEAL_SHRINK);
        let file = File::from(fd.try_clone().unwrap());
        // As of two processes of the device, one after the other.
        let words = [&fd, &fd].map(|fd| SharedWord::map(fd.try_clone().unwrap()).unwrap());
        for (word, value) in words.iter().cycle().zip([1, u64::MAX, 0x0102_0304_0506_0708, 0]) {
            word.show(value);
            let mut seen = [0xEE; PAGE];
            file.read_exact_at(&mut seen, 0).unwrap();
            assert_eq!(seen[..8], value.to_le_bytes());
            assert!(seen[8..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_page_that_can_shrink_or_is_none_is_refused() {
        assert!(matches!(SharedWord::map(page(PAGE, SealFlag::F_SEAL_GROW)), Err(Error::Unsealed { .. })));
        assert!(matches!(
            SharedWord::map(page(PAGE - 1, SealFlag::F_SEAL_SHRINK)),
            Err(Error::RegionPastEnd { .. })
        ));
        let null = File::open("/dev/null").unwrap();
        assert!(SharedWord::map(null.into()).is_err());
    }
}
