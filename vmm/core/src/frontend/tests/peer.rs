//! The other end of the socket: a back end whose answers a test chooses.

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use vhost::vhost_user::message::FrontendReq;

pub const REPLY: u32 = 1 | 4;
pub const NEED_REPLY: u32 = 8;
/// VERSION_1, PROTOCOL_FEATURES, EVENT_IDX, FLUSH, and three that must not reach a guest: SCSI, IN_ORDER, RING_PACKED.
pub const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 29 | 1 << 9 | 1 << 7 | 1 << 35 | 1 << 34;
/// Everything there is.
pub const PROTOCOL_FEATURES: u64 = u64::MAX;

/// One request, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub id: u32,
    pub flags: u32,
    pub body: Vec<u8>,
    pub fds: usize,
}

impl Request {
    pub fn is(&self, request: FrontendReq) -> bool {
        self.id == u32::from(request)
    }

    pub fn word(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.body[at..at + 4].try_into().unwrap())
    }
}

/// A message of the back end.
pub fn message(id: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let header = [id, flags, u32::try_from(body.len()).unwrap()].map(u32::to_ne_bytes);
    [header.as_flattened(), body].concat()
}

/// The answer of a back end that behaves; `None` where the request has none.
pub fn good_answer(request: &Request) -> Option<Vec<u8>> {
    let value = |value: u64| Some(message(request.id, REPLY, &value.to_ne_bytes()));
    match request.id {
        1 => value(FEATURES),
        15 => value(PROTOCOL_FEATURES),
        17 => value(2),
        24 => {
            let mut body = request.body.clone();
            body[12..].fill(0x5A);
            Some(message(request.id, REPLY, &body))
        }
        11 => Some(message(request.id, REPLY, &request.body)),
        _ if request.flags & NEED_REPLY != 0 => value(0),
        _ => None,
    }
}

pub fn receive(stream: &mut UnixStream) -> Option<Request> {
    let mut header = [0; 12];
    let mut space = nix::cmsg_space!([RawFd; 32]);
    let (bytes, fds) = {
        let mut slices = [IoSliceMut::new(&mut header)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let found = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags).ok()?;
        let fds: Vec<RawFd> = found
            .cmsgs()
            .unwrap()
            .flat_map(|message| if let ControlMessageOwned::ScmRights(fds) = message { fds } else { vec![] })
            .collect();
        (found.bytes, fds)
    };
    let count = fds.into_iter().map(|fd| nix::unistd::close(fd).unwrap()).count();
    if bytes == 0 {
        return None;
    }
    stream.read_exact(&mut header[bytes..]).ok()?;
    let words: Vec<u32> = header.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
    let mut body = vec![0; words[2] as usize];
    stream.read_exact(&mut body).ok()?;
    Some(Request { id: words[0], flags: words[1], body, fds: count })
}

pub fn send_with_fd(stream: &UnixStream, bytes: &[u8], fd: RawFd) {
    send_with_fds(stream, bytes, &[fd]);
}

pub fn send_with_fds(stream: &UnixStream, bytes: &[u8], fds: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(fds)];
    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::empty(), None).unwrap();
}

/// A back end that sends what `answer` gives, until the front end is gone or `answer` breaks off.
pub fn back_end(
    mut answer: impl FnMut(&mut UnixStream, &Request) -> std::ops::ControlFlow<()> + Send + 'static,
) -> (OwnedFd, JoinHandle<()>) {
    let (front, mut back) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        while let Some(request) = receive(&mut back) {
            if answer(&mut back, &request).is_break() {
                return;
            }
        }
    });
    (front.into(), thread)
}

/// Sends the answer of a back end that behaves.
pub fn behave(stream: &mut UnixStream, request: &Request) {
    if let Some(answer) = good_answer(request) {
        // The front end may have gone meanwhile.
        let _gone = stream.write_all(&answer);
    }
}
