//! `device-console`: a virtio console (virtio 1.2, §5.3) on a terminal, a pseudoterminal, a file, a pipe or a Unix socket
//! of the host.

mod open;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use device_backend::{Capabilities, DeviceProgram, Error};
use device_console::Console;
use lexopt::{Parser, ValueExt};
use protocol::{ConsoleOptions, ConsolePort, ConsoleSize, DeviceOptions, limits};

use open::Place;

fn main() -> ExitCode {
    device_backend::run::<DeviceConsole>()
}

struct DeviceConsole;

/// The stand-alone command line.
struct Arguments {
    place: Option<Place>,
    /// The ports with names, by these.
    ports: BTreeMap<String, Place>,
    size: Option<ConsoleSize>,
    file_limit: Option<u64>,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            place: None,
            ports: BTreeMap::new(),
            size: None,
            file_limit: Some(limits::DEFAULT_CONSOLE_FILE),
        }
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
        \x20 --port=NAME=PLACE      a port beside the console, or without one; PLACE as above: path:PATH, pty,\n\
        \x20                        connect:PATH or listen:PATH; give it again for more\n\
        \x20 --size=COLUMNSxROWS    the size of the terminal, as in 80x24\n\
        \x20 --file-limit=BYTES     how large a file may become, 0 for no limit; default 64 MiB\n";

    fn argument(arguments: &mut Arguments, name: &str, parser: &mut Parser) -> Result<bool, Error> {
        let place = match name {
            "path" => Place::Path(parser.value()?.into()),
            "pty" => Place::Pty,
            "connect" => Place::Connect(parser.value()?.into()),
            "listen" => Place::Listen(parser.value()?.into()),
            "port" => {
                port(arguments, &parser.value()?.string()?)?;
                return Ok(true);
            }
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

    fn open(arguments: Arguments) -> Result<(DeviceOptions, OwnedFd), Error> {
        Self::open_all(arguments).map(|(options, first, _)| (options, first))
    }

    /// Ports are numbered in the order of their names, the console first.
    fn open_all(arguments: Arguments) -> Result<(DeviceOptions, OwnedFd, Vec<OwnedFd>), Error> {
        let Arguments { place, ports, size, file_limit } = arguments;
        let mut described = Vec::new();
        if !ports.is_empty() {
            described.extend(place.iter().map(|_| ConsolePort { name: String::new(), console: true }));
            described.extend(ports.keys().map(|name| ConsolePort { name: name.clone(), console: false }));
        }
        let mut opened = place.iter().chain(ports.values()).map(open::open);
        let first = opened.next().ok_or_else(|| {
            Error::Usage(
                "where is the console? Give --path=PATH, --pty, --connect=PATH or --listen=PATH".to_owned(),
            )
        })??;
        let rest = opened.collect::<Result<_, _>>()?;
        let options = ConsoleOptions { size, file_limit, ports: described };
        options.check().map_err(|error| Error::Usage(error.to_string()))?;
        Ok((DeviceOptions::Console(options), first, rest))
    }

    fn device(options: DeviceOptions, resource: OwnedFd) -> Result<Console, Error> {
        let DeviceOptions::Console(options) = options else { return Err(Error::DeviceType) };
        Console::new(resource, options)
    }

    fn add(device: &mut Console, rest: Vec<OwnedFd>) -> Result<(), Error> {
        device.add(rest)
    }
}

/// Takes `NAME=PLACE`.
fn port(arguments: &mut Arguments, text: &str) -> Result<(), Error> {
    let wrong = |why: &str| Error::Usage(format!("--port={text}: {why}"));
    let (name, place) = text.split_once('=').ok_or_else(|| wrong("it is not NAME=PLACE"))?;
    let place = match (place, place.split_once(':')) {
        ("pty", _) => Place::Pty,
        (_, Some(("path", path))) => Place::Path(path.into()),
        (_, Some(("connect", path))) => Place::Connect(path.into()),
        (_, Some(("listen", path))) => Place::Listen(path.into()),
        _ => return Err(wrong("a place is path:PATH, pty, connect:PATH or listen:PATH")),
    };
    let port = ConsolePort { name: name.to_owned(), console: false };
    port.check().map_err(|error| wrong(&error.to_string()))?;
    match arguments.ports.insert(port.name, place) {
        None => Ok(()),
        Some(_) => Err(wrong("there is a port of this name already")),
    }
}

fn size(text: &str) -> Result<ConsoleSize, Error> {
    text.parse().map_err(|error| Error::Usage(format!("--size={text}: {error}")))
}
