//! The control channel: one end of a `SOCK_SEQPACKET` pair.
//!
//! A packet arrives whole or not at all, so there is no stream to fall out of step: a frame that is
//! refused is gone, its descriptors are closed, and the receiver decides what becomes of the sender.

use crate::{Error, Message, Phase, descriptors, frame, limits};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4,
    getsockopt, recvmsg, sendmsg, socketpair, sockopt,
};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

/// Room for the control messages of the most descriptors that the kernel passes at once (`SCM_MAX_FD`):
/// whatever a hostile peer attaches is received, so that it can be closed.
const SCM_MAX_FD: usize = 253;

/// One end of a control channel. Close-on-exec.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    /// Of the last frame that was received.
    peer_minor: AtomicU8,
}

impl Channel {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, peer_minor: AtomicU8::new(0) }
    }

    /// The minor version in the last frame that was received; 0 before there was one.
    #[must_use]
    pub fn peer_minor(&self) -> u8 {
        self.peer_minor.load(Relaxed)
    }

    /// Two ends, connected.
    ///
    /// # Errors
    /// `socketpair` failed.
    pub fn pair() -> Result<(Self, Self), Error> {
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|errno| Error::system("socketpair", errno))?;
        Ok((Self::new(one), Self::new(other)))
    }

    /// An end that came by inheritance.
    ///
    /// # Errors
    /// It is not a `SOCK_SEQPACKET` socket.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        match getsockopt(&fd, sockopt::SockType) {
            Ok(SockType::SeqPacket) => Ok(Self::new(fd)),
            Ok(other) => Err(Error::NoChannel { what: format!("a {other:?} socket") }),
            Err(errno) => Err(Error::NoChannel { what: errno.to_string() }),
        }
    }

    /// The next connection of a listening `SOCK_SEQPACKET` socket, non-blocking.
    ///
    /// # Errors
    /// Nobody is there ([`Error::WouldBlock`], if the listener is non-blocking), or `accept4` failed.
    pub fn accept(listener: BorrowedFd<'_>) -> Result<Self, Error> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let accepted =
            accept4(listener.as_raw_fd(), flags).map_err(|errno| Error::system("accept4", errno))?;
        let adopted = descriptors::adopt(&[accepted]).into_iter().next();
        adopted.map(Self::new).ok_or(Error::WouldBlock)
    }

    /// Makes `receive` and `send` answer [`Error::WouldBlock`] instead of waiting.
    ///
    /// # Errors
    /// `fcntl` failed.
    pub fn set_nonblocking(&self, on: bool) -> Result<(), Error> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let flags = if on { OFlag::O_NONBLOCK } else { OFlag::empty() };
        fcntl(&self.socket, FcntlArg::F_SETFL(flags)).map_err(|errno| Error::system("fcntl", errno))?;
        Ok(())
    }

    /// Sends one message with its descriptors.
    ///
    /// # Errors
    /// The wrong number of descriptors, a value beyond its limit, a peer that is gone (`EPIPE`).
    pub fn send<M: Message>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        if fds.len() != message.fds() {
            return Err(Error::Descriptors {
                name: message.name(),
                found: fds.len(),
                expected: message.fds(),
            });
        }
        let packet = frame::encode(message.kind(), &message.encode()?, fds.len())?;
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights[..] };
        loop {
            let parts = [IoSlice::new(&packet)];
            match sendmsg::<()>(self.socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(Error::system("sendmsg", errno)),
            }
        }
    }

    /// Receives one message that is allowed in `phase`, or `None` when the peer has closed its end.
    ///
    /// # Errors
    /// See [`Error`]. Whatever is wrong with the frame, its descriptors are closed.
    pub fn receive<M: Message>(&self, phase: Phase) -> Result<Option<(M, Vec<OwnedFd>)>, Error> {
        let mut packet = vec![0; limits::MAX_FRAME];
        let Some((size, fds)) = self.receive_packet(&mut packet)? else { return Ok(None) };
        let (header, body) = frame::Header::parse(packet.get(..size).unwrap_or_default())?;
        self.peer_minor.store(header.minor, Relaxed);
        let message = M::decode(header.kind, body)?;
        if !message.allowed(phase) {
            return Err(Error::Phase { name: message.name(), phase });
        }
        if fds.len() != message.fds() || usize::from(header.descriptors) != message.fds() {
            return Err(Error::Descriptors {
                name: message.name(),
                found: fds.len(),
                expected: message.fds(),
            });
        }
        Ok(Some((message, fds)))
    }

    fn receive_packet(&self, packet: &mut [u8]) -> Result<Option<(usize, Vec<OwnedFd>)>, Error> {
        let mut control = nix::cmsg_space!([RawFd; SCM_MAX_FD]);
        loop {
            let mut parts = [IoSliceMut::new(packet)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let received =
                match recvmsg::<UnixAddr>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                    Ok(received) => received,
                    Err(nix::errno::Errno::EINTR) => continue,
                    // The peer died with frames of ours unread: it is as gone as one that closed.
                    Err(nix::errno::Errno::ECONNRESET) => return Ok(None),
                    Err(errno) => return Err(Error::system("recvmsg", errno)),
                };
            let mut fds = Vec::new();
            let messages = received.cmsgs().map_err(|errno| Error::system("recvmsg", errno))?;
            for message in messages {
                if let ControlMessageOwned::ScmRights(raw) = message {
                    fds.extend(descriptors::adopt(&raw));
                }
            }
            if received.flags.contains(MsgFlags::MSG_TRUNC) {
                return Err(Error::TooLong { limit: limits::MAX_FRAME });
            }
            let size = received.bytes;
            return Ok(if size == 0 && fds.is_empty() { None } else { Some((size, fds)) });
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.socket
    }
}
