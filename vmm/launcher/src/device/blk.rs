//! The words of a disk that `device-blk`, or `device-blk-qcow2`, serves.

use std::path::PathBuf;

use protocol::{BlkOptions, DiskFormat, limits};
use sandbox_policies::Program;

use super::Options;
use crate::error::Error;

/// The files below an image, each below that before it.
const BACKING: [&str; limits::MAX_BACKING] =
    ["backing", "backing-2", "backing-3", "backing-4", "backing-5", "backing-6", "backing-7", "backing-8"];

/// A disk that a program of ours serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blk {
    /// The image or block device.
    pub path: PathBuf,
    /// What it is.
    pub format: DiskFormat,
    /// The files below it, as many as the options say.
    pub backing: Vec<PathBuf>,
    /// Whether to claim it, and those, against other programs.
    pub lock: bool,
    /// What the program is told.
    pub options: BlkOptions,
}

impl Blk {
    /// The program that serves it.
    pub fn program(&self) -> Program {
        match self.format {
            DiskFormat::Raw => Program::DeviceBlk,
            DiskFormat::Qcow2 => Program::DeviceBlkQcow2,
        }
    }

    /// How many qcow2 images it is.
    pub fn images(&self) -> u64 {
        let formats = std::iter::once(&self.format).chain(&self.options.backing);
        formats.filter(|format| **format == DiskFormat::Qcow2).count() as u64
    }

    /// The files below it, and what they are.
    pub fn layers(&self) -> impl Iterator<Item = (&PathBuf, DiskFormat)> {
        self.backing.iter().zip(self.options.backing.iter().copied())
    }
}

impl Options<'_> {
    pub(super) fn blk(&mut self, queues: Option<u16>, queue_size: u16) -> Result<Blk, Error> {
        let path = self.text("path").filter(|path| !path.is_empty());
        let format = self.format("format")?.unwrap_or(DiskFormat::Raw);
        let (backing, formats) = self.backing()?;
        let serial = self.text("serial").unwrap_or_default();
        let printable = serial.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if serial.len() > limits::MAX_SERIAL || !printable {
            let most = limits::MAX_SERIAL;
            return Err(
                self.wrong(format!("serial='{serial}' is not at most {most} printable ASCII characters"))
            );
        }
        let options = BlkOptions {
            readonly: self.switch("readonly", false)?,
            direct: self.switch("direct", false)?,
            serial: serial.to_owned(),
            queues: queues.unwrap_or(1),
            queue_size,
            discard: self.switch("discard", true)?,
            backing: formats,
        };
        let lock = self.switch("lock", true)?;
        self.nothing_misspelt(true)?;
        let path = path.ok_or_else(|| self.wrong("neither path=FILE nor socket=PATH is given".to_owned()))?;
        if format == DiskFormat::Qcow2 && options.direct {
            let text = "direct=on: a qcow2 image is not served with direct I/O; leave it out".to_owned();
            return Err(self.wrong(text));
        }
        if format == DiskFormat::Raw && !backing.is_empty() {
            let text = "backing=: a raw disk has nothing below it; is format=qcow2 missing?".to_owned();
            return Err(self.wrong(text));
        }
        Ok(Blk { path: PathBuf::from(path), format, backing, lock, options })
    }

    /// All are images, but for the last if its user says so.
    fn backing(&mut self) -> Result<(Vec<PathBuf>, Vec<DiskFormat>), Error> {
        let mut files = Vec::new();
        for key in BACKING {
            match self.text(key) {
                Some("") => return Err(self.wrong(format!("{key}= names no file"))),
                Some(path) => files.push(PathBuf::from(path)),
                None => break,
            }
        }
        let mut formats = vec![DiskFormat::Qcow2; files.len()];
        match (self.format("backing-format")?, formats.last_mut()) {
            (Some(format), Some(last)) => *last = format,
            (Some(_), None) => return Err(self.wrong("backing-format= is given without backing=".to_owned())),
            (None, _) => {}
        }
        Ok((files, formats))
    }

    fn format(&mut self, key: &'static str) -> Result<Option<DiskFormat>, Error> {
        match self.text(key) {
            None => Ok(None),
            Some("raw") => Ok(Some(DiskFormat::Raw)),
            Some("qcow2") => Ok(Some(DiskFormat::Qcow2)),
            Some(other) => Err(self.wrong(format!(
                "{key}={other} is neither raw nor qcow2; qemu-img convert makes either of other formats"
            ))),
        }
    }
}
