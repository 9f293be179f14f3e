//! `device-console`: a virtio console (virtio 1.2, §5.3) on a terminal, a pseudoterminal, a file, a pipe or a Unix socket
//! of the host.

mod device;
mod host;
mod open;
mod output;
mod wire;

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use device_backend::{Capabilities, DeviceProgram, Error};
use lexopt::{Parser, ValueExt};
use protocol::{ConsoleOptions, ConsoleSize, DeviceOptions, limits};

use device::Console;
use host::Host;
use open::Place;

fn main() -> ExitCode {
    device_backend::run::<DeviceConsole>()
}

struct DeviceConsole;

/// The stand-alone command line.
struct Arguments {
    place: Option<Place>,
    size: Option<ConsoleSize>,
    file_limit: Option<u64>,
}

impl Default for Arguments {
    fn default() -> Self {
        Self { place: None, size: None, file_limit: Some(limits::DEFAULT_CONSOLE_FILE) }
    }
}

impl DeviceProgram for DeviceConsole {
    type Device = Console;
    type Arguments = Arguments;
    const PROGRAM: sandbox_policies::Program = sandbox_policies::Program::DeviceConsole;
    const CAPABILITIES: Capabilities = Capabilities { kind: "console", features: &[] };
    const HELP: &'static str = "The console, one of:\n\
        \x20 --path=PATH            a file, which is written at its end and made if it is not there, a pipe, or a terminal\n\
        \x20 --pty                  a pseudoterminal that is made; the log says where\n\
        \x20 --connect=PATH         a Unix socket on which somebody listens\n\
        \x20 --listen=PATH          a Unix socket to connect to, for one client at a time\n\
        and:\n\
        \x20 --size=COLUMNSxROWS    the size of the terminal, as in 80x24\n\
        \x20 --file-limit=BYTES     how large a file may become, 0 for no limit; default 64 MiB\n";

    fn argument(arguments: &mut Arguments, name: &str, parser: &mut Parser) -> Result<bool, Error> {
        let place = match name {
            "path" => Place::Path(parser.value()?.into()),
            "pty" => Place::Pty,
            "connect" => Place::Connect(parser.value()?.into()),
            "listen" => Place::Listen(parser.value()?.into()),
            "size" => {
                arguments.size = Some(size(&parser.value()?.string()?)?);
                return Ok(true);
            }
            "file-limit" => {
                arguments.file_limit = Some(parser.value()?.parse()?).filter(|bytes| *bytes > 0);
                return Ok(true);
            }
            _ => return Ok(false),
        };
        match arguments.place.replace(place) {
            None => Ok(true),
            Some(_) => {
                Err(Error::Usage("give one of --path, --pty, --connect and --listen, once".to_owned()))
            }
        }
    }

    fn open(Arguments { place, size, file_limit }: Arguments) -> Result<(DeviceOptions, OwnedFd), Error> {
        let place = place.ok_or_else(|| {
            Error::Usage(
                "where is the console? Give --path=PATH, --pty, --connect=PATH or --listen=PATH".to_owned(),
            )
        })?;
        Ok((DeviceOptions::Console(ConsoleOptions { size, file_limit }), open::open(&place)?))
    }

    fn device(options: DeviceOptions, resource: OwnedFd) -> Result<Console, Error> {
        let DeviceOptions::Console(options) = options else { return Err(Error::DeviceType) };
        Console::new(Host::new(resource)?, options)
    }
}

fn size(text: &str) -> Result<ConsoleSize, Error> {
    text.parse().map_err(|error| Error::Usage(format!("--size={text}: {error}")))
}
