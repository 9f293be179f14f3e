//! Received and inherited file descriptors become owned here, and nowhere else in the crate; and what is to receive none
//! is told so here.
#![expect(
    unsafe_code,
    reason = "adopts the file descriptors that the kernel put into our table; a socket option"
)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc::{SOL_SOCKET, c_int, setsockopt, socklen_t};

/// Linux 6.16, asm-generic/socket.h.
const SO_PASSRIGHTS: c_int = 83;

/// Takes ownership of the descriptors of one `SCM_RIGHTS` control message, or of the one that `accept4` returned.
///
/// Called once per control message, on the very list that `recvmsg` returned, and once per connection: each number is
/// new in this process' table and nobody else knows it. Dropping the result closes them, which is how strays go.
pub(crate) fn adopt(received: &[RawFd]) -> Vec<OwnedFd> {
    // SAFETY: see above: the kernel has just installed these descriptors for this call alone.
    received.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }).collect()
}

/// Takes over descriptor `number`, which was open when this program was executed, if there is one. Not for 0 to 2, which
/// are the standard library's.
///
/// What was inherited is told from what this program opened by close-on-exec: it survived an exec, so it has no such flag,
/// and everything that our programs open has it. It gets the flag here, and so cannot be taken over twice.
pub(crate) fn inherited(number: RawFd) -> Option<OwnedFd> {
    if number <= nix::libc::STDERR_FILENO {
        return None;
    }
    // SAFETY: only looked at; a number that is not open gives an error.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = fcntl(borrowed, FcntlArg::F_GETFD).ok().map(FdFlag::from_bits_truncate)?;
    if flags.contains(FdFlag::FD_CLOEXEC) {
        return None;
    }
    // SAFETY: it is open, and see above: no value in this program owns it, nor will another.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(fd.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    Some(fd)
}

/// From here on nobody can send descriptors to this Unix socket (EPERM), nor to what a listening one accepts. Whether the
/// kernel can do that: Linux 6.16 can. Before, what arrives unasked is closed by who receives it, or lies in the socket until
/// what it came with is read.
pub fn take_no_descriptors(socket: &impl AsFd) -> bool {
    let off: c_int = 0;
    let size = socklen_t::try_from(size_of::<c_int>()).unwrap_or_default();
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads as many bytes as `off` has, for the time of the call.
    unsafe { setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, (&raw const off).cast(), size) == 0 }
}
