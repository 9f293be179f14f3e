//! `device-blk-qcow2`: a virtio block device (virtio 1.2, §5.2) in a qcow2 image, because its user said that it is one.
//!
//! No other file is opened but those that its user named: what an image says that it is backed by is not followed.

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
use protocol::{DeviceOptions, DiskFormat};

fn main() -> ExitCode {
    device_backend::run::<DeviceBlkQcow2>()
}

struct DeviceBlkQcow2;

/// The stand-alone command line.
#[derive(Default)]
struct Arguments {
    disk: device_blk::Arguments,
    /// The backing files, each for that before it.
    backing: Vec<PathBuf>,
    /// The lowest is a raw disk.
    raw: bool,
}

impl DeviceProgram for DeviceBlkQcow2 {
    type Device = Blk<Image>;
    type Arguments = Arguments;
    const PROGRAM: sandbox_policies::Program = sandbox_policies::Program::DeviceBlkQcow2;
    const CAPABILITIES: Capabilities = Capabilities { kind: "block", features: &["read-only", "blk-file"] };
    const HELP: &'static str = "The disk:\n\
        \x20 --path=PATH, --blk-file=PATH  a qcow2 image\n\
        \x20 --backing=PATH         the backing file that it has; give it again for that which this one has\n\
        \x20 --backing-format=raw   the last of these is a raw disk, not an image; default qcow2\n\
        \x20 --read-only            refuse every change\n\
        \x20 --serial=TEXT          at most 20 bytes\n\
        \x20 --queues=N             1 to 64, default 1\n\
        \x20 --queue-size=N         a power of two up to 1024, default 128: the front end's, which sets how\n\
        \x20                        many segments a request may have\n\
        \x20 --no-discard           keep the clusters that the guest discards\n";

    fn argument(arguments: &mut Arguments, name: &str, parser: &mut Parser) -> Result<bool, Error> {
        match name {
            "backing" => arguments.backing.push(parser.value()?.into()),
            "backing-format" => match parser.value()?.string()?.as_str() {
                "raw" => arguments.raw = true,
                "qcow2" => arguments.raw = false,
                other => {
                    return Err(Error::Usage(format!("--backing-format={other}: it is raw or qcow2")));
                }
            },
            _ => return arguments.disk.take(name, parser),
        }
        Ok(true)
    }

    fn open(arguments: Arguments) -> Result<(DeviceOptions, OwnedFd), Error> {
        Self::open_all(arguments).map(|(options, first, _)| (options, first))
    }

    fn open_all(arguments: Arguments) -> Result<(DeviceOptions, OwnedFd, Vec<OwnedFd>), Error> {
        let Arguments { disk, backing, raw } = arguments;
        if raw && backing.is_empty() {
            return Err(Error::Usage("--backing-format=raw: of what? Give --backing=PATH".to_owned()));
        }
        let (mut options, first) = disk.open()?;
        let opened = backing.iter().map(|path| {
            // Never waits, as for the other end of a pipe.
            let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
            file.map(OwnedFd::from)
                .map_err(|error| Error::Resource(format!("cannot open {}: {error}", path.display())))
        });
        let rest = opened.collect::<Result<_, _>>()?;
        if let DeviceOptions::Blk(options) = &mut options {
            options.backing = vec![DiskFormat::Qcow2; backing.len()];
            if let Some(last) = options.backing.last_mut().filter(|_| raw) {
                *last = DiskFormat::Raw;
            }
            options.check().map_err(|error| Error::Usage(error.to_string()))?;
        }
        Ok((options, first, rest))
    }

    fn device(options: DeviceOptions, resource: OwnedFd) -> Result<Blk<Image>, Error> {
        let DeviceOptions::Blk(options) = options else { return Err(Error::DeviceType) };
        if options.direct {
            return Err(Error::Resource(
                "a qcow2 image is not served with direct I/O: leave direct=on out".to_owned(),
            ));
        }
        let image = Image::new(resource, options.readonly, &options.backing)?;
        Blk::new(&options, image)
    }

    fn add(device: &mut Blk<Image>, rest: Vec<OwnedFd>) -> Result<(), Error> {
        device.medium().add(rest)
    }
}
