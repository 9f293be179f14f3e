//! The resource that [`NetOptions`](crate::NetOptions) go with: one queue of a tap interface, or one for each pair of the
//! device's, set up so that they can be handed over.
//!
//! Of several queues all but the first are handed over *detached*: the host's kernel puts no frame into them. Who serves
//! one attaches it when its driver has taken it into use, and detaches it when that is over ([`set_queue`]), so that no
//! frame ever lies in a queue that nobody reads.
//!
//! Whoever opens a tap for a device program, the launcher or the program itself when it runs on its own, opens it
//! here, so that both hand over the same: frames have a virtio-net header of [`HEADER_SIZE`] bytes in front, no offload
//! is on, and it is known whether the host has USO. All ioctls of taps are in this file.
#![expect(
    unsafe_code,
    reason = "the ioctls of a tap and its interface, which read and write through a pointer"
)]

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::libc::{self, c_int, c_short, ifreq};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::descriptors;

/// Bytes of `struct virtio_net_hdr` with `num_buffers`, as each frame has it with VIRTIO_F_VERSION_1 (virtio 1.2, 5.1.6).
pub const HEADER_SIZE: usize = 12;

/// The same as the kernel takes it.
const HEADER: c_int = 12;
/// Ethernet frames, without the kernel's own header of 4 bytes, with virtio-net's.
const FORM: c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
const NODE: &str = "/dev/net/tun";
/// /dev/net/tun: the misc major, and its minor (`TUN_MINOR`).
const TUN: (u64, u64) = (10, 200);
const UDP_SEGMENTS: u32 = libc::TUN_F_CSUM | libc::TUN_F_USO4 | libc::TUN_F_USO6;

mod ioctl {
    use nix::libc;
    nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_read_bad!(interface, libc::TUNGETIFF, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_queue, libc::TUNSETQUEUE, libc::ifreq);
    nix::ioctl_write_int_bad!(set_offload, libc::TUNSETOFFLOAD);
    nix::ioctl_write_ptr_bad!(set_header_size, libc::TUNSETVNETHDRSZ, libc::c_int);
    nix::ioctl_read_bad!(header_size, libc::TUNGETVNETHDRSZ, libc::c_int);
    nix::ioctl_read_bad!(flags, libc::SIOCGIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_mtu, libc::SIOCSIFMTU, libc::ifreq);
}

/// A tap that can be handed over.
#[derive(Debug)]
pub struct Tap {
    /// The open queue. The interface, if it was made here, is there as long as a copy of this.
    pub fd: OwnedFd,
    /// The queues of the other pairs, detached.
    pub more: Vec<OwnedFd>,
    /// The interface's name.
    pub name: String,
    /// Whether the host segments UDP (USO, Linux 6.2).
    pub segments_udp: bool,
    /// Whether the interface was made here.
    pub made: bool,
}

/// Why a tap cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoTap {
    /// No interface can be called that.
    #[error("an interface's name has 1 to 15 bytes, none of them a space, '/', ':' or '%'")]
    Name,
    /// The node of taps cannot be opened.
    #[error("/dev/net/tun: {}; load the kernel module tun, and give your user the node", .0.desc())]
    Node(Errno),
    /// It is not there, and is not made.
    #[error("there is no such interface; make it: ip tuntap add mode tap user … name …")]
    Missing,
    /// It is not there, and the caller may not make it.
    #[error(
        "there is no such interface, and only an administrator (CAP_NET_ADMIN) can make one: ip tuntap add mode tap user … name …"
    )]
    MayNotMake,
    /// It has another user, who holds its one queue, or all.
    #[error("another program uses it")]
    Busy,
    /// Several queues are wanted of an interface that has one.
    #[error(
        "it has one queue, not several; make it with more: ip tuntap add mode tap multi_queue user … name …"
    )]
    OneQueue,
    /// Several queues are wanted of a macvtap, whose queues cannot be told which frames are theirs.
    #[error("it is a macvtap, which serves one pair of queues; give one descriptor")]
    Macvtap,
    /// Descriptors of two interfaces were given for one device.
    #[error("it is attached to another interface than the one before it")]
    Another,
    /// Its owner is another.
    #[error("it is another user's; make it with your own: ip tuntap add mode tap user … name …")]
    Owner,
    /// An interface of another kind.
    #[error("it is no tap")]
    Kind,
    /// No such number came from whoever started the program.
    #[error("no descriptor of this number, 3 or more, was inherited")]
    NotInherited,
    /// The descriptor is something else, or has no interface.
    #[error("it is no tap with an interface")]
    Descriptor,
    /// Frames have the kernel's header in front, or not virtio-net's.
    #[error("it was not opened with IFF_NO_PI and IFF_VNET_HDR")]
    Form,
    /// Something that should not fail did.
    #[error("{call}: {}", .errno.desc())]
    System {
        /// The call.
        call: &'static str,
        /// What it said.
        errno: Errno,
    },
}

/// Refuses what no interface can be called, and patterns of names, from which the kernel would choose one.
///
/// # Errors
/// [`NoTap::Name`]
pub fn check_name(name: &str) -> Result<(), NoTap> {
    let fits = (1..libc::IFNAMSIZ).contains(&name.len()) && name != "." && name != "..";
    let fine = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
    if fits && name.bytes().all(fine) { Ok(()) } else { Err(NoTap::Name) }
}

/// Whether an interface of this name is there.
#[must_use]
pub fn is_there(name: &str) -> bool {
    if_nametoindex(name).is_ok()
}

/// Whether taps can be opened at all.
///
/// # Errors
/// [`NoTap::Node`]
pub fn look() -> Result<(), NoTap> {
    node().map(drop)
}

/// Attaches to the interface `name`, which is there and is taken as it is, with a queue for each of `pairs`.
///
/// # Errors
/// There is none, it is in use, it is not the caller's, or it has too few queues.
pub fn attach(name: &str, pairs: u16) -> Result<Tap, NoTap> {
    check_name(name)?;
    if !is_there(name) {
        return Err(NoTap::Missing);
    }
    let file = node()?;
    // One of several queues is told from one of one by a flag, which must be right.
    let attached = match set_interface(&file, name, libc::IFF_MULTI_QUEUE) {
        Err(Errno::EINVAL) => set_interface(&file, name, 0),
        other => other,
    };
    attached.map_err(|errno| match errno {
        Errno::EBUSY if pairs > 1 => NoTap::OneQueue,
        Errno::EBUSY => NoTap::Busy,
        Errno::EPERM => NoTap::Owner,
        Errno::EINVAL => NoTap::Kind,
        errno => NoTap::System { call: "TUNSETIFF", errno },
    })?;
    let segments_udp = set_up(file.as_fd())?;
    let more = other_queues(file.as_fd(), beyond_the_first(pairs))?;
    Ok(Tap { fd: file.into(), more, name: name.to_owned(), segments_udp, made: false })
}

/// Makes the interface `name`, with a queue for each of `pairs` and for packets of at most `mtu` bytes if that is said, and
/// brings it up. It goes with the last copy of its descriptors.
///
/// # Errors
/// The caller may not, or it has come to be there.
pub fn make(name: &str, mtu: Option<u16>, pairs: u16) -> Result<Tap, NoTap> {
    check_name(name)?;
    let file = node()?;
    let several = if pairs > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    set_interface(&file, name, libc::IFF_TUN_EXCL | several).map_err(|errno| match errno {
        Errno::EPERM => NoTap::MayNotMake,
        Errno::EBUSY => NoTap::Busy,
        errno => NoTap::System { call: "TUNSETIFF", errno },
    })?;
    let segments_udp = set_up(file.as_fd())?;
    let more = other_queues(file.as_fd(), beyond_the_first(pairs))?;
    bring_up(name, mtu)?;
    Ok(Tap { fd: file.into(), more, name: name.to_owned(), segments_udp, made: true })
}

/// Takes over descriptor `number`, and after it those of `others`, which whoever started the program opened and attached to
/// one interface.
///
/// # Errors
/// Which one was not inherited, or is no such thing.
pub fn inherited(number: RawFd, others: &[RawFd]) -> Result<Tap, (RawFd, NoTap)> {
    let one = |number| {
        let take = || {
            let fd = descriptors::inherited(number).ok_or(NoTap::NotInherited)?;
            let (name, several) = interface_of(fd.as_fd())?;
            Ok((set_up(fd.as_fd())?, fd, name, several))
        };
        take().map_err(|why| (number, why))
    };
    let (segments_udp, fd, name, first) = one(number)?;
    let mut more = Vec::new();
    for other in others {
        let wrong = |why| (*other, why);
        let (_, fd, its, several) = one(*other)?;
        if its != name {
            return Err(wrong(NoTap::Another));
        }
        if !is_tun(fd.as_fd()) {
            return Err(wrong(NoTap::Macvtap));
        }
        if !(first && several) {
            return Err(wrong(NoTap::OneQueue));
        }
        set_queue(fd.as_fd(), false).map_err(failed("TUNSETQUEUE")).map_err(wrong)?;
        more.push(fd);
    }
    Ok(Tap { fd, more, name, segments_udp, made: false })
}

fn beyond_the_first(pairs: u16) -> u8 {
    u8::try_from(pairs.saturating_sub(1)).unwrap_or(u8::MAX)
}

/// So many queues more of the interface that `first` is one of, each detached.
///
/// # Errors
/// It has one, or no more are to be had.
pub fn other_queues(first: BorrowedFd<'_>, number: u8) -> Result<Vec<OwnedFd>, NoTap> {
    if number == 0 {
        return Ok(Vec::new());
    }
    let (name, several) = interface_of(first)?;
    if !several {
        return Err(NoTap::OneQueue);
    }
    let queue = |_| {
        let file = node()?;
        set_interface(&file, &name, libc::IFF_MULTI_QUEUE).map_err(failed("TUNSETIFF for another queue"))?;
        set_up(file.as_fd())?;
        set_queue(file.as_fd(), false).map_err(failed("TUNSETQUEUE"))?;
        Ok(file.into())
    };
    (0..number).map(queue).collect()
}

/// Lets the host's kernel put frames into this queue of several, or no more; then those that it holds are lost. To ask for
/// what is so already is no error. Frames can be written to it either way.
///
/// # Errors
/// What TUNSETQUEUE says.
pub fn set_queue(tap: BorrowedFd<'_>, attached: bool) -> Result<(), Errno> {
    let mut request = request("")?;
    let flag = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
    request.ifr_ifru.ifru_flags = c_short::try_from(flag).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `request` is the ifreq that TUNSETQUEUE reads.
    match unsafe { ioctl::set_queue(tap.as_raw_fd(), &raw const request) } {
        Err(Errno::EINVAL) | Ok(_) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Bytes of the header in front of each frame.
///
/// # Errors
/// What TUNGETVNETHDRSZ says; the descriptor may be no tap's.
pub fn header_size(tap: BorrowedFd<'_>) -> Result<usize, Errno> {
    let mut size: c_int = 0;
    // SAFETY: `size` is the int that TUNGETVNETHDRSZ writes.
    unsafe { ioctl::header_size(tap.as_raw_fd(), &raw mut size) }?;
    usize::try_from(size).map_err(|_| Errno::EINVAL)
}

/// Lets the kernel hand over frames that are unfinished in these ways (`TUN_F_*`) and no other.
///
/// # Errors
/// What TUNSETOFFLOAD says.
pub fn set_offload(tap: BorrowedFd<'_>, bits: u32) -> Result<(), Errno> {
    let bits = c_int::try_from(bits).map_err(|_| Errno::EINVAL)?;
    // SAFETY: takes a number.
    unsafe { ioctl::set_offload(tap.as_raw_fd(), bits) }.map(drop)
}

/// The call failed that should not.
fn failed(call: &'static str) -> impl Fn(Errno) -> NoTap {
    move |errno| NoTap::System { call, errno }
}

fn node() -> Result<File, NoTap> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(NODE);
    opened.map_err(|error| NoTap::Node(Errno::from_raw(error.raw_os_error().unwrap_or(0))))
}

fn set_interface(file: &File, name: &str, more: c_int) -> Result<(), Errno> {
    let mut request = request(name)?;
    // IFF_TUN_EXCL is the sign bit of the field.
    request.ifr_ifru.ifru_flags = u16::try_from(FORM | more).map_err(|_| Errno::EINVAL)?.cast_signed();
    // SAFETY: `request` is the ifreq that TUNSETIFF reads and writes.
    unsafe { ioctl::set_interface(file.as_raw_fd(), &raw const request) }.map(drop)
}

/// A request about the interface `name`, or about the one that the kernel will name.
fn request(name: &str) -> Result<ifreq, Errno> {
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
    Ok(request)
}

/// Whether it is a tap's queue and no macvtap's, which answers the same questions.
fn is_tun(tap: BorrowedFd<'_>) -> bool {
    nix::sys::stat::fstat(tap)
        .is_ok_and(|it| (libc::major(it.st_rdev).into(), libc::minor(it.st_rdev).into()) == TUN)
}

/// The interface that `tap` is attached to, in whose frames there is what must be, and whether it can have several queues.
fn interface_of(tap: BorrowedFd<'_>) -> Result<(String, bool), NoTap> {
    let mut request = request("").map_err(failed("TUNGETIFF"))?;
    // SAFETY: `request` is the ifreq that TUNGETIFF writes.
    unsafe { ioctl::interface(tap.as_raw_fd(), &raw mut request) }.map_err(|_| NoTap::Descriptor)?;
    // SAFETY: TUNGETIFF has written this field of the union, in which every value is one.
    let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    if flags & libc::IFF_TAP == 0 {
        return Err(NoTap::Descriptor);
    }
    if flags & FORM != FORM {
        return Err(NoTap::Form);
    }
    let name = request.ifr_name.iter().map(|byte| byte.cast_unsigned()).take_while(|byte| *byte != 0);
    let name = String::from_utf8_lossy(&name.collect::<Vec<u8>>()).into_owned();
    Ok((name, flags & libc::IFF_MULTI_QUEUE != 0))
}

/// Sets the header's size, looks what the kernel takes, and leaves all offloads off. Returns whether it has USO.
fn set_up(tap: BorrowedFd<'_>) -> Result<bool, NoTap> {
    let size = HEADER;
    // SAFETY: `size` is the int that TUNSETVNETHDRSZ reads.
    unsafe { ioctl::set_header_size(tap.as_raw_fd(), &raw const size) }.map_err(failed("TUNSETVNETHDRSZ"))?;
    let segments_udp = set_offload(tap, UDP_SEGMENTS).is_ok();
    set_offload(tap, 0).map_err(failed("TUNSETOFFLOAD"))?;
    Ok(segments_udp)
}

fn bring_up(name: &str, mtu: Option<u16>) -> Result<(), NoTap> {
    // Any socket will do to name an interface of this network namespace.
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(failed("a socket to configure it"))?;
    if let Some(mtu) = mtu {
        let mut request = request(name).map_err(failed("SIOCSIFMTU"))?;
        request.ifr_ifru.ifru_mtu = mtu.into();
        // SAFETY: `request` is the ifreq that SIOCSIFMTU reads.
        unsafe { ioctl::set_mtu(socket.as_raw_fd(), &raw const request) }.map_err(failed("SIOCSIFMTU"))?;
    }
    let mut request = request(name).map_err(failed("SIOCGIFFLAGS"))?;
    // SAFETY: `request` is the ifreq that SIOCGIFFLAGS reads and writes.
    unsafe { ioctl::flags(socket.as_raw_fd(), &raw mut request) }.map_err(failed("SIOCGIFFLAGS"))?;
    let up = c_short::try_from(libc::IFF_UP).map_err(|_| failed("SIOCSIFFLAGS")(Errno::EINVAL))?;
    // SAFETY: SIOCGIFFLAGS has written this field of the union, in which every value is one.
    request.ifr_ifru.ifru_flags = up | unsafe { request.ifr_ifru.ifru_flags };
    // SAFETY: `request` is the ifreq that SIOCSIFFLAGS reads.
    unsafe { ioctl::set_flags(socket.as_raw_fd(), &raw const request) }
        .map_err(failed("SIOCSIFFLAGS"))
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_interfaces() {
        for name in ["tap0", "a", "vm-1.net_0", "fifteen-bytes-x"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", "sixteen-bytes-xy", "tap%d", "a/b", "a:b", "a b", "é", "a\0b"] {
            assert_eq!(check_name(name), Err(NoTap::Name), "{name:?}");
        }
    }

    #[test]
    fn what_was_not_inherited_is_nobodys_tap() {
        // Standard error is somebody's, this file is close-on-exec, and the last number is not open.
        let file = File::open("/dev/null").unwrap();
        for number in [-1, 2, file.as_raw_fd(), 1 << 20] {
            assert_eq!(inherited(number, &[]).unwrap_err(), (number, NoTap::NotInherited));
        }
    }

    #[test]
    fn what_is_no_tap_is_told() {
        let null = File::open("/dev/null").unwrap();
        assert_eq!(interface_of(null.as_fd()), Err(NoTap::Descriptor));
        assert_eq!(attach("no-such-tap0", 1).unwrap_err(), NoTap::Missing);
    }
}
