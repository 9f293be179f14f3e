//! A device program of minor version 1 to 4, as far as its control channel goes: it says what was recorded of one, and
//! ends at whatever one would have refused. Nobody is served.
//!
//! Which of them says the serial of its disk, `minor-N`.
//!
//! A disk with the serial `record` makes it write its set-up to its log instead, and answer as this version does.

use std::os::fd::RawFd;

use protocol::{FromDevice, Message, Ready, frame};
use system_tests::old_peers::{self, ToDevice};
use system_tests::{Error, Result, packet};

/// The control channel.
const CONTROL: RawFd = 3;

pub fn run() -> Result<()> {
    let mut minor = 0;
    while let Some((frame, fds)) = packet::receive(CONTROL)? {
        match old_peers::to_device(&frame, fds.len()).map_err(Error::Unexpected)? {
            ToDevice::Setup(serial) if serial == "record" => {
                eprintln!("frame {}", packet::to_hex(&frame));
                packet::send(CONTROL, &ready_today()?, &[])?;
            }
            ToDevice::Setup(serial) => {
                minor = serial.strip_prefix("minor-").and_then(|it| it.parse().ok()).unwrap_or(0);
                say(minor, if old_peers::frame(minor, "keeps").is_some() { "keeps" } else { "ready" })?;
            }
            // Whether it was asked for is not looked at: who did not ask has said that it is ready, and a second time is one too
            // many for any launcher.
            ToDevice::Keep => say(minor, "ready")?,
            ToDevice::Query => say(minor, "counters")?,
            ToDevice::Stop => break,
        }
    }
    Ok(())
}

fn say(minor: u8, name: &str) -> Result<()> {
    let unknown = || Error::Unexpected(format!("no frame {name} of minor version {minor} recorded"));
    let frame = old_peers::frame(minor, name).ok_or_else(unknown)?;
    packet::send(CONTROL, &frame, &[])
}

fn ready_today() -> Result<Vec<u8>> {
    let ready = FromDevice::Ready(Ready::default());
    let unexpected = |error: protocol::Error| Error::Unexpected(error.to_string());
    frame::encode(ready.kind(), &ready.encode().map_err(unexpected)?, 0).map_err(unexpected)
}
