//! A device's keep: the page in which its programs, one after the other, leave each other what of the device's state
//! outlives them. The launcher makes it and hands it on, with the seals of guest memory; it neither maps nor reads it.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::memfd::MFdFlags;
use nix::unistd::ftruncate;
use protocol::limits;

use crate::error::Error;
use crate::memory;

/// Makes one, empty.
pub fn create() -> Result<OwnedFd, Error> {
    sealed().map_err(Error::system("make a device's keep"))
}

fn sealed() -> Result<OwnedFd, Errno> {
    let fd = memory::memfd("keep", MFdFlags::empty())?;
    ftruncate(&fd, i64::try_from(limits::KEEP_SIZE).map_err(|_| Errno::EFBIG)?)?;
    memory::seal(&fd)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keep_is_one_page_that_stays_one() {
        let fd = create().unwrap();
        let file = std::fs::File::from(fd.try_clone().unwrap());
        assert_eq!(file.metadata().unwrap().len(), 4096);
        assert!(ftruncate(&fd, 0).is_err() && ftruncate(&fd, 8192).is_err() && memory::seal(&fd).is_err());
    }
}
