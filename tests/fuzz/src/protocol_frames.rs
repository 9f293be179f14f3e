//! Frames of the hand-over, as any of the four parties could get them from a peer that was taken over.
//!
//! The input is a packet, and at once a row of messages, each a kind (two bytes), a length (one) and a body: no chance is
//! spent on guessing a header.
//! What is decoded is within its limits, and so can be sent on; and it is what was meant: encoded and decoded again it is
//! the same message.

use crate::Input;
use protocol::frame::{self, HEADER, Header};
use protocol::{
    FromCore, FromDevice, FromLauncher, FromSpawner, Message, Phase, ToCore, ToDevice, ToLauncher, ToSpawner,
    limits,
};
use std::fmt::Debug;

/// Feeds each to all who receive.
pub fn run(data: &[u8]) {
    if let Ok((header, body)) = Header::parse(data) {
        everybody(header.kind, body);
    }
    let mut input = Input::new(data);
    while !input.is_empty() {
        let (kind, length) = (input.u16(), input.u8());
        everybody(kind, input.bytes(length.into()));
    }
}

fn everybody(kind: u16, body: &[u8]) {
    if body.len() > limits::MAX_FRAME - HEADER {
        return;
    }
    there_and_back::<ToCore>(kind, body);
    there_and_back::<FromCore>(kind, body);
    there_and_back::<ToDevice>(kind, body);
    there_and_back::<FromDevice>(kind, body);
    there_and_back::<ToLauncher>(kind, body);
    there_and_back::<FromLauncher>(kind, body);
    there_and_back::<ToSpawner>(kind, body);
    there_and_back::<FromSpawner>(kind, body);
}

fn there_and_back<M: Message + PartialEq + Debug>(kind: u16, body: &[u8]) {
    let Ok(message) = M::decode(kind, body) else { return };
    assert_eq!(message.kind(), kind, "{message:?}");
    assert!(message.fds() <= limits::MAX_FDS, "{message:?}");
    assert!(
        message.allowed(Phase::HandOver) || message.allowed(Phase::Serving),
        "never to be said: {message:?}"
    );
    let again = message.encode();
    assert!(again.is_ok(), "received, and not to be sent: {again:?} {message:?}");
    let again = again.unwrap_or_default();
    let packet = frame::encode(kind, &again, message.fds());
    assert!(packet.is_ok(), "longer than a frame: {} bytes, {message:?}", again.len());
    let second = M::decode(kind, &again);
    assert_eq!(second.as_ref().ok(), Some(&message), "{second:?}");
}
