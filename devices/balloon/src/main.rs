//! `device-balloon`: a virtio memory balloon (virtio 1.2, §5.5), by which a guest gives memory back to its host.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use device_backend::{Capabilities, DeviceProgram, Error};
use device_balloon::Balloon;
use lexopt::{Parser, ValueExt};
use protocol::{BalloonOptions, DeviceOptions};

fn main() -> ExitCode {
    device_backend::run::<DeviceBalloon>()
}

struct DeviceBalloon;

/// The stand-alone command line.
#[derive(Default)]
struct Arguments {
    size: u64,
    deflate_on_oom: bool,
    free_page_reporting: bool,
}

impl DeviceProgram for DeviceBalloon {
    type Device = Balloon;
    type Arguments = Arguments;
    const PROGRAM: sandbox_policies::Program = sandbox_policies::Program::DeviceBalloon;
    const CAPABILITIES: Capabilities = Capabilities { kind: "balloon", features: &[] };
    const HELP: &'static str = "The balloon:\n\
        \x20 --size=BYTES           how much of its memory the guest is to give back, default 0\n\
        \x20 --deflate-on-oom       the guest may take it back when it runs out of memory\n\
        \x20 --free-page-reporting  the guest may report what is free, which is given back, too\n";

    fn argument(arguments: &mut Arguments, name: &str, parser: &mut Parser) -> Result<bool, Error> {
        match name {
            "size" => arguments.size = parser.value()?.parse()?,
            "deflate-on-oom" => arguments.deflate_on_oom = true,
            "free-page-reporting" => arguments.free_page_reporting = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// There is no resource, and a hand-over has a place for one.
    fn open(arguments: Arguments) -> Result<(DeviceOptions, OwnedFd), Error> {
        let Arguments { size, deflate_on_oom, free_page_reporting } = arguments;
        let null = File::open("/dev/null")
            .map_err(|error| Error::Resource(format!("cannot open /dev/null: {error}")))?;
        let options = BalloonOptions { size, deflate_on_oom, free_page_reporting };
        Ok((DeviceOptions::Balloon(options), null.into()))
    }

    fn device(options: DeviceOptions, _nothing: OwnedFd) -> Result<Balloon, Error> {
        let DeviceOptions::Balloon(options) = options else { return Err(Error::DeviceType) };
        Balloon::new(options)
    }
}
