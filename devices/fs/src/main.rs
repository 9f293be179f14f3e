//! `device-fs`: a directory of the host as a virtio file system (virtio 1.2, §5.11; FUSE 7.31).
//!
//! The directory is this process's root, put there by whoever spawned it; it is handed no descriptor of it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use device_backend::{Capabilities, DeviceProgram, Error, OpenDirectory};
use device_fs::Fs;
use lexopt::{Parser, ValueExt};
use protocol::{DeviceOptions, FsOptions};

fn main() -> ExitCode {
    device_backend::run::<DeviceFs>()
}

struct DeviceFs;

/// The stand-alone command line.
struct Arguments {
    path: Option<PathBuf>,
    tag: Option<String>,
    readonly: bool,
    queues: u16,
}

impl Default for Arguments {
    fn default() -> Self {
        Self { path: None, tag: None, readonly: false, queues: 1 }
    }
}

impl DeviceProgram for DeviceFs {
    type Device = Fs;
    type Arguments = Arguments;
    const PROGRAM: sandbox_policies::Program = sandbox_policies::Program::DeviceFs;
    const CAPABILITIES: Capabilities = Capabilities { kind: "fs", features: &[] };
    const HELP: &'static str = "The file system:\n\
        \x20 --path=DIRECTORY       the directory to serve; nothing else can be reached\n\
        \x20 --tag=NAME             what the guest mounts it by, at most 36 bytes\n\
        \x20 --read-only            nothing in it can be changed\n\
        \x20 --queues=N             request queues, 1 to 63; default 1\n";

    fn argument(arguments: &mut Arguments, name: &str, parser: &mut Parser) -> Result<bool, Error> {
        match name {
            "path" => arguments.path = Some(parser.value()?.into()),
            "tag" => arguments.tag = Some(parser.value()?.string()?),
            "read-only" => arguments.readonly = true,
            "queues" => arguments.queues = parser.value()?.parse()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn directory(arguments: &Arguments) -> Result<Option<OpenDirectory>, Error> {
        let path = arguments.path.as_ref();
        let path = path.ok_or_else(|| Error::Usage("which directory? Give --path=DIRECTORY".to_owned()))?;
        OpenDirectory::open(path, arguments.readonly).map(Some)
    }

    fn open(Arguments { tag, readonly, queues, .. }: Arguments) -> Result<(DeviceOptions, OwnedFd), Error> {
        let tag = tag.ok_or_else(|| Error::Usage("which tag? Give --tag=NAME".to_owned()))?;
        let options = FsOptions { tag, readonly, queues };
        options.check().map_err(|error| Error::Usage(error.to_string()))?;
        // It has its root, and needs nothing else.
        let nothing = File::open("/dev/null")
            .map_err(|error| Error::Resource(format!("cannot open /dev/null: {error}")))?;
        Ok((DeviceOptions::Fs(options), nothing.into()))
    }

    fn device(options: DeviceOptions, _nothing: OwnedFd) -> Result<Fs, Error> {
        let DeviceOptions::Fs(options) = options else { return Err(Error::DeviceType) };
        Fs::new(options)
    }
}
