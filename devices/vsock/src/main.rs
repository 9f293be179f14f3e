//! `device-vsock`: a virtio socket device (virtio 1.2, §5.10) on Unix sockets of the host, in the convention of Firecracker
//! and Cloud Hypervisor.
//!
//! The directory of the sockets is this process's root, put there by whoever spawned it, and all that it can do there is to
//! connect.

mod open;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use device_backend::{Capabilities, DeviceProgram, Error, OpenDirectory, listen_for_user};
use device_vsock::Vsock;
use lexopt::{Parser, ValueExt};
use protocol::{DeviceOptions, VsockOptions};

fn main() -> ExitCode {
    device_backend::run::<DeviceVsock>()
}

struct DeviceVsock;

/// The stand-alone command line.
#[derive(Default)]
struct Arguments {
    path: Option<PathBuf>,
    cid: Option<u32>,
}

impl Arguments {
    fn path(&self) -> Result<&PathBuf, Error> {
        self.path.as_ref().ok_or_else(|| Error::Usage("which socket? Give --path=PATH".to_owned()))
    }
}

impl DeviceProgram for DeviceVsock {
    type Device = Vsock;
    type Arguments = Arguments;
    const PROGRAM: sandbox_policies::Program = sandbox_policies::Program::DeviceVsock;
    const CAPABILITIES: Capabilities = Capabilities { kind: "vsock", features: &[] };
    const HELP: &'static str = "The sockets:\n\
        \x20 --cid=N                the guest's context identifier, 3 to 4294967294\n\
        \x20 --path=PATH            listen at PATH for programs that say CONNECT PORT; whoever listens at PATH_PORT is\n\
        \x20                        whom the guest reaches at port PORT of the host\n";

    fn argument(arguments: &mut Arguments, name: &str, parser: &mut Parser) -> Result<bool, Error> {
        match name {
            "path" => arguments.path = Some(parser.value()?.into()),
            "cid" => arguments.cid = Some(parser.value()?.parse()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn directory(arguments: &Arguments) -> Result<Option<OpenDirectory>, Error> {
        OpenDirectory::open(open::folder(arguments.path()?)?, true).map(Some)
    }

    fn open(arguments: Arguments) -> Result<(DeviceOptions, OwnedFd), Error> {
        let path = arguments.path()?;
        let cid = arguments.cid.ok_or_else(|| Error::Usage("which guest? Give --cid=N".to_owned()))?;
        let options = VsockOptions { cid, name: open::name(path)? };
        options.check().map_err(|error| Error::Usage(error.to_string()))?;
        Ok((DeviceOptions::Vsock(options), listen_for_user(path)?.into()))
    }

    fn device(options: DeviceOptions, resource: OwnedFd) -> Result<Vsock, Error> {
        let DeviceOptions::Vsock(options) = options else { return Err(Error::DeviceType) };
        Vsock::new(&options, resource)
    }
}
