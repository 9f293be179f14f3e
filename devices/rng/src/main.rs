//! `device-rng`: a virtio entropy device (virtio 1.3, §5.4) fed by a generator of the host.

use std::fs::{File, metadata};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use device_backend::{Capabilities, DeviceProgram, Error};
use device_rng::Rng;
use lexopt::Parser;
use protocol::DeviceOptions;

fn main() -> ExitCode {
    device_backend::run::<DeviceRng>()
}

struct DeviceRng;

/// The stand-alone command line.
struct Arguments {
    path: PathBuf,
}

impl Default for Arguments {
    fn default() -> Self {
        Self { path: PathBuf::from("/dev/urandom") }
    }
}

impl DeviceProgram for DeviceRng {
    type Device = Rng;
    type Arguments = Arguments;
    const PROGRAM: sandbox_policies::Program = sandbox_policies::Program::DeviceRng;
    const CAPABILITIES: Capabilities = Capabilities { kind: "rng", features: &[] };
    const HELP: &'static str = "The source of entropy:\n\
        \x20 --path=PATH            a generator of the host, default /dev/urandom\n";

    fn argument(arguments: &mut Arguments, name: &str, parser: &mut Parser) -> Result<bool, Error> {
        if name == "path" {
            arguments.path = parser.value()?.into();
        }
        Ok(name == "path")
    }

    fn open(Arguments { path }: Arguments) -> Result<(DeviceOptions, OwnedFd), Error> {
        let wrong = |what: String| Error::Resource(format!("cannot use {}: {what}", path.display()));
        // Before it is opened: opening a pipe would wait for its other end.
        let file_type = metadata(&path).map_err(|error| wrong(error.to_string()))?.file_type();
        device_rng::check(file_type).map_err(|what| wrong(what.to_owned()))?;
        let file = File::open(&path).map_err(|error| wrong(error.to_string()))?;
        Ok((DeviceOptions::Rng, file.into()))
    }

    fn device(options: DeviceOptions, resource: OwnedFd) -> Result<Rng, Error> {
        let DeviceOptions::Rng = options else { return Err(Error::DeviceType) };
        Rng::new(resource.into())
    }
}
