//! The tap: one queue of a network interface of the host, whose frames have a virtio-net header of 12 bytes in front.
//!
//! Its offloads say what the host's kernel may hand over unfinished. They go by what the driver accepted, which is known
//! only while serving, and so TUNSETOFFLOAD is in the serving filter, with these bits and no others. A device that was taken
//! over can do with it what it may do anyway: decide in which form it gets the frames that are for it.
#![expect(unsafe_code, reason = "the ioctls of a tap, one of which reads through a pointer")]

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use device_backend::Error;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::{self, c_int, c_short, ifreq};

use crate::wire::{Header, feature};

mod ioctl {
    use nix::libc;
    nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_write_int_bad!(set_offload, libc::TUNSETOFFLOAD);
    nix::ioctl_write_ptr_bad!(set_header_size, libc::TUNSETVNETHDRSZ, libc::c_int);
    nix::ioctl_read_bad!(header_size, libc::TUNGETVNETHDRSZ, libc::c_int);
}

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
        let mut size: c_int = 0;
        // SAFETY: `size` is the int that TUNGETVNETHDRSZ writes.
        unsafe { ioctl::header_size(fd.as_raw_fd(), &raw mut size) }
            .map_err(|errno| wrong(format!("asked for the size of its header: {errno}")))?;
        if usize::try_from(size) != Ok(Header::SIZE) {
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
        let bits = c_int::try_from(offload(features)).map_err(|_| Errno::EINVAL)?;
        // SAFETY: takes a number.
        unsafe { ioctl::set_offload(self.0.as_raw_fd(), bits) }.map(drop)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a tap can do that not every kernel's can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// USO.
    pub segments_udp: bool,
}

/// Attaches to the tap interface `name`, which is there: only an administrator can make one, and this program makes none.
///
/// # Errors
/// There is none of this name, it is in use, or is not the caller's.
pub fn open(name: &str) -> Result<(OwnedFd, Abilities), Error> {
    let wrong = |what: &str| Error::Resource(format!("cannot use tap {name:?}: {what}"));
    if nix::net::if_::if_nametoindex(name).is_err() {
        return Err(wrong("there is no such interface; make it: ip tuntap add mode tap user … name …"));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open("/dev/net/tun")
        .map_err(|error| wrong(&format!("/dev/net/tun: {error}")))?;
    // One of several queues is told from one of one by a flag, which must be right.
    let attached = match attach(&file, name, 0) {
        Err(Errno::EINVAL) => attach(&file, name, libc::IFF_MULTI_QUEUE),
        other => other,
    };
    attached.map_err(|errno| match errno {
        Errno::EBUSY => wrong("another program uses it"),
        Errno::EPERM => wrong("it is another user's"),
        Errno::EINVAL => wrong("it is no tap"),
        errno => wrong(errno.desc()),
    })?;
    let segments_udp = set_up(&file).map_err(|errno| wrong(errno.desc()))?;
    Ok((file.into(), Abilities { segments_udp }))
}

fn attach(file: &File, name: &str, more: c_int) -> Result<(), Errno> {
    // SAFETY: a structure of numbers and arrays of them, for which zeros are values.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    // One byte remains for the zero at the end.
    let Some((_, room)) = request.ifr_name.split_last_mut() else { return Err(Errno::EINVAL) };
    if name.len() > room.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    for (to, from) in room.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more;
    request.ifr_ifru.ifru_flags = c_short::try_from(flags).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `request` is the ifreq that TUNSETIFF reads and writes.
    unsafe { ioctl::set_interface(file.as_raw_fd(), &raw const request) }.map(drop)
}

/// Sets the header's size, looks what the kernel takes, and leaves all offloads off. Returns whether it has USO.
fn set_up(file: &File) -> Result<bool, Errno> {
    let size = c_int::try_from(Header::SIZE).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `size` is the int that TUNSETVNETHDRSZ reads.
    unsafe { ioctl::set_header_size(file.as_raw_fd(), &raw const size) }?;
    let set = |bits: u32| {
        let bits = c_int::try_from(bits).map_err(|_| Errno::EINVAL)?;
        // SAFETY: takes a number.
        unsafe { ioctl::set_offload(file.as_raw_fd(), bits) }
    };
    let segments_udp = set(libc::TUN_F_CSUM | libc::TUN_F_USO4 | libc::TUN_F_USO6).is_ok();
    set(0)?;
    Ok(segments_udp)
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
        let null = File::open("/dev/null").unwrap();
        assert!(Tap::new(null.into()).unwrap_err().to_string().contains("size of its header"));
        let said = open("no-such-tap0").unwrap_err().to_string();
        assert!(said.contains("no such interface"), "{said}");
    }
}
