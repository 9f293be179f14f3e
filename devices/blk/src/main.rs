//! `device-blk`: a virtio block device (virtio 1.2, §5.2) backed by one raw file or block device.
//!
//! Raw means raw: the content is never looked at to find out a format, since the guest writes the content.

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use device_backend::{Capabilities, DeviceProgram, Error};
use device_blk::{Arguments, Blk, Disk};
use lexopt::Parser;
use protocol::DeviceOptions;

fn main() -> ExitCode {
    device_backend::run::<DeviceBlk>()
}

struct DeviceBlk;

impl DeviceProgram for DeviceBlk {
    type Device = Blk;
    type Arguments = Arguments;
    const PROGRAM: sandbox_policies::Program = sandbox_policies::Program::DeviceBlk;
    const CAPABILITIES: Capabilities = Capabilities { kind: "block", features: &["read-only", "blk-file"] };
    const HELP: &'static str = "The disk:\n\
        \x20 --path=PATH, --blk-file=PATH  a raw image or a block device\n\
        \x20 --read-only            refuse every change\n\
        \x20 --direct               bypass the host's page cache\n\
        \x20 --serial=TEXT          at most 20 bytes\n\
        \x20 --queues=N             1 to 64, default 1\n\
        \x20 --queue-size=N         a power of two up to 1024, default 128: the front end's, which sets how\n\
        \x20                        many segments a request may have\n\
        \x20 --no-discard           keep the space that the guest discards\n";

    fn argument(arguments: &mut Arguments, name: &str, parser: &mut Parser) -> Result<bool, Error> {
        if name == "direct" {
            arguments.direct = true;
            return Ok(true);
        }
        arguments.take(name, parser)
    }

    fn open(arguments: Arguments) -> Result<(DeviceOptions, OwnedFd), Error> {
        arguments.open()
    }

    fn device(options: DeviceOptions, resource: OwnedFd) -> Result<Blk, Error> {
        let DeviceOptions::Blk(options) = options else { return Err(Error::DeviceType) };
        let disk = Disk::new(resource, options.direct)?;
        Blk::new(&options, disk)
    }
}
