//! Somebody at a console that is a socket or a terminal.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use crate::{Capture, Error, Result, Running};

/// Who sits at the console.
pub struct Person {
    typing: File,
    /// What was written to it.
    pub screen: Capture,
}

impl Person {
    /// Who connects to `listener` is the console.
    pub fn at(listener: &UnixListener) -> std::io::Result<Self> {
        let (socket, _) = listener.accept()?;
        Self::on(socket.into())
    }

    /// Whose end this is, of a terminal or of a socket.
    pub fn on(end: OwnedFd) -> std::io::Result<Self> {
        let typing = File::from(end);
        Ok(Self { screen: Capture::of(typing.try_clone()?), typing })
    }

    /// Waits until it has been written to the console.
    pub fn sees(&self, running: &Running, what: &str) -> Result<()> {
        let found = self
            .screen
            .wait_for(std::time::Duration::from_secs(300), |text| text.contains(what).then_some(()));
        found.ok_or_else(|| {
            Error::Unexpected(format!(
                "no {what:?} on hvc0:\n{}\n{}\n{}",
                self.screen.text(),
                running.console(),
                running.log()
            ))
        })
    }

    /// Types a line.
    pub fn types(&mut self, line: &str) -> Result<()> {
        self.typing
            .write_all(format!("{line}\n").as_bytes())
            .map_err(|error| Error::Unexpected(format!("the console is gone: {error}")))
    }
}
