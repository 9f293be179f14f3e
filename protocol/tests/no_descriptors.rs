//! A socket that is for none takes no descriptors, nor does what is accepted from it; where the kernel cannot do that, each
//! says so and they arrive.

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use protocol::take_no_descriptors;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};

/// What comes of sending one.
fn sent(from: &impl AsFd) -> Result<usize, Errno> {
    let raw = from.as_fd().as_raw_fd();
    let (parts, fds) = ([IoSlice::new(b"x")], [raw]);
    sendmsg::<()>(raw, &parts, &[ControlMessage::ScmRights(&fds)], MsgFlags::empty(), None)
}

#[test]
fn what_is_for_no_descriptors_is_sent_none() {
    let (one, other) = UnixStream::pair().unwrap();
    assert_eq!(sent(&other), Ok(1));
    let can = take_no_descriptors(&one);
    let expected = if can { Err(Errno::EPERM) } else { Ok(1) };
    assert_eq!((sent(&other), sent(&one)), (expected, Ok(1)), "of one end alone");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    assert_eq!(take_no_descriptors(&listener), can);
    let client = UnixStream::connect(&path).unwrap();
    let before = sent(&client);
    let _accepted = listener.accept().unwrap();
    assert_eq!((before, sent(&client)), (expected, expected));
    assert!(!take_no_descriptors(&std::io::stderr()), "no socket of that kind");
}
