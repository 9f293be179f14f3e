//! Requests of the vhost-user protocol and their bodies, by their numbers and layouts in the specification.

use std::io::{IoSlice, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::error::tried;
use crate::{Error, Result};

/// By their numbers.
pub mod request {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SET_INFLIGHT_FD: u32 = 32;
}

/// Header flags: version 1, and "answer this".
const VERSION: u32 = 1;
const NEED_REPLY: u32 = 1 << 3;
/// Flags of a reply.
const REPLY: u32 = VERSION | 1 << 2;
/// A limit on hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Added to guest-physical addresses to make user addresses, so that the two cannot be taken for each other.
const USER: u64 = 0x7000_0000_0000;

/// The socket of one back end.
pub struct Connection(UnixStream);

impl Connection {
    pub fn new(socket: UnixStream) -> Result<Self> {
        socket.set_nonblocking(false).map_err(tried("cannot make a socket wait"))?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(tried("cannot limit a socket's wait"))?;
        Ok(Self(socket))
    }

    pub fn socket(&self) -> &UnixStream {
        &self.0
    }

    /// A request without an answer.
    pub fn tell(&self, request: u32, body: &[u8], fds: &[RawFd]) -> Result<()> {
        self.send(request, VERSION, body, fds)
    }

    /// A request that must be accepted.
    pub fn ask(&self, request: u32, body: &[u8], fds: &[RawFd]) -> Result<()> {
        self.send(request, VERSION | NEED_REPLY, body, fds)?;
        match self.answer(request)? {
            0 => Ok(()),
            refused => Err(Error::Unexpected(format!("request {request} was refused: {refused}"))),
        }
    }

    /// A request that is answered by one number.
    pub fn get(&self, request: u32) -> Result<u64> {
        self.send(request, VERSION, &[], &[])?;
        self.answer(request)
    }

    fn send(&self, request: u32, flags: u32, body: &[u8], fds: &[RawFd]) -> Result<()> {
        let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let header = [request, flags, size].map(u32::to_ne_bytes);
        let parts = [IoSlice::new(header.as_flattened()), IoSlice::new(body)];
        let rights = [ControlMessage::ScmRights(fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
        match sendmsg::<()>(self.0.as_raw_fd(), &parts, rights, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => Ok(()),
            Err(errno) => Err(tried(format!("request {request}"))(errno.into())),
        }
    }

    fn answer(&self, request: u32) -> Result<u64> {
        let mut bytes = [0; 20];
        (&self.0).read_exact(&mut bytes).map_err(tried(format!("the answer to request {request}")))?;
        let (header, number) = bytes.split_at(12);
        let expected = [request, REPLY, 8].map(u32::to_ne_bytes);
        if header != expected.as_flattened() {
            return Err(Error::Unexpected(format!("request {request} was answered with header {header:?}")));
        }
        Ok(number.first_chunk().copied().map_or(0, u64::from_ne_bytes))
    }
}

/// One region at guest-physical 0.
pub fn memory_table(size: u64) -> Vec<u8> {
    let words = [1, 0, size, USER, 0].map(u64::to_ne_bytes);
    // The count of 32 bits and its padding are one word on this architecture.
    words.as_flattened().to_vec()
}

/// A ring's number and a value.
pub fn state(index: u32, value: u32) -> Vec<u8> {
    [index, value].map(u32::to_ne_bytes).as_flattened().to_vec()
}

/// Of ring 0.
pub fn ring_addresses(descriptors: u64, available: u64, used: u64) -> Vec<u8> {
    let user = |address: u64| address.wrapping_add(USER);
    [0, user(descriptors), user(used), user(available), 0].map(u64::to_ne_bytes).as_flattened().to_vec()
}

/// A region for one ring.
pub fn inflight(size: u64, entries: u16) -> Vec<u8> {
    let numbers = [1, entries, 0, 0].map(u16::to_ne_bytes);
    [&size.to_ne_bytes()[..], &0_u64.to_ne_bytes(), numbers.as_flattened()].concat()
}

/// struct virtq_desc
pub fn descriptor(at: u64, size: u32, written: bool, next: Option<u16>) -> Vec<u8> {
    let flags = u16::from(next.is_some()) | u16::from(written) << 1;
    let [low, high] = [flags, next.unwrap_or_default()].map(u16::to_le_bytes);
    [&at.to_le_bytes()[..], &size.to_le_bytes(), &low, &high].concat()
}
