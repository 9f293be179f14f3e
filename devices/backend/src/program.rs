//! The entry of every device program: which of its two lives this is.
//!
//! Started by the launcher (or by itself, see [`stand_alone`]) it is `NAME --hand-over=3 --sandbox=…` and has nothing
//! but four descriptors: [`spawned`]. Started by a person or another monitor it follows the vhost-user
//! specification's conventions for back-end programs: [`stand_alone`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use lexopt::{Arg, Parser, ValueExt};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use protocol::{DeviceOptions, Rate, Rates};
use sandbox_policies::Requirement;

use crate::memory::Unsealed;
use crate::{Device, Error, log, process, spawned, stand_alone};

/// What `--print-capabilities` says of a device (vhost-user, "Backend program conventions").
#[derive(Debug, Clone, Copy)]
pub struct Capabilities {
    /// The specification's name of the device type, as in `block`.
    pub kind: &'static str,
    /// The specification's names of the options that are understood.
    pub features: &'static [&'static str],
}

/// A directory that is to be the root of the confined process.
#[derive(Debug)]
pub struct OpenDirectory {
    pub(crate) descriptor: OwnedFd,
    pub(crate) readonly: bool,
}

impl OpenDirectory {
    /// Opens it.
    ///
    /// # Errors
    /// [`Error::Resource`]: it is none, or not for this user.
    pub fn open(path: &Path, readonly: bool) -> Result<Self, Error> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match nix::fcntl::open(path, flags, Mode::empty()) {
            Ok(descriptor) => Ok(Self { descriptor, readonly }),
            Err(errno) => {
                Err(Error::Resource(format!("cannot use the directory {}: {}", path.display(), errno.desc())))
            }
        }
    }
}

/// A device program: a policy, a device, and how its resource is named and opened by hand.
pub trait DeviceProgram {
    /// The device that it serves.
    type Device: Device;
    /// Its own options on a stand-alone command line.
    type Arguments: Default;
    /// Its policy.
    const PROGRAM: sandbox_policies::Program;
    /// What `--print-capabilities` says.
    const CAPABILITIES: Capabilities;
    /// Its own options, a line each, for `--help`.
    const HELP: &'static str;

    /// Takes the option `name` if it is one of this device's, its value from `parser`.
    ///
    /// # Errors
    /// A value that is missing or malformed.
    fn argument(arguments: &mut Self::Arguments, name: &str, parser: &mut Parser) -> Result<bool, Error>;

    /// Opens the directory that is to be the program's root, for one that does not have an empty one.
    ///
    /// # Errors
    /// [`Error::Usage`] or [`Error::Resource`].
    fn directory(_arguments: &Self::Arguments) -> Result<Option<OpenDirectory>, Error> {
        Ok(None)
    }

    /// Opens the resource: with `directory` the only place in a device program where a path becomes a descriptor.
    ///
    /// # Errors
    /// [`Error::Usage`] or [`Error::Resource`].
    fn open(arguments: Self::Arguments) -> Result<(DeviceOptions, OwnedFd), Error>;

    /// Opens a resource that may be more than one descriptor: the rest are as many as the options say.
    ///
    /// # Errors
    /// [`Error::Usage`] or [`Error::Resource`].
    fn open_all(arguments: Self::Arguments) -> Result<(DeviceOptions, OwnedFd, Vec<OwnedFd>), Error> {
        let (options, first) = Self::open(arguments)?;
        let rest = Self::open_rest(&options, first.as_fd())?;
        Ok((options, first, rest))
    }

    /// Gives a device the rest of its resource, before anything else.
    ///
    /// # Errors
    /// [`Error::Resource`] when it is not what it should be; [`Error::UnexpectedMessage`], as here, when there is none.
    fn add(_device: &mut Self::Device, _rest: Vec<OwnedFd>) -> Result<(), Error> {
        Err(Error::UnexpectedMessage)
    }

    /// Opens the rest of a resource that is more than one descriptor, as many as `options` say, by what `open` has opened.
    ///
    /// # Errors
    /// [`Error::Resource`].
    fn open_rest(_options: &DeviceOptions, _first: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Error> {
        Ok(Vec::new())
    }

    /// Checks what the hand-over brought and makes the device of it.
    ///
    /// # Errors
    /// [`Error::Resource`] when the resource is not what `options` say; [`Error::DeviceType`] when those are another
    /// device's.
    fn device(options: DeviceOptions, resource: OwnedFd) -> Result<Self::Device, Error>;
}

/// The options that are this library's.
pub(crate) struct Options {
    pub(crate) spawned: bool,
    /// Refusals are logged: the launcher's alone to say.
    pub(crate) logged: bool,
    pub(crate) requirement: Requirement,
    pub(crate) unsealed: Unsealed,
    pub(crate) front_end: Option<stand_alone::FrontEnd>,
    pub(crate) limits: Limits,
}

/// The user's limits; a burst without its rate says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    bandwidth: Option<u64>,
    bandwidth_burst: Option<u64>,
    operations: Option<u64>,
    operations_burst: Option<u64>,
}

impl Limits {
    /// Takes the option `name` if it is one of these.
    fn argument(&mut self, name: &str, parser: &mut Parser) -> Result<bool, Error> {
        let place = match name {
            "bandwidth" => &mut self.bandwidth,
            "bandwidth-burst" => &mut self.bandwidth_burst,
            "operations" => &mut self.operations,
            "operations-burst" => &mut self.operations_burst,
            _ => return Ok(false),
        };
        *place = Some(parser.value()?.parse()?);
        Ok(true)
    }

    pub(crate) fn rates(self) -> Result<Rates, Error> {
        let rate = |name, per_second: Option<u64>, burst: Option<u64>| match (per_second, burst) {
            (None, Some(_)) => Err(Error::Usage(format!("--{name}-burst goes with --{name}"))),
            (per_second, burst) => Ok(per_second.map(|per_second| {
                let usual = Rate::of(per_second);
                Rate { burst: burst.unwrap_or(usual.burst), ..usual }
            })),
        };
        Ok(Rates {
            bandwidth: rate("bandwidth", self.bandwidth, self.bandwidth_burst)?,
            operations: rate("operations", self.operations, self.operations_burst)?,
        })
    }
}

/// What the command line asks for.
enum Task<A> {
    Serve(Options, A),
    Print(String),
}

/// Runs the program that `P` describes, to its end.
#[must_use]
pub fn run<P: DeviceProgram>() -> ExitCode {
    let name = P::PROGRAM.name();
    let result = match parse::<P>(Parser::from_env()) {
        Ok(Task::Print(text)) => {
            use std::io::Write;
            // A reader that closed its end has read enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Ok(Task::Serve(options, _)) if options.spawned => {
            if options.logged {
                sandbox_policies::log_refusals();
            }
            process::exit_now(spawned::serve::<P>(options.requirement, options.unsealed))
        }
        Ok(Task::Serve(options, arguments)) => stand_alone::run::<P>(options, arguments),
        Err(error) => Err(error),
    };
    result.unwrap_or_else(|error| {
        log::line(format_args!("{name}: {error}"));
        ExitCode::from(error.exit_code())
    })
}

fn parse<P: DeviceProgram>(mut parser: Parser) -> Result<Task<P::Arguments>, Error> {
    let mut arguments = P::Arguments::default();
    let mut options = Options {
        spawned: false,
        logged: false,
        requirement: Requirement::Required,
        unsealed: Unsealed::Refuse,
        front_end: None,
        limits: Limits::default(),
    };
    while let Some(argument) = parser.next()? {
        let name = match argument {
            Arg::Long(name) => name.to_owned(),
            Arg::Short('h') => "help".to_owned(),
            other => return Err(other.unexpected().into()),
        };
        match name.as_str() {
            "help" => return Ok(Task::Print(help::<P>())),
            "print-capabilities" => return Ok(Task::Print(capabilities(P::CAPABILITIES))),
            "hand-over" => options.spawned = hand_over(parser.value()?.parse()?)?,
            "sandbox" => {
                let word = parser.value()?.string()?;
                options.requirement = word.parse().map_err(|error| Error::Usage(format!("{error}")))?;
            }
            // With what the launcher calls the device, for its tracer to read.
            "sandbox-log" => {
                parser.value()?;
                options.logged = true;
            }
            #[cfg(feature = "fault-points")]
            "die-at" => crate::fault::arm(&parser.value()?.string()?)?,
            "unsealed-memory" => options.unsealed = Unsealed::Accept,
            "socket-path" => {
                let path = parser.value()?.into();
                set_front_end(&mut options, stand_alone::FrontEnd::Listen(path))?;
            }
            "fd" => {
                let number = parser.value()?.parse()?;
                set_front_end(&mut options, stand_alone::FrontEnd::Inherited(number))?;
            }
            other if options.limits.argument(other, &mut parser)? => {}
            other if P::argument(&mut arguments, other, &mut parser)? => {}
            other => return Err(Arg::Long(other).unexpected().into()),
        }
    }
    if options.logged && !options.spawned {
        // There is no tracer, and the calls would fail.
        return Err(Error::Usage("--sandbox-log is for programs that vmm has spawned".to_owned()));
    }
    Ok(Task::Serve(options, arguments))
}

/// The number is part of the convention, not a choice: it says that the caller knows it.
fn hand_over(number: u32) -> Result<bool, Error> {
    if number == 3 { Ok(true) } else { Err(Error::Usage(format!("--hand-over={number}: it is always 3"))) }
}

fn set_front_end(options: &mut Options, front_end: stand_alone::FrontEnd) -> Result<(), Error> {
    match options.front_end.replace(front_end) {
        None => Ok(()),
        Some(_) => Err(Error::Usage("give one of --socket-path and --fd, once".to_owned())),
    }
}

fn help<P: DeviceProgram>() -> String {
    let name = P::PROGRAM.name();
    format!(
        "Serves a virtio device to one vhost-user front end.\n\n\
         Usage: {name} (--socket-path=PATH | --fd=N) [OPTIONS]\n\n\
         \x20 --socket-path=PATH     listen at PATH for one front end; PATH is removed again\n\
         \x20 --fd=N                 the connected vhost-user socket is descriptor N\n\
         \x20 --print-capabilities   say as JSON what this program can do, and end\n\
         \x20 --sandbox=WORD         required (default): every layer, or none of the service; available: what the\n\
         \x20                        host has\n\
         \x20 --bandwidth=N          bytes a second at most, --bandwidth-burst=N at once after a pause,\n\
         \x20                        default a tenth (not of every device)\n\
         \x20 --operations=N         requests a second at most, --operations-burst=N as above\n\
         \x20 --unsealed-memory      take guest memory that its owner can truncate, which would kill this program\n\
         \x20 -h, --help             this text, and end\n\n{}",
        P::HELP
    )
}

fn capabilities(capabilities: Capabilities) -> String {
    let features: Vec<String> = capabilities.features.iter().map(|name| format!("\"{name}\"")).collect();
    format!("{{\"type\":\"{}\",\"features\":[{}]}}\n", capabilities.kind, features.join(","))
}
