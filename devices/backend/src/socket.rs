//! The vhost-user socket: bytes and file descriptors, and nothing about what they mean.
//!
//! The `vhost` crate's `Endpoint` is not used. It spins on EAGAIN, takes descriptors without close-on-exec,
//! and loses step when more than 32 arrive. Here every descriptor that the kernel installs is owned before
//! anything is judged, so that a refused message gives back all it brought. When the kernel itself had no room
//! for them (MSG_CTRUNC), the connection is over, and with it the program.
#![expect(unsafe_code, reason = "adoption of the file descriptors that recvmsg installs")]

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::Error;

/// SCM_MAX_FD: the kernel sends no more in one message, so a buffer of this size is never too short.
const MAX_DESCRIPTORS: usize = 253;

/// One end of a SOCK_STREAM pair.
pub(crate) struct Socket(OwnedFd);

impl Socket {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Fills `buffer`, adding to `descriptors` whatever came along. Returns false when the peer closed the
    /// connection before the first byte.
    pub(crate) fn receive(&self, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> Result<bool, Error> {
        let mut filled = 0usize;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.receive_once(rest, descriptors) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(Error::Truncated),
                Ok(count) => filled = filled.saturating_add(count),
                Err(Errno::EINTR) => {}
                // Whoever gave us this socket may have made it non-blocking.
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLIN)?,
                Err(Errno::ECONNRESET) if filled == 0 => return Ok(false),
                // Of a stream that is received from, only its control data can be too much.
                Err(Errno::ENOBUFS) => return Err(Error::DescriptorFlood),
                Err(errno) => return Err(Error::System { action: "receive from the front end", errno }),
            }
        }
        Ok(true)
    }

    /// Sends all of `bytes`, with `descriptor` on the first of them. Returns false when the peer is gone: that is
    /// no failure of ours, and how the peer ended is for others to say.
    pub(crate) fn send(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<bool, Error> {
        let mut sent = 0usize;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            let raw: Vec<RawFd> = descriptor.iter().filter(|_| sent == 0).map(AsRawFd::as_raw_fd).collect();
            let rights = [ControlMessage::ScmRights(&raw)];
            let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
            let flags = MsgFlags::MSG_NOSIGNAL;
            match sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(rest)], rights, flags, None) {
                Ok(count) => sent = sent.saturating_add(count),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT)?,
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(false),
                Err(errno) => return Err(Error::System { action: "send to the front end", errno }),
            }
        }
        Ok(true)
    }

    fn wait(&self, events: PollFlags) -> Result<(), Error> {
        match ppoll(&mut [PollFd::new(self.0.as_fd(), events)], None, None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Error::System { action: "wait for the front end", errno }),
        }
    }

    fn receive_once(&self, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> Result<usize, Errno> {
        let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
        let mut slices = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(self.0.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
        for control_message in message.cmsgs()? {
            let ControlMessageOwned::ScmRights(received) = control_message else { continue };
            descriptors.extend(received.into_iter().map(|fd| {
                // SAFETY: recvmsg has just installed `fd` in this process and nobody else knows of it.
                unsafe { OwnedFd::from_raw_fd(fd) }
            }));
        }
        Ok(message.bytes)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_peer_that_is_gone_is_an_answer_and_no_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let socket = Socket::new(ours.into());
        assert!(socket.send(b"request", None).unwrap());
        drop(theirs);
        assert!(!socket.send(b"reply", None).unwrap());
        assert!(!socket.receive(&mut [0; 4], &mut Vec::new()).unwrap());
    }
}
