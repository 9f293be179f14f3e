//! One vhost-user connection: requests, acknowledgements and replies, each within a deadline.
//!
//! Of the `vhost` crate this uses the message structures and request ids; its `Frontend` and its endpoint are not used.
//! They have no deadline: EAGAIN, EINTR and ENOMEM become "retry" and their loops swallow that, a refused GET_CONFIG
//! waits for ever, and descriptors that a back end sends are received, without close-on-exec. Here:
//!
//! - a deadline is absolute and holds for everything up to the last byte of the last answer, however slowly it drips;
//! - a reply is refused unless version, flags, request id and size are exactly those of the answer, so that what is
//!   read from the socket is bounded by what was asked;
//! - messages are received without a control buffer: the kernel drops descriptors instead of installing them, and
//!   says so (MSG_CTRUNC). No request of this front end has an answer with descriptors;
//! - what lies in the socket before a request was sent is no answer to it.
//!
//! After any [`Fault`] the stream may be out of step, and the connection must not be used again.

use super::fault::Fault;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, recvmsg, sendmsg};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};
use vhost::vhost_user::message::{FrontendReq, VhostUserHeaderFlag};

const VERSION: u32 = 1;
const HEADER: usize = 12;

/// A moment after which waiting is over.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// `limit` from now.
    #[must_use]
    pub fn after(limit: Duration) -> Self {
        let now = Instant::now();
        Self(now.checked_add(limit).unwrap_or(now))
    }

    /// Time left, at least a millisecond so as not to spin; `None` once it has passed.
    fn left(self) -> Option<PollTimeout> {
        let left = self.0.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        Some(whole_milliseconds(left))
    }
}

/// As poll(2) counts, at least one.
pub(super) fn whole_milliseconds(time: Duration) -> PollTimeout {
    u16::try_from(time.as_millis().saturating_add(1)).unwrap_or(u16::MAX).into()
}

/// See above.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    acknowledged: bool,
}

impl Connection {
    /// Over a connected stream socket.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, acknowledged: false }
    }

    /// From now on each request is acknowledged (VHOST_USER_PROTOCOL_F_REPLY_ACK).
    pub fn set_acknowledged(&mut self, on: bool) {
        self.acknowledged = on;
    }

    /// Whether requests are acknowledged.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        self.acknowledged
    }

    /// Makes a request that has no answer of its own; waits for its acknowledgement if there is one.
    pub fn tell(
        &self,
        request: FrontendReq,
        body: &[u8],
        fds: &[RawFd],
        deadline: Deadline,
    ) -> Result<(), Fault> {
        let flags = if self.acknowledged { VhostUserHeaderFlag::NEED_REPLY.bits() } else { 0 };
        self.send(request, flags, body, fds, deadline)?;
        if self.acknowledged {
            let mut value = [0; 8];
            self.receive(request, &mut value, deadline)?;
            let value = u64::from_ne_bytes(value);
            if value != 0 {
                return Err(Fault::Refused { request, value });
            }
        }
        Ok(())
    }

    /// Makes a request and fills `answer`, whose size is the answer's.
    pub fn ask(
        &self,
        request: FrontendReq,
        body: &[u8],
        answer: &mut [u8],
        deadline: Deadline,
    ) -> Result<(), Fault> {
        self.send(request, 0, body, &[], deadline)?;
        self.receive(request, answer, deadline)
    }

    fn send(
        &self,
        request: FrontendReq,
        flags: u32,
        body: &[u8],
        fds: &[RawFd],
        deadline: Deadline,
    ) -> Result<(), Fault> {
        let mut now = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        if poll(&mut now, PollTimeout::ZERO) == Ok(1) {
            let hung_up =
                now.iter().filter_map(PollFd::revents).any(|found| found.intersects(PollFlags::POLLHUP));
            return Err(if hung_up { Fault::Closed } else { Fault::Unasked });
        }
        let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let header = [request.into(), flags | VERSION, size].map(u32::to_ne_bytes);
        let message = [header.as_flattened(), body].concat();
        let rights = [ControlMessage::ScmRights(fds)];
        let mut control = if fds.is_empty() { &[][..] } else { &rights[..] };
        let mut rest = message.as_slice();
        while !rest.is_empty() {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(rest)], control, flags, None) {
                Ok(sent) => {
                    // The descriptors went with the first byte.
                    control = &[];
                    rest = rest.get(sent..).unwrap_or_default();
                }
                Err(errno) => self.retry("sendmsg", errno, request, PollFlags::POLLOUT, deadline)?,
            }
        }
        Ok(())
    }

    fn receive(&self, request: FrontendReq, answer: &mut [u8], deadline: Deadline) -> Result<(), Fault> {
        let mut header = [0; HEADER];
        self.fill(request, &mut header, deadline)?;
        let (words, _) = header.as_chunks::<4>();
        let [id, flags, size] = words.first_chunk().copied().unwrap_or_default().map(u32::from_ne_bytes);
        // Some back ends send NEED_REPLY back; the standard gives it no meaning here.
        let expected = VERSION | VhostUserHeaderFlag::REPLY.bits();
        if id != u32::from(request) || flags & !VhostUserHeaderFlag::NEED_REPLY.bits() != expected {
            return Err(Fault::Header { request, id, flags });
        }
        if usize::try_from(size) != Ok(answer.len()) {
            return Err(Fault::Size { request, expected: answer.len(), found: size });
        }
        self.fill(request, answer, deadline)
    }

    /// Reads exactly `buffer`.
    fn fill(&self, request: FrontendReq, buffer: &mut [u8], deadline: Deadline) -> Result<(), Fault> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let mut slices = [IoSliceMut::new(rest)];
            let received = recvmsg::<()>(self.socket.as_raw_fd(), &mut slices, None, MsgFlags::MSG_DONTWAIT)
                .map(|message| (message.bytes, message.flags));
            match received {
                Ok((_, flags)) if flags.contains(MsgFlags::MSG_CTRUNC) => {
                    return Err(Fault::Descriptors(request));
                }
                Ok((0, _)) => return Err(Fault::Closed),
                Ok((bytes, _)) => filled = filled.saturating_add(bytes),
                Err(errno) => self.retry("recvmsg", errno, request, PollFlags::POLLIN, deadline)?,
            }
            if deadline.left().is_none() {
                return Err(Fault::Deadline(request));
            }
        }
        Ok(())
    }

    /// Waits until a call that failed may be tried again, if it may.
    fn retry(
        &self,
        call: &'static str,
        errno: Errno,
        request: FrontendReq,
        flags: PollFlags,
        deadline: Deadline,
    ) -> Result<(), Fault> {
        match errno {
            Errno::EAGAIN | Errno::EINTR => {}
            Errno::EPIPE | Errno::ECONNRESET => return Err(Fault::Closed),
            errno => return Err(Fault::System { call, errno }),
        }
        let left = deadline.left().ok_or(Fault::Deadline(request))?;
        match poll(&mut [PollFd::new(self.socket.as_fd(), flags)], left) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Fault::System { call: "poll", errno }),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
