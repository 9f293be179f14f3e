//! Strays and junk on the channel. In a process of its own: the count of descriptors is the process'.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use protocol::{Channel, Error, Phase, ToCore, ToDevice, frame, limits};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, RawFd};

/// Sends raw bytes with `fds` copies of the channel's own descriptor.
fn send_raw(from: &Channel, packet: &[u8], fds: usize) {
    let raw: Vec<RawFd> = vec![from.as_fd().as_raw_fd(); fds];
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let parts = [IoSlice::new(packet)];
    sendmsg::<()>(from.as_fd().as_raw_fd(), &parts, control, MsgFlags::empty(), None).unwrap();
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn strays_are_closed_and_junk_is_refused() {
    let (launcher, device) = Channel::pair().unwrap();
    let before = open_descriptors();
    let query = frame::encode(0x0302, &[0], 0).unwrap();
    for fds in [1, 2, 200, 253] {
        send_raw(&launcher, &query, fds);
        let refused = device.receive::<ToDevice>(Phase::Serving);
        assert!(matches!(refused, Err(Error::Descriptors { found, .. }) if found == fds), "{refused:?}");
    }
    let announced = frame::encode(0x0302, &[0], 3).unwrap();
    send_raw(&launcher, &announced, 0);
    assert!(matches!(device.receive::<ToDevice>(Phase::Serving), Err(Error::Descriptors { .. })));
    for packet in [&b"x"[..], &[0; 16], &[0xff; 64], &vec![0; limits::MAX_FRAME + 1]] {
        send_raw(&launcher, packet, 3);
        assert!(device.receive::<ToDevice>(Phase::Serving).is_err());
    }
    for kind in 0..=u16::MAX {
        let packet = frame::encode(kind, &[0xff; 24], 0).unwrap();
        send_raw(&launcher, &packet, 0);
        if let Ok(answer) = device.receive::<ToCore>(Phase::Serving) {
            assert!(matches!(kind, 0x0104..=0x0108), "{kind:#x} was understood as {answer:?}");
        }
    }
    assert_eq!(open_descriptors(), before);
}
