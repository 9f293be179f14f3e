//! The back-end channel (vhost-user, VHOST_USER_PROTOCOL_F_BACKEND_REQ): on it a back end says that the device's
//! configuration has changed (VHOST_USER_BACKEND_CONFIG_CHANGE_MSG), and nothing else here.
//!
//! The front end may be hostile: what it gave may be any descriptor, and it may never read. So nothing is waited for, and
//! no answer is asked for. A socket that is full holds the same message already, which nobody has read.
//!
//! Nothing of the `vhost` crate's `Backend` is used: it waits for the front end to take a message.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, sendmsg};
use vhost::vhost_user::message::BackendReq;

use crate::log;

const VERSION: u32 = 1;

/// See above.
pub(crate) struct Announcements(OwnedFd);

impl Announcements {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// The configuration is another than it was. Whether anything can be said here again.
    pub(crate) fn config_changed(&self) -> bool {
        let message = [u32::from(BackendReq::CONFIG_CHANGE_MSG), VERSION, 0].map(u32::to_ne_bytes);
        let message = message.as_flattened();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = loop {
            match sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(message)], &[], flags, None) {
                Err(Errno::EINTR) => {}
                sent => break sent,
            }
        };
        match sent {
            Ok(sent) if sent == message.len() => true,
            Err(Errno::EAGAIN) => true,
            Ok(_) => {
                log::line(
                    "the channel for changes of the configuration took half a message: no more is said there",
                );
                false
            }
            Err(errno) => {
                log::line(format_args!("the channel for changes of the configuration fails: {errno}"));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use nix::sys::socket::{setsockopt, sockopt};

    #[test]
    fn a_front_end_that_does_not_read_stops_nobody_and_has_the_message() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        setsockopt(&ours, sockopt::SndBuf, &4096).unwrap();
        let announcements = Announcements::new(ours.into());
        for _ in 0..500 {
            assert!(announcements.config_changed());
        }
        theirs.set_nonblocking(true).unwrap();
        let mut messages = Vec::new();
        let _would_block = theirs.read_to_end(&mut messages);
        let (messages, rest) = messages.as_chunks::<12>();
        assert!((1..500).contains(&messages.len()) && rest.is_empty(), "{} {rest:?}", messages.len());
        assert!(messages.iter().all(|message| *message == [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]));
        drop(theirs);
        assert!(!announcements.config_changed());
        let no_socket = std::fs::File::open("/dev/null").unwrap();
        assert!(!Announcements::new(no_socket.into()).config_changed());
    }
}
