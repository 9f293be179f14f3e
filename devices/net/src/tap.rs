//! The tap: one queue of a network interface of the host, whose frames have a virtio-net header of 12 bytes in front.
//!
//! Its offloads say what the host's kernel may hand over unfinished. They go by what the driver accepted, which is known
//! only while serving, and so TUNSETOFFLOAD is in the serving filter, with these bits and no others. A device that was taken
//! over can do with it what it may do anyway: decide in which form it gets the frames that are for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use device_backend::Error;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use protocol::tap;

use crate::wire::{Header, feature};

/// Segmentation offloads, and with which bit of the driver's each goes.
const OFFLOADS: [(u64, u32); 4] = [
    (feature::GUEST_TSO4, libc::TUN_F_TSO4),
    (feature::GUEST_TSO6, libc::TUN_F_TSO6),
    (feature::GUEST_ECN, libc::TUN_F_TSO_ECN),
    // The kernel takes the two together or none.
    (feature::GUEST_USO4 | feature::GUEST_USO6, libc::TUN_F_USO4 | libc::TUN_F_USO6),
];

/// What the kernel is told for a driver that accepted `features`.
fn offload(features: u64) -> u32 {
    if features & feature::GUEST_CSUM == 0 {
        return 0;
    }
    let accepted = OFFLOADS.iter().filter(|(needed, _)| features & needed == *needed);
    accepted.map(|(_, bits)| bits).fold(libc::TUN_F_CSUM, |all, bits| all | bits)
}

/// An open queue of a tap. Reading and writing never wait.
#[derive(Debug)]
pub struct Tap(OwnedFd);

impl Tap {
    /// Takes over what was handed on, without changing anything that a process may rely on that serves it still.
    ///
    /// # Errors
    /// It is no tap, or its header has another size.
    pub fn new(fd: OwnedFd) -> Result<Self, Error> {
        let wrong = |what: String| Error::Resource(format!("the tap cannot be used: {what}"));
        let size = tap::header_size(fd.as_fd())
            .map_err(|errno| wrong(format!("asked for the size of its header: {errno}")))?;
        if size != Header::SIZE {
            return Err(wrong(format!("its header has {size} bytes, virtio-net's has {}", Header::SIZE)));
        }
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(|errno| wrong(format!("set not to wait: {errno}")))?;
        Ok(Self(fd))
    }

    /// Lets the kernel hand over what a driver that accepted `features` takes unfinished, and no more.
    ///
    /// # Errors
    /// What TUNSETOFFLOAD says.
    pub fn set_offload(&self, features: u64) -> Result<(), Errno> {
        tap::set_offload(self.0.as_fd(), offload(features))
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_told_what_the_driver_accepted() {
        assert_eq!(offload(0), 0);
        assert_eq!(offload(feature::GUEST_CSUM), libc::TUN_F_CSUM);
        assert_eq!(offload(!feature::GUEST_CSUM), 0, "no segment without a checksum");
        assert_eq!(offload(feature::GUEST_CSUM | feature::GUEST_TSO4), libc::TUN_F_CSUM | libc::TUN_F_TSO4);
        assert_eq!(offload(feature::GUEST_CSUM | feature::GUEST_USO4), libc::TUN_F_CSUM);
        assert_eq!(offload(u64::MAX), 0x6f, "the bits that the serving filter lets pass, and no UFO");
    }

    #[test]
    fn what_is_no_tap_is_refused() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(Tap::new(null.into()).unwrap_err().to_string().contains("size of its header"));
    }
}
