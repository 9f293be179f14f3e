//! The tap: a network interface of the host, with a queue for each pair of the device's. Frames have a virtio-net header of 12
//! bytes in front.
//!
//! Its offloads say what the host's kernel may hand over unfinished. They go by what the driver accepted, which is known
//! only while serving, and so TUNSETOFFLOAD is in the serving filter, with these bits and no others. A device that was taken
//! over can do with it what it may do anyway: decide in which form it gets the frames that are for it.
//!
//! Which queues the kernel puts frames into goes by what the driver uses and the front end lets be served, and so
//! TUNSETQUEUE is in that filter as well. It attaches a queue to the interface that it was opened for or detaches it, and
//! needs no privilege of its caller. What a device that was taken over gains by it is to get none of the frames that it could
//! leave unread: had somebody else to do it, that one would have to hear from the device which queue and when, on a wire on
//! which a device can ask for nothing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use device_backend::Error;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use protocol::tap;

use crate::choices::Follows;
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

/// What was said to an order for a tap, which a socket in the place of one does not know.
fn for_tap(said: Result<(), Errno>) -> Result<(), Errno> {
    said.or_else(
        |errno| if cfg!(feature = "fuzzing") && errno == Errno::ENOTTY { Ok(()) } else { Err(errno) },
    )
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

    /// A socket of packets in place of a tap, which takes whatever is set of it.
    #[cfg(feature = "fuzzing")]
    #[must_use]
    pub fn stand_in(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Lets the kernel hand over what a driver that accepted `features` takes unfinished, and no more.
    ///
    /// # Errors
    /// What TUNSETOFFLOAD says.
    pub fn set_offload(&self, features: u64) -> Result<(), Errno> {
        for_tap(tap::set_offload(self.0.as_fd(), offload(features)))
    }
}

impl Tap {
    /// Lets the kernel put frames into it, or no more.
    ///
    /// # Errors
    /// What TUNSETQUEUE says.
    pub fn set_attached(&self, attached: bool) -> Result<(), Errno> {
        for_tap(tap::set_queue(self.0.as_fd(), attached))
    }
}

/// The queues of one interface, by pair.
#[derive(Debug)]
pub struct Queues {
    first: Tap,
    more: Vec<Tap>,
}

impl Queues {
    /// Of one pair.
    #[must_use]
    pub fn new(first: Tap) -> Self {
        Self { first, more: Vec::new() }
    }

    /// Of as many pairs more.
    pub fn add(&mut self, more: impl IntoIterator<Item = Tap>) {
        self.more.extend(more);
    }

    /// That of `pair`, from 0.
    #[must_use]
    pub fn of(&self, pair: u16) -> &Tap {
        let place = usize::from(pair).checked_sub(1);
        place.and_then(|place| self.more.get(place)).unwrap_or(&self.first)
    }
}

impl Follows for Queues {
    fn set_queue(&self, pair: u16, attached: bool) -> Result<(), Errno> {
        self.of(pair).set_attached(attached)
    }

    fn set_offload(&self, features: u64) -> Result<(), Errno> {
        self.first.set_offload(features)
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
