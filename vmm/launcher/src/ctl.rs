//! `vmm ctl VM …`: a client of a machine's control socket. It opens what it names itself, as the user who calls it, and
//! sends descriptors: the launcher of a machine that runs knows no path.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::{
    AskDevice, BalloonAmount, Channel, ConsoleSize, DeviceStatus, FromLauncher, Phase, ReplaceDevice,
    SetDevice, Setting, ToLauncher,
};

use crate::balloon_statistics;
use crate::control_socket;
use crate::error::Error;
use crate::exit_code::Code;
use crate::open;
use crate::report::printable;
use crate::size::Size;

/// So long a guest is given to answer, in milliseconds.
const PATIENCE: u16 = 10_000;

/// Controls a machine that runs.
#[derive(Debug, Parser)]
#[command(bin_name = "vmm ctl", max_term_width = 110, arg_required_else_help = false)]
pub struct ControlLine {
    /// The machine: the path that it was given with --control-socket.
    #[arg(value_name = "VM")]
    pub machine: PathBuf,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What a machine can be asked.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the devices, who serves them and how they have done.
    Devices,
    /// Set how much of its memory the guest is to give back by a balloon.
    Balloon {
        /// The device's name, as in balloon0.
        #[arg(value_name = "ID")]
        device: String,

        /// As in 256M; 0 for nothing.
        #[arg(value_name = "SIZE")]
        size: Size,
    },
    /// Set how much memory the guest is to have plugged in.
    Mem {
        /// The device's name, as in mem0.
        #[arg(value_name = "ID")]
        device: String,

        /// As in 2G; 0 for nothing.
        #[arg(value_name = "SIZE")]
        size: Size,
    },
    /// Have the guest see that a disk is larger.
    ResizeDisk {
        /// The device's name, as in blk0.
        #[arg(value_name = "ID")]
        device: String,

        /// As in 20G, to which a raw file is made longer; without it as large as the file or block device is by now.
        #[arg(value_name = "SIZE")]
        size: Option<Size>,
    },
    /// Say what the guest of a balloon uses its memory for, by its own word.
    BalloonStats {
        /// The device's name, as in balloon0.
        #[arg(value_name = "ID")]
        device: String,
    },
    /// Set the size of a console's terminal, which the guest is told.
    ResizeConsole {
        /// The device's name, as in console0.
        #[arg(value_name = "ID")]
        device: String,

        /// As in 80x24.
        #[arg(value_name = "COLUMNSxROWS")]
        size: ConsoleSize,
    },
    /// Plug the cable of a network in or out.
    Link {
        /// The device's name, as in net0.
        #[arg(value_name = "ID")]
        device: String,

        /// up or down.
        #[arg(value_name = "STATE")]
        state: LinkState,
    },
    /// Replace the program of a device by a new process of it, or of another program, under the running guest.
    ReplaceDevice {
        /// The device's name, as in blk0.
        #[arg(value_name = "ID")]
        device: String,

        /// Another program, from now on; it runs in the same confinement, under the same policy.
        #[arg(long, value_name = "PATH")]
        program: Option<PathBuf>,
    },
}

/// Of a network's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LinkState {
    /// Frames pass.
    Up,
    /// None does, and the guest is told.
    Down,
}

/// Asks, waits for the answer, and says it.
pub fn run(line: &ControlLine) -> Result<String, Error> {
    let (request, program) = match &line.command {
        Command::Devices => (ToLauncher::Devices, None),
        Command::Balloon { device, size } => {
            let (device, setting) = (device.clone(), Setting::Balloon(size.0));
            (ToLauncher::Set(SetDevice { device, setting }), None)
        }
        Command::Mem { device, size } => {
            let (device, setting) = (device.clone(), Setting::Mem(size.0));
            (ToLauncher::Set(SetDevice { device, setting }), None)
        }
        Command::ResizeDisk { device, size } => {
            let (device, setting) = (device.clone(), Setting::Disk(size.map(|size| size.0)));
            (ToLauncher::Set(SetDevice { device, setting }), None)
        }
        Command::BalloonStats { device } => {
            (ToLauncher::Statistics(AskDevice { device: device.clone() }), None)
        }
        Command::ResizeConsole { device, size } => {
            let (device, setting) = (device.clone(), Setting::Console(*size));
            (ToLauncher::Set(SetDevice { device, setting }), None)
        }
        Command::Link { device, state } => {
            let (device, setting) = (device.clone(), Setting::Link(*state == LinkState::Up));
            (ToLauncher::Set(SetDevice { device, setting }), None)
        }
        Command::ReplaceDevice { device, program } => {
            let program = program.as_deref().map(executable).transpose()?;
            let replace = ReplaceDevice { device: device.clone(), program: program.is_some() };
            (ToLauncher::Replace(replace), program)
        }
    };
    let channel = control_socket::client(&line.machine)?;
    match ask(&channel, &request, program.as_ref())? {
        FromLauncher::Devices(devices) => Ok(devices.iter().map(row).collect()),
        FromLauncher::Replaced(replaced) => {
            Ok(format!("replaced: pid {} took over within {} ms\n", replaced.pid, replaced.within_ms))
        }
        FromLauncher::Set if matches!(line.command, Command::Balloon { .. } | Command::Mem { .. }) => {
            Ok("set: the guest is told, and does it in its own time\n".to_owned())
        }
        FromLauncher::Set => Ok("set: the guest is told\n".to_owned()),
        FromLauncher::Statistics(told) => Ok(balloon_statistics::lines(&told)),
        FromLauncher::Processes(_) => Err(unexpected()),
        FromLauncher::Failed(failure) => Err(Error::Control(failure.text)),
    }
}

/// The answer is one to another question.
pub fn unexpected() -> Error {
    Error::Control("the machine's answer is none to what it was asked".to_owned())
}

/// Asks, and waits for the answer.
pub fn ask(
    channel: &Channel,
    request: &ToLauncher,
    program: Option<&OwnedFd>,
) -> Result<FromLauncher, Error> {
    let wrong = |error: protocol::Error| match error {
        protocol::Error::Limit { .. } => Error::Usage(format!("cannot ask for that: {error}")),
        error => Error::Control(format!("the machine cannot be asked: {error}")),
    };
    let fds: Vec<_> = program.iter().map(|program| program.as_fd()).collect();
    let hung_up = || {
        let why = "it hung up: it ended, has too many clients, or was started by another user";
        Error::Control(why.to_owned())
    };
    match channel.send(request, &fds) {
        Err(protocol::Error::System {
            errno: nix::errno::Errno::EPIPE | nix::errno::Errno::ECONNRESET,
            ..
        }) => {
            return Err(hung_up());
        }
        sent => sent.map_err(wrong)?,
    }
    if let ToLauncher::Statistics(AskDevice { device }) = request {
        wait_for_guest(channel, device)?;
    }
    let answer = channel.receive(Phase::Serving).map_err(wrong)?;
    answer.map(|(answer, _)| answer).ok_or_else(hung_up)
}

/// Nobody but the guest decides when it answers.
fn wait_for_guest(channel: &Channel, device: &str) -> Result<(), Error> {
    let mut fds = [PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, PollTimeout::from(PATIENCE)) {
            Err(Errno::EINTR) => {}
            Ok(0) => {
                let seconds = PATIENCE / 1000;
                return Err(Error::Control(format!(
                    "the guest's driver of {device} has not answered for {seconds} s: ask again when the guest is less busy"
                )));
            }
            Ok(_) => return Ok(()),
            Err(errno) => return Err(Error::System { what: "wait for an answer", errno }),
        }
    }
}

fn executable(path: &Path) -> Result<OwnedFd, Error> {
    open::program(path).map_err(|error| {
        let text = match error.kind() {
            std::io::ErrorKind::IsADirectory => "it is no file".to_owned(),
            _ => error.to_string(),
        };
        Error::Path { what: "use program", path: path.to_owned(), text, code: Code::Resource }
    })
}

fn row(device: &DeviceStatus) -> String {
    let DeviceStatus { name, state, pid, deaths, restarts, longest_pause_ms, balloon } = device;
    let who = if *pid == 0 { String::new() } else { format!(" (pid {pid})") };
    let holds = balloon.map_or_else(String::new, |BalloonAmount { target, actual }| {
        format!(", holds {} of {}", Size(actual), Size(target))
    });
    format!(
        "{}: {}{who}, {deaths} deaths, {restarts} restarts, longest pause {longest_pause_ms} ms{holds}\n",
        printable(name),
        printable(state)
    )
}
