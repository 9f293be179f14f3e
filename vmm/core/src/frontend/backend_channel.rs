//! The back-end channel (vhost-user, VHOST_USER_PROTOCOL_F_BACKEND_REQ): a second socket, on which the back end speaks first.
//! One thing may be said there: that the device's configuration has changed (VHOST_USER_BACKEND_CONFIG_CHANGE_MSG).
//! What it has become is then asked for on the connection, as ever.
//!
//! Of the `vhost` crate this uses the numbers; its `FrontendReqHandler` is not used: it takes descriptors, without
//! close-on-exec, and every request that it knows, whatever was negotiated.
//!
//! Who speaks here is hostile. Messages are received without a control buffer, so that descriptors never come in; each
//! has one size, and any other, or another request, is the fault of the back end; answers, where it wants them,
//! never wait for it to read. **A flood costs the device only**: however much is said is one change, a look reads a bounded
//! number of bytes, and after it the channel is not looked at for [`REST`]. What is said meanwhile waits in the socket, and
//! when that is full, with the back end. So a driver, too, has time to read a configuration between two changes of its
//! generation.
//!
//! One pair of sockets serves all back ends of a device, since the serving filter has no `socketpair`. What a predecessor
//! that is gone has left unread there, in either direction, is thrown away. One that is not gone yet (one that is being
//! replaced, or somebody else's) can make its successor look at fault once, which is that device's loss; and one that has
//! shut its end down has done so for all that come after it, who are then not heard, and not at fault.

use super::fault::Fault;
use crate::Error;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};
use vhost::vhost_user::message::{BackendReq, VhostUserHeaderFlag};

/// Between two looks at what may be a flood.
pub const REST: Duration = Duration::from_millis(100);
/// Messages of one look. As many may be the answers that a back end leaves unread for the kernel to keep.
const MOST: usize = 64;
/// Looks at most at what a predecessor has left. More than the kernel keeps for one socket is not left, but being sent.
const MOST_LEFT: usize = 1024;
const HEADER: usize = 12;
const VERSION: u32 = 1;

/// See above.
#[derive(Debug)]
pub struct BackendChannel {
    ours: OwnedFd,
    pub(super) theirs: OwnedFd,
    header: [u8; HEADER],
    filled: usize,
    /// Nobody can say anything here any more.
    ended: bool,
    rests_until: Option<Instant>,
}

impl BackendChannel {
    /// A pair of sockets. Only before the serving filter.
    pub fn new() -> Result<Self, Error> {
        let (family, kind) = (AddressFamily::Unix, SockType::Stream);
        let (ours, theirs) = socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)
            .map_err(|errno| Error::System { call: "socketpair", errno })?;
        protocol::take_no_descriptors(&ours);
        Ok(Self::of(ours, theirs))
    }

    fn of(ours: OwnedFd, theirs: OwnedFd) -> Self {
        Self { ours, theirs, header: [0; HEADER], filled: 0, ended: false, rests_until: None }
    }

    /// What SET_BACKEND_REQ_FD carries; nothing, if nothing can be said there any more.
    #[must_use]
    pub fn descriptor(&self) -> Option<RawFd> {
        (!self.ended).then(|| self.theirs.as_raw_fd())
    }

    /// Where the back end speaks.
    #[must_use]
    pub fn back_end(&self) -> BorrowedFd<'_> {
        self.theirs.as_fd()
    }

    /// Whether something may yet be said there.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.ended
    }

    /// How long it is not to be looked at yet.
    #[must_use]
    pub fn rests(&self, now: Instant) -> Option<Duration> {
        let left = self.rests_until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Forgets what a back end that is gone has left there, and what it was answered and has not read.
    pub fn renew(&mut self) {
        self.filled = 0;
        let mut left = [0; 4096];
        for socket in [&self.ours, &self.theirs] {
            for _ in 0..MOST_LEFT {
                // What came with descriptors is gone as well, and they with it.
                match receive_into(socket, &mut left) {
                    Ok(Received::Bytes(_)) | Err(Fault::BackendDescriptors) => {}
                    _ => break,
                }
            }
        }
    }

    /// Whether the back end has said that its configuration changed. Never waits. `acknowledged`: it may want answers.
    ///
    /// # Errors
    /// It said something else, or does not read its answers.
    pub fn look(&mut self, now: Instant, acknowledged: bool) -> Result<bool, Fault> {
        self.rests_until = now.checked_add(REST);
        let mut said = false;
        for _ in 0..MOST {
            let Some(needs_reply) = self.receive()? else { break };
            said = true;
            // Before the configuration is asked for: it may wait for this, and answer nothing else until then.
            if needs_reply && acknowledged {
                self.answer()?;
            }
        }
        Ok(said)
    }

    /// One message, if all of it is there: whether it wants an answer.
    fn receive(&mut self) -> Result<Option<bool>, Fault> {
        while self.filled < HEADER {
            let mut header = self.header;
            let rest = header.get_mut(self.filled..).unwrap_or_default();
            let bytes = match receive_into(&self.ours, rest)? {
                Received::Bytes(bytes) => bytes,
                Received::Nothing => return Ok(None),
                Received::End => {
                    self.ended = true;
                    return Ok(None);
                }
            };
            self.header = header;
            self.filled = self.filled.saturating_add(bytes);
        }
        self.filled = 0;
        let (words, _) = self.header.as_chunks::<4>();
        let [id, flags, size] = words.first_chunk().copied().unwrap_or_default().map(u32::from_ne_bytes);
        let needs_reply = VhostUserHeaderFlag::NEED_REPLY.bits();
        if id != u32::from(BackendReq::CONFIG_CHANGE_MSG) || flags & !needs_reply != VERSION || size != 0 {
            return Err(Fault::BackendRequest { id, flags, size });
        }
        Ok(Some(flags & needs_reply != 0))
    }

    fn answer(&self) -> Result<(), Fault> {
        let flags = VERSION | VhostUserHeaderFlag::REPLY.bits();
        let words = [BackendReq::CONFIG_CHANGE_MSG.into(), flags, 8, 0, 0].map(u32::to_ne_bytes);
        let (bytes, flags) = (words.as_flattened(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        match sendmsg::<()>(self.ours.as_raw_fd(), &[IoSlice::new(bytes)], &[], flags, None) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Err(Fault::Unread),
            Err(Errno::EPIPE | Errno::ECONNRESET) => Err(Fault::Closed),
            Err(errno) => Err(Fault::System { call: "sendmsg", errno }),
        }
    }
}

/// What there is to be read.
enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// Nothing ever: somebody who had the other end has shut it down.
    End,
}

/// Never waits.
fn receive_into(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Received, Fault> {
    let mut slices = [IoSliceMut::new(buffer)];
    loop {
        let received = recvmsg::<()>(socket.as_raw_fd(), &mut slices, None, MsgFlags::MSG_DONTWAIT)
            .map(|message| (message.bytes, message.flags));
        match received {
            Ok((_, flags)) if flags.contains(MsgFlags::MSG_CTRUNC) => return Err(Fault::BackendDescriptors),
            Ok((0, _)) => return Ok(Received::End),
            Ok((bytes, _)) => return Ok(Received::Bytes(bytes)),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(Received::Nothing),
            Err(errno) => return Err(Fault::System { call: "recvmsg", errno }),
        }
    }
}

impl AsFd for BackendChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::ControlMessage;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    const CHANGE: [u32; 3] = [2, VERSION, 0];

    /// As where the kernel cannot keep descriptors away.
    fn channel() -> (BackendChannel, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let channel = BackendChannel::of(ours.into(), theirs.into());
        let theirs = channel.theirs.try_clone().unwrap();
        (channel, theirs.into())
    }

    fn bytes(words: [u32; 3]) -> Vec<u8> {
        words.map(u32::to_ne_bytes).as_flattened().to_vec()
    }

    #[test]
    fn a_flood_is_one_change_a_look_and_waits_with_who_sends_it() {
        let (mut channel, mut theirs) = channel();
        let mut sent = 0;
        while theirs.write_all(&bytes(CHANGE)).is_ok() {
            sent += 1;
        }
        let now = Instant::now();
        let mut looks = 0;
        while channel.look(now, true).unwrap() {
            looks += 1;
            assert_eq!(channel.rests(now), Some(REST));
        }
        assert_eq!(channel.rests(now + REST), None);
        assert_eq!(looks, usize::div_ceil(sent, MOST), "{sent} messages");
    }

    #[test]
    fn what_is_no_change_of_the_configuration_is_a_fault() {
        for [id, flags, size] in [
            [1, VERSION, 0],
            [3, VERSION, 0],
            [0, VERSION, 0],
            [u32::MAX, VERSION, 0],
            [2, 0, 0],
            [2, 2, 0],
            [2, VERSION | 4, 0],
            [2, VERSION | 16, 0],
            [2, VERSION, 1],
            [2, VERSION, 0x1001],
            [2, VERSION, u32::MAX],
        ] {
            let (mut channel, mut theirs) = channel();
            theirs.write_all(&bytes([id, flags, size])).unwrap();
            assert_eq!(channel.look(Instant::now(), true), Err(Fault::BackendRequest { id, flags, size }));
        }
    }

    #[test]
    fn an_end_that_is_shut_down_is_silent_and_nobodys_fault() {
        let (mut channel, mut theirs) = channel();
        theirs.write_all(&bytes(CHANGE)).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(channel.look(Instant::now(), true), Ok(true));
        assert!(!channel.is_open() && channel.descriptor().is_none());
        channel.renew();
        assert_eq!(channel.look(Instant::now(), true), Ok(false));
    }

    #[test]
    fn what_was_left_with_descriptors_and_what_was_answered_goes_with_who_left_it() {
        let (mut channel, mut theirs) = channel();
        for _ in 0..3 {
            crate::frontend::tests::send_with_fd(&theirs, &bytes(CHANGE), theirs.as_raw_fd());
        }
        channel.renew();
        let wanted = bytes([2, VERSION | 8, 0]);
        loop {
            theirs.write_all(&wanted).unwrap();
            if channel.look(Instant::now(), true) == Err(Fault::Unread) {
                break;
            }
        }
        channel.renew();
        theirs.write_all(&wanted).unwrap();
        assert_eq!(channel.look(Instant::now(), true), Ok(true));
        theirs.set_nonblocking(true).unwrap();
        let mut answers = Vec::new();
        let _would_block = theirs.read_to_end(&mut answers);
        assert_eq!(answers.len(), 20, "the successor's own");
    }

    #[test]
    fn descriptors_never_come_in() {
        let (mut channel, theirs) = channel();
        crate::frontend::tests::send_with_fd(&theirs, &bytes(CHANGE), theirs.as_raw_fd());
        assert_eq!(channel.look(Instant::now(), true), Err(Fault::BackendDescriptors));
    }

    #[test]
    fn where_the_kernel_can_it_keeps_descriptors_away() {
        let kernel_can = protocol::take_no_descriptors(&UnixStream::pair().unwrap().0);
        let channel = BackendChannel::new().unwrap();
        let theirs = &channel.theirs;
        let rights = [ControlMessage::ScmRights(&[theirs.as_raw_fd()])];
        let parts = [IoSlice::new(b"x")];
        let sent = sendmsg::<()>(theirs.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None);
        assert_eq!(sent == Err(Errno::EPERM), kernel_can, "{sent:?}");
    }

    #[test]
    fn answers_wait_for_nobody() {
        let (mut channel, mut theirs) = channel();
        let wanted = bytes([2, VERSION | 8, 0]);
        let fault = loop {
            theirs.write_all(&wanted).unwrap();
            match channel.look(Instant::now(), true) {
                Ok(said) => assert!(said),
                Err(fault) => break fault,
            }
        };
        assert_eq!(fault, Fault::Unread);
    }

    #[test]
    fn half_a_message_waits_for_the_other_and_goes_with_who_sent_it() {
        let (mut channel, mut theirs) = channel();
        let whole = bytes(CHANGE);
        let now = Instant::now();
        theirs.write_all(&whole[..7]).unwrap();
        assert_eq!(channel.look(now, true), Ok(false));
        theirs.write_all(&whole[7..]).unwrap();
        assert_eq!(channel.look(now, true), Ok(true));
        theirs.write_all(&whole[..7]).unwrap();
        assert_eq!(channel.look(now, true), Ok(false));
        theirs.write_all(&[0xFF; 10_000]).unwrap();
        channel.renew();
        theirs.write_all(&whole).unwrap();
        assert_eq!(channel.look(now, true), Ok(true), "the successor begins with a message");
    }
}
