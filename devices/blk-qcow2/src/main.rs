//! `device-blk-qcow2`: a virtio block device (virtio 1.2, §5.2) in a qcow2 image, because its user said that it is one.
//!
//! No other file is opened: an image that refers to one is refused.

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use device_backend::{Capabilities, DeviceProgram, Error};
use device_blk::{Arguments, Blk};
use device_blk_qcow2::Image;
use lexopt::Parser;
use protocol::DeviceOptions;

fn main() -> ExitCode {
    device_backend::run::<DeviceBlkQcow2>()
}

struct DeviceBlkQcow2;

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
        arguments.take(name, parser)
    }

    fn open(arguments: Arguments) -> Result<(DeviceOptions, OwnedFd), Error> {
        arguments.open()
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
