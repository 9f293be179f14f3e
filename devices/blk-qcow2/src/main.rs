//! `device-blk-qcow2`: a virtio block device (virtio 1.2, §5.2) in a qcow2 image, because its user said that it is one.
//!
//! No other file is opened: an image that refers to one is refused.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use device_backend::{Capabilities, DeviceProgram, Error};
use device_blk::Blk;
use device_blk_qcow2::Image;
use lexopt::{Parser, ValueExt};
use nix::fcntl::OFlag;
use protocol::{BlkOptions, DeviceOptions};

fn main() -> ExitCode {
    device_backend::run::<DeviceBlkQcow2>()
}

struct DeviceBlkQcow2;

/// The stand-alone command line.
#[derive(Default)]
struct Arguments {
    path: Option<PathBuf>,
    readonly: bool,
    serial: String,
    queues: Option<u16>,
    queue_size: Option<u16>,
    keep_space: bool,
}

impl DeviceProgram for DeviceBlkQcow2 {
    type Device = Blk<Image>;
    type Arguments = Arguments;
    const PROGRAM: sandbox_policies::Program = sandbox_policies::Program::DeviceBlkQcow2;
    const CAPABILITIES: Capabilities = Capabilities { kind: "block", features: &["read-only", "blk-file"] };
    const HELP: &'static str = "The disk:\n\
        \x20 --path=PATH, --blk-file=PATH  a qcow2 image that refers to no other file\n\
        \x20 --read-only            refuse every change\n\
        \x20 --serial=TEXT          at most 20 bytes\n\
        \x20 --queues=N             1 to 64, default 1\n\
        \x20 --queue-size=N         a power of two up to 1024, default 128: the front end's, which sets how\n\
        \x20                        many segments a request may have\n\
        \x20 --no-discard           keep the clusters that the guest discards\n";

    fn argument(arguments: &mut Arguments, name: &str, parser: &mut Parser) -> Result<bool, Error> {
        match name {
            "path" | "blk-file" => arguments.path = Some(parser.value()?.into()),
            "read-only" => arguments.readonly = true,
            "serial" => arguments.serial = parser.value()?.string()?,
            "queues" => arguments.queues = Some(parser.value()?.parse()?),
            "queue-size" => arguments.queue_size = Some(parser.value()?.parse()?),
            "no-discard" => arguments.keep_space = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn open(arguments: Arguments) -> Result<(DeviceOptions, OwnedFd), Error> {
        let Some(path) = arguments.path else {
            return Err(Error::Usage("which image? Give --path=PATH".to_owned()));
        };
        // Never waits, as for the other end of a pipe that somebody put there.
        let file = OpenOptions::new()
            .read(true)
            .write(!arguments.readonly)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&path)
            .map_err(|error| Error::Resource(format!("cannot open {}: {error}", path.display())))?;
        let options = BlkOptions {
            readonly: arguments.readonly,
            direct: false,
            serial: arguments.serial,
            queues: arguments.queues.unwrap_or(1),
            queue_size: arguments.queue_size.unwrap_or(128),
            discard: !arguments.keep_space,
        };
        Ok((DeviceOptions::Blk(options), file.into()))
    }

    fn device(options: DeviceOptions, resource: OwnedFd) -> Result<Blk<Image>, Error> {
        let DeviceOptions::Blk(options) = options else { return Err(Error::DeviceType) };
        if options.direct {
            return Err(Error::Resource(
                "a qcow2 image is not served with direct I/O: leave direct=on out".to_owned(),
            ));
        }
        let image = Image::new(resource, options.readonly)?;
        Blk::new(&options, image)
    }
}
