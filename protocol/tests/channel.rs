//! The channel against a peer that does not keep to the rules.

use protocol::{Channel, Error, FromDevice, Phase, Ready, ToDevice, frame};
use std::os::fd::{AsFd, OwnedFd};

#[test]
fn messages_and_descriptors_arrive() {
    let (launcher, device) = Channel::pair().unwrap();
    launcher.send(&ToDevice::Query, &[]).unwrap();
    let (message, fds) = device.receive::<ToDevice>(Phase::Serving).unwrap().unwrap();
    assert_eq!((message, fds.len()), (ToDevice::Query, 0));
    drop(launcher);
    assert!(device.receive::<ToDevice>(Phase::Serving).unwrap().is_none());
}

#[test]
fn the_version_of_the_peer_is_known_from_its_first_frame_on() {
    let (launcher, device) = Channel::pair().unwrap();
    device.send(&FromDevice::Ready(Ready::default()), &[]).unwrap();
    assert_eq!(launcher.peer_minor(), 0);
    launcher.receive::<FromDevice>(Phase::HandOver).unwrap();
    assert_eq!(launcher.peer_minor(), frame::MINOR);
    // A newer one, which says something that is not known here.
    let mut strange = frame::encode(0x04ff, &[], 0).unwrap();
    strange[5] = frame::MINOR + 1;
    nix::unistd::write(&device, &strange).unwrap();
    assert!(launcher.receive::<FromDevice>(Phase::Serving).is_err());
    assert_eq!(launcher.peer_minor(), frame::MINOR + 1);
}

#[test]
fn a_message_out_of_its_phase_is_refused() {
    let (launcher, device) = Channel::pair().unwrap();
    launcher.send(&ToDevice::Query, &[]).unwrap();
    let refused = device.receive::<ToDevice>(Phase::HandOver);
    assert!(matches!(refused, Err(Error::Phase { name: "Query", phase: Phase::HandOver })), "{refused:?}");
    device.send(&FromDevice::Ready(Ready::default()), &[]).unwrap();
    let refused = launcher.receive::<FromDevice>(Phase::Serving);
    assert!(matches!(refused, Err(Error::Phase { name: "Ready", .. })), "{refused:?}");
}

#[test]
fn a_device_cannot_speak_as_the_launcher() {
    let (launcher, device) = Channel::pair().unwrap();
    device.send(&ToDevice::Stop, &[]).unwrap();
    assert!(matches!(launcher.receive::<FromDevice>(Phase::Serving), Err(Error::Kind { kind: 0x0303 })));
}

#[test]
fn the_wrong_number_of_descriptors_is_not_sent() {
    let (launcher, device) = Channel::pair().unwrap();
    let refused = launcher.send(&ToDevice::Query, &[device.as_fd()]);
    assert!(matches!(refused, Err(Error::Descriptors { found: 1, expected: 0, .. })), "{refused:?}");
}

#[test]
fn an_idle_channel_says_so_and_a_stream_is_none() {
    let (launcher, device) = Channel::pair().unwrap();
    launcher.set_nonblocking(true).unwrap();
    assert!(matches!(launcher.receive::<FromDevice>(Phase::Serving), Err(Error::WouldBlock)));
    drop(device);
    let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(matches!(Channel::from_fd(OwnedFd::from(stream)), Err(Error::NoChannel { .. })));
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(Channel::from_fd(OwnedFd::from(file)), Err(Error::NoChannel { .. })));
}
