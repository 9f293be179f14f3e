//! A stream in place of a tap: a connected Unix socket on which each frame has its length in front, as big-endian u32, and no
//! virtio-net header. It is what QEMU calls `-netdev stream`, and what passt speaks.
//!
//! # One stream, many processes
//!
//! All processes of a device have the same connection, one after the other, and one may end at any instruction. A frame that
//! was taken, or sent, in part would have the next process read lengths out of the middle of a frame. So the stream stands
//! at a frame's boundary at every instant, in both directions:
//!
//! * Nothing is taken before a frame has arrived whole. Its length is looked at and left where it is (MSG_PEEK), what has
//!   arrived is counted (FIONREAD), and then one call takes length and frame: it finds all of it there, so that nothing can
//!   cut it short. A frame that nobody wants is taken in the same way.
//! * A frame is sent by one call. A Unix stream socket puts what is sent into buffers of up to 48 KiB (`unix_stream_sendmsg`:
//!   half of the socket's own SO_SNDBUF, and what fits into one buffer of which all but the head is in pages), and takes each
//!   whole or, when it is full, not at all. No frame here is longer than [`LONGEST`], and a socket with less room is refused.
//!
//! # A peer that is no good
//!
//! A length that no frame has is the end of the stream: nobody can tell where the next frame begins. So is a peer that
//! closed it, and a call that moved a part of a frame after all, which a peer achieves that sends descriptors in the middle
//! of one. The link is then down, the log says why, once, and everything else goes on. A successor finds the same in the
//! stream, and says the same.
//!
//! # Waiting
//!
//! A frame that has arrived in part makes the socket readable, for as long as the peer likes. What is waited for is
//! therefore not the socket but an epoll of its edges: it becomes readable when something more has arrived.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use device_backend::{Error, Reader, Writer, bytes_waiting, log_line, read_stream};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, MsgFlags, SockType, SockaddrLike, getsockopt, recvmsg, sockopt};
use nix::sys::socket::{SockaddrStorage, getsockname};
use nix::sys::time::TimeSpec;
use protocol::limits;

use crate::frame;
use crate::wire::{ETHERNET_HEADER, VLAN_TAG};

/// Bytes of the length in front of a frame.
pub const LENGTH: usize = 4;
/// Bytes of the longest frame that is sent, with its length.
pub const LONGEST: usize = LENGTH + ETHERNET_HEADER + VLAN_TAG + limits::MAX_STREAM_MTU as usize;
/// What of a socket's SO_SNDBUF is for one buffer, in `unix_stream_sendmsg`: half of it less 64.
const SEND_BUFFER: usize = 2 * (LONGEST + 64);
/// How long a send waits for a peer that takes nothing, each time.
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(10);
/// What a frame is taken to that nobody wants.
const DISCARDED: usize = LENGTH + frame::MOST;

/// Why no frames come or go any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Length(u32),
    Part { moved: usize, of: usize },
    Failed(Errno),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => write!(f, "the peer closed the stream"),
            Self::Length(length) => {
                write!(
                    f,
                    "the peer announces a frame of {length} bytes, which none has (1 to {})",
                    frame::MOST
                )
            }
            Self::Part { moved, of } => {
                write!(f, "{moved} bytes of a frame of {of} went over the stream, and not the rest")
            }
            Self::Failed(errno) => write!(f, "the stream fails: {errno}"),
        }
    }
}

/// What is next on the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// No whole frame.
    Nothing,
    /// One of so many bytes, of which all are there.
    Frame(usize),
}

/// What came of looking for a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// There is none.
    None,
    /// One was taken, and there is no room for it.
    Dropped,
    /// One of so many bytes.
    Frame(usize),
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The stream has it, or will never take it.
    Done,
    /// The stream is full.
    Full,
}

/// See above.
#[derive(Debug)]
pub struct Stream {
    socket: OwnedFd,
    arrivals: Epoll,
    ended: AtomicBool,
    /// Of `ended`.
    changes: EventFd,
}

/// The length that a frame of the peer has, by what is in front of it.
fn length(front: [u8; LENGTH]) -> Result<usize, End> {
    let length = u32::from_be_bytes(front);
    let fits = usize::try_from(length).ok().filter(|length| (1..=frame::MOST).contains(length));
    fits.ok_or(End::Length(length))
}

/// What goes in front of the rest of a frame of so many bytes, of which `ethernet` are the first; None for a frame that is too long.
#[must_use]
pub fn front(ethernet: [u8; ETHERNET_HEADER], bytes: usize) -> Option<[u8; LENGTH + ETHERNET_HEADER]> {
    let mut front = [0; LENGTH + ETHERNET_HEADER];
    let bytes = u32::try_from(bytes).ok().filter(|_| bytes <= LONGEST.saturating_sub(LENGTH))?;
    let (length, rest) = front.split_first_chunk_mut()?;
    *length = bytes.to_be_bytes();
    rest.copy_from_slice(&ethernet);
    Some(front)
}

impl Stream {
    /// Takes over what was handed on, without taking anything from it: a predecessor may serve it still.
    ///
    /// # Errors
    /// It is no stream of the Unix family, or has no room for a frame.
    pub fn new(socket: OwnedFd) -> Result<Self, Error> {
        let wrong = |what: String| Error::Resource(format!("the stream cannot be used: {what}"));
        let failed = |what: &'static str| move |errno| wrong(format!("{what}: {errno}"));
        let address: SockaddrStorage =
            getsockname(socket.as_raw_fd()).map_err(failed("asked for its address"))?;
        let kind = getsockopt(&socket, sockopt::SockType).map_err(failed("asked for its type"))?;
        if address.family() != Some(AddressFamily::Unix) || kind != SockType::Stream {
            return Err(wrong("it is no stream socket of the Unix family".to_owned()));
        }
        let room = getsockopt(&socket, sockopt::SndBuf).map_err(failed("asked for its room"))?;
        if room < SEND_BUFFER {
            let why = format!(
                "its room for sending is {room} bytes, not {SEND_BUFFER}; raise net.core.wmem_default"
            );
            return Err(wrong(why));
        }
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed("set not to wait"))?;
        let arrivals = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed("make an epoll for it"))?;
        let edges = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
        arrivals.add(&socket, edges).map_err(failed("wait for it"))?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let changes = EventFd::from_value_and_flags(0, flags).map_err(failed("make an eventfd for it"))?;
        let stream = Self { socket, arrivals, ended: AtomicBool::new(false), changes };
        // So that the driver is told from the beginning how it is.
        if let Err(end) = stream.next() {
            stream.end(end);
        }
        Ok(stream)
    }

    /// Whether frames can pass.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.ended.load(Relaxed)
    }

    /// What becomes readable when no frames can pass any more.
    #[must_use]
    pub fn changes(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }

    /// What becomes readable when something has arrived.
    #[must_use]
    pub fn arrivals(&self) -> BorrowedFd<'_> {
        self.arrivals.0.as_fd()
    }

    /// Takes the next frame, if it is there, to the beginning of `room`, or to nowhere if it does not fit or is not `wanted`.
    /// `discarded` is room for what is thrown away, made by the function of that name.
    pub fn receive(&self, room: Writer<'_, '_>, wanted: bool, discarded: &mut [u8]) -> Received {
        let taken = match self.find() {
            Ok(None) => Ok(Received::None),
            Ok(Some(length)) => self.take(room, length, wanted, discarded),
            Err(end) => Err(end),
        };
        taken.unwrap_or_else(|end| {
            self.end(end);
            Received::None
        })
    }

    /// Sends one frame: `front`, which has its length, and what is left of `rest`.
    pub fn send(&self, front: &[u8], rest: &Reader<'_, '_>) -> Sent {
        if !self.is_open() {
            return Sent::Done;
        }
        let whole = front.len().saturating_add(rest.remaining());
        match rest.write_packet(&self.socket, front) {
            Ok(moved) if moved == whole => {}
            Ok(moved) => self.end(End::Part { moved, of: whole }),
            Err(Errno::EAGAIN) => return Sent::Full,
            Err(Errno::EPIPE | Errno::ECONNRESET) => self.end(End::Closed),
            // The frame is in too many pieces, or there is no memory for it: it is lost, and no part of it was sent.
            Err(_) => {}
        }
        Sent::Done
    }

    /// Waits a moment for room to send.
    pub fn wait(&self) {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
        // Whatever comes of it, the next send says more.
        let _ = ppoll(&mut fds, Some(TimeSpec::from(PATIENCE)), None);
    }

    /// The length of the next frame, if it is there. If not, all edges so far have been looked at.
    fn find(&self) -> Result<Option<usize>, End> {
        loop {
            match if self.is_open() { self.next()? } else { Next::Nothing } {
                Next::Frame(length) => return Ok(Some(length)),
                Next::Nothing if self.take_edge() => {}
                Next::Nothing => return Ok(None),
            }
        }
    }

    /// What is next. Nothing is taken.
    fn next(&self) -> Result<Next, End> {
        let mut front = [0; LENGTH];
        let mut slices = [IoSliceMut::new(&mut front)];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match recvmsg::<()>(self.socket.as_raw_fd(), &mut slices, None, flags).map(|message| message.bytes) {
            Ok(0) | Err(Errno::ECONNRESET) => return Err(End::Closed),
            Ok(LENGTH) => {}
            // What a peer that has closed leaves of a frame is read as the end once the end is there.
            Ok(_) if self.has_hung_up() => return Err(End::Closed),
            Ok(_) | Err(Errno::EAGAIN) => return Ok(Next::Nothing),
            Err(errno) => return Err(End::Failed(errno)),
        }
        let length = length(front)?;
        let there = bytes_waiting(&self.socket).map_err(End::Failed)?;
        match there >= length.saturating_add(LENGTH) {
            true => Ok(Next::Frame(length)),
            false if self.has_hung_up() => Err(End::Closed),
            false => Ok(Next::Nothing),
        }
    }

    /// Whether nothing more will arrive.
    fn has_hung_up(&self) -> bool {
        // POLLHUP is always asked for.
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        ppoll(&mut fds, Some(TimeSpec::from(std::time::Duration::ZERO)), None).is_ok_and(|ready| ready > 0)
    }

    /// Takes a frame of `length` bytes that is there.
    fn take(
        &self,
        mut room: Writer<'_, '_>,
        length: usize,
        wanted: bool,
        discarded: &mut [u8],
    ) -> Result<Received, End> {
        let of = length.saturating_add(LENGTH);
        let (mut front, fits) = ([0; LENGTH], wanted && length <= room.remaining());
        // What is cut off is room that the frame does not need.
        let _ = room.split_off(length);
        let taken = if fits { room.read_whole(&self.socket, &mut front) } else { Err(Errno::EMSGSIZE) };
        let (moved, received) = match taken {
            Err(Errno::EMSGSIZE) => {
                let discarded = discarded.get_mut(..of).unwrap_or_default();
                (read_stream(&self.socket, discarded).map_err(End::Failed)?, Received::Dropped)
            }
            taken => (taken.map_err(End::Failed)?, Received::Frame(length)),
        };
        if moved == of { Ok(received) } else { Err(End::Part { moved, of }) }
    }

    /// Whether there was an edge since it was asked for last.
    fn take_edge(&self) -> bool {
        let mut events = [EpollEvent::empty()];
        self.arrivals.wait(&mut events, EpollTimeout::ZERO).is_ok_and(|edges| edges > 0)
    }

    /// No frames pass any more.
    fn end(&self, why: End) {
        if !self.ended.swap(true, Relaxed) {
            log_line(format_args!("the link is down: {why}"));
            let _ = self.changes.write(1);
        }
    }
}

/// Where frames go that nobody wants.
#[must_use]
pub fn discarded() -> Vec<u8> {
    vec![0; DISCARDED]
}

#[cfg(test)]
mod tests;
