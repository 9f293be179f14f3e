//! The descriptors of a spawned program: exactly 0 to 3, of the kinds that the hand-over says.
//!
//! 0 and 1 are /dev/null, 2 is the log (a pipe to the launcher), 3 is the control channel. [`place`] runs in
//! the child between clone and exec and allocates nothing; [`check`] runs in the program.

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};
use nix::sys::stat::{SFlag, fstat, major, minor};
use std::os::fd::AsRawFd;

use crate::Error;
use crate::system_calls::{close_between, close_range, duplicate_above, duplicate_at, is_open, placed};

/// The control channel's number.
pub const CONTROL: RawFd = 3;

/// Above everything that is placed.
const ABOVE: RawFd = 16;

/// How far [`check`] looks for strays one by one before it closes the rest unseen.
const PROBED: RawFd = 4096;

/// Puts copies of the four descriptors at 0 to 3 and marks everything from 4 on to be closed by exec.
///
/// Returns the number of a copy of `program`, out of the way.
pub fn place(null: RawFd, log: RawFd, control: RawFd, program: RawFd) -> Result<RawFd, Errno> {
    // First all out of the way: a source may sit on the number of another's target.
    let null = duplicate_above(null, ABOVE)?;
    let log = duplicate_above(log, ABOVE)?;
    let control = duplicate_above(control, ABOVE)?;
    let program = duplicate_above(program, ABOVE)?;
    duplicate_at(null, 0)?;
    duplicate_at(null, 1)?;
    duplicate_at(log, 2)?;
    duplicate_at(control, CONTROL)?;
    close_range(4, libc::CLOSE_RANGE_CLOEXEC)?;
    Ok(program)
}

/// Puts copies of `null` at 0 to 2 and closes everything else but `kept`, for a process that is a copy of its parent and
/// drops nothing of what it inherited.
pub fn keep_only(null: RawFd, kept: &[RawFd]) -> Result<(), Errno> {
    for standard in 0..=2 {
        duplicate_at(null, standard)?;
    }
    let mut kept: Vec<u32> = kept.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept.into_iter().filter(|fd| *fd > 2) {
        if fd > first {
            close_between(first, fd.saturating_sub(1))?;
        }
        first = fd.saturating_add(1);
    }
    close_between(first, u32::MAX)
}

/// Checks that the calling process has exactly the placed descriptors, each of its kind.
pub fn check() -> Result<(), Error> {
    for number in [0, 1] {
        let status = status(number)?;
        let device = (major(status.st_rdev), minor(status.st_rdev));
        if kind(&status) != SFlag::S_IFCHR || device != (1, 3) {
            return Err(wrong(number, "is not /dev/null"));
        }
    }
    if kind(&status(2)?) != SFlag::S_IFIFO {
        return Err(wrong(2, "is not the log pipe"));
    }
    let control = placed(CONTROL).map_err(|_| wrong(CONTROL, "is not open"))?;
    let is_unix = getsockname::<SockaddrStorage>(control.as_raw_fd())
        .is_ok_and(|address| address.family() == Some(AddressFamily::Unix));
    if !is_unix || getsockopt(&control, sockopt::SockType) != Ok(SockType::SeqPacket) {
        return Err(wrong(CONTROL, "is not a Unix socket of packets"));
    }
    if let Some(stray) = (4..PROBED).find(|number| is_open(*number)) {
        return Err(wrong(stray, "is open"));
    }
    close_range(PROBED.unsigned_abs(), 0).map_err(|errno| Error::Confine { step: "close_range", errno })
}

fn status(number: RawFd) -> Result<libc::stat, Error> {
    placed(number).and_then(fstat).map_err(|errno| wrong(number, &errno.to_string()))
}

fn kind(status: &libc::stat) -> SFlag {
    SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT
}

fn wrong(number: RawFd, found: &str) -> Error {
    Error::Descriptor { number, found: found.to_owned() }
}
