//! The command line of a disk's program on its own, without what only one kind of medium knows.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use device_backend::Error;
use lexopt::{Parser, ValueExt};
use nix::fcntl::OFlag;
use protocol::{BlkOptions, DeviceOptions};

/// What was said so far.
#[derive(Default)]
pub struct Arguments {
    /// Direct I/O, for a program that has it.
    pub direct: bool,
    path: Option<PathBuf>,
    readonly: bool,
    serial: String,
    queues: Option<u16>,
    queue_size: Option<u16>,
    keep_space: bool,
}

impl Arguments {
    /// Takes the option `name` with its value; false if no disk has one of this name.
    ///
    /// # Errors
    /// [`Error::Usage`]: the value is missing, or none.
    pub fn take(&mut self, name: &str, parser: &mut Parser) -> Result<bool, Error> {
        match name {
            "path" | "blk-file" => self.path = Some(parser.value()?.into()),
            "read-only" => self.readonly = true,
            "serial" => self.serial = parser.value()?.string()?,
            "queues" => self.queues = Some(parser.value()?.parse()?),
            "queue-size" => self.queue_size = Some(parser.value()?.parse()?),
            "no-discard" => self.keep_space = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Opens the file that was named.
    ///
    /// # Errors
    /// [`Error::Usage`]: none was. [`Error::Resource`]: it cannot be opened.
    pub fn open(self) -> Result<(DeviceOptions, OwnedFd), Error> {
        let Some(path) = self.path else {
            return Err(Error::Usage("which disk? Give --path=PATH".to_owned()));
        };
        // Never waits, as for the other end of a pipe that somebody put there.
        let flags = if self.direct { OFlag::O_DIRECT } else { OFlag::empty() } | OFlag::O_NONBLOCK;
        let file = OpenOptions::new()
            .read(true)
            .write(!self.readonly)
            .custom_flags(flags.bits())
            .open(&path)
            .map_err(|error| Error::Resource(format!("cannot open {}: {error}", path.display())))?;
        let options = BlkOptions {
            readonly: self.readonly,
            direct: self.direct,
            serial: self.serial,
            queues: self.queues.unwrap_or(1),
            queue_size: self.queue_size.unwrap_or(128),
            discard: !self.keep_space,
            backing: Vec::new(),
        };
        Ok((DeviceOptions::Blk(options), file.into()))
    }
}
