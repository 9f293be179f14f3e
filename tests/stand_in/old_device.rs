//! A device program of minor version 1, as far as its control channel goes: it says what was recorded of one, and ends
//! at whatever one would have refused. Nobody is served.
//!
//! A disk with the serial `record` makes it write its set-up to its log instead, and answer as this version does.

use std::os::fd::RawFd;

use protocol::{FromDevice, Message, Ready, frame};
use system_tests::minor_1::{self, ToDevice};
use system_tests::{Error, Result, packet};

/// The control channel.
const CONTROL: RawFd = 3;

pub fn run() -> Result<()> {
    while let Some((frame, fds)) = packet::receive(CONTROL)? {
        match minor_1::to_device(&frame, fds.len()).map_err(Error::Unexpected)? {
            ToDevice::Setup(serial) if serial == "record" => {
                eprintln!("frame {}", packet::to_hex(&frame));
                packet::send(CONTROL, &ready_today()?, &[])?;
            }
            ToDevice::Setup(_) => say("ready")?,
            ToDevice::Query => say("counters")?,
            ToDevice::Stop => break,
        }
    }
    Ok(())
}

fn say(name: &str) -> Result<()> {
    let frame = minor_1::frame(name).ok_or_else(|| Error::Unexpected(format!("no frame {name} recorded")))?;
    packet::send(CONTROL, &frame, &[])
}

fn ready_today() -> Result<Vec<u8>> {
    let ready = FromDevice::Ready(Ready::default());
    let unexpected = |error: protocol::Error| Error::Unexpected(error.to_string());
    frame::encode(ready.kind(), &ready.encode().map_err(unexpected)?, 0).map_err(unexpected)
}
