//! A device program started by somebody else than our launcher: what the launcher would do, done by itself.
//!
//! It opens the resource, takes one front end, and spawns itself into the very confinement, and with the
//! very hand-over, that the launcher gives it. The parent never reads a byte of the front end or of the guest; it
//! relays the log, waits, and confines itself as far as that allows. How the child died it reads from bounded frames. When it ends, for whatever reason, the kernel
//! kills the child.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::pipe2;
use protocol::{Channel, DeviceSetup, FromDevice, Phase, ToDevice, Violation};
use sandbox_policies::Directory;
use sandbox_policies::spawn::{Child, Ended, Identity, Plan, spawn};

use crate::listening::listen;
use crate::memory::Unsealed;
use crate::program::{OpenDirectory, Options};
use crate::{DeviceProgram, Error, log, process};

/// Longest part of a log line that is passed on, in bytes.
const LINE: usize = 1024;

/// Where the front end is.
pub(crate) enum FrontEnd {
    Listen(PathBuf),
    Inherited(i32),
}

/// Runs the program by hand.
pub(crate) fn run<P: DeviceProgram>(
    mut options: Options,
    arguments: P::Arguments,
) -> Result<ExitCode, Error> {
    let Some(front_end) = options.front_end.take() else {
        return Err(Error::Usage("where is the front end? Give --socket-path=PATH or --fd=N".to_owned()));
    };
    // Before anything is opened here that could get this number.
    let inherited = match front_end {
        FrontEnd::Inherited(number) => Some(inherited(number)?),
        FrontEnd::Listen(_) => None,
    };
    let rates = options.limits.rates()?;
    let directory = P::directory(&arguments)?;
    let (device, resource, rest) = P::open_all(arguments)?;
    let more = device.more();
    // From here on a signal waits until it is looked for, so that no socket file is left behind.
    let signals = signals()?;
    let socket = match (front_end, inherited) {
        (FrontEnd::Listen(path), _) => connect(&path, &signals)?,
        (FrontEnd::Inherited(_), inherited) => inherited,
    };
    let Some(socket) = socket else { return Ok(ended_by(&signals)) };
    let (control, theirs) = Channel::pair()?;
    let (log, log_writer) = pipe2(OFlag::O_CLOEXEC).map_err(Error::system("make a pipe"))?;
    let child = spawn_self::<P>(&options, &theirs.into(), &log_writer, directory.as_ref())?;
    drop(log_writer);
    let setup = DeviceSetup {
        name: P::PROGRAM.name().to_owned(),
        options: device,
        blamed: false,
        keep: false,
        rates,
    };
    control.send(&ToDevice::Setup(setup), &[socket.as_fd(), resource.as_fd()])?;
    if more > 0 {
        let rest: Vec<_> = rest.iter().map(AsFd::as_fd).collect();
        control.send(&ToDevice::More(more), &rest)?;
    }
    drop((socket, resource, rest, directory));
    control.set_nonblocking(true)?;
    let report = sandbox_policies::confine_stand_alone(P::PROGRAM, options.requirement)?;
    for lacking in child.lacking().iter().chain(&report.lacking) {
        log::line(format_args!("sandbox: {lacking}"));
    }
    let code = wait(child, log, &control, &signals)?;
    // The channel was held open until here: its end tells the child to go.
    drop(control);
    process::exit_now(code)
}

fn signals() -> Result<SignalFd, Error> {
    let set = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    set.thread_block().map_err(Error::system("block signals"))?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(Error::system("make a signalfd"))
}

fn inherited(number: i32) -> Result<OwnedFd, Error> {
    let fd = process::inherited(number).filter(|_| number > 2);
    let stream = fd.map(UnixStream::from).filter(|stream| stream.peer_addr().is_ok());
    let none = || Error::Usage(format!("--fd={number} is not a connected Unix socket"));
    Ok(stream.ok_or_else(none)?.into())
}

/// The connected socket, or None when a signal came first.
fn connect(path: &Path, signals: &SignalFd) -> Result<Option<OwnedFd>, Error> {
    let listener = listen(path)?;
    let accepted = accept(&listener, signals);
    // One front end is served: nobody else shall find the socket.
    let _ = std::fs::remove_file(path);
    accepted
}

fn accept(listener: &UnixListener, signals: &SignalFd) -> Result<Option<OwnedFd>, Error> {
    let mut fds = [listener.as_fd(), signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    while let Err(errno) = ppoll(&mut fds, None, None) {
        if errno != Errno::EINTR {
            return Err(Error::System { action: "wait for a front end", errno });
        }
    }
    let [connected, _] = fds.map(|fd| fd.any() == Some(true));
    if !connected {
        return Ok(None);
    }
    let (stream, _) =
        listener.accept().map_err(|error| Error::Resource(format!("cannot accept a front end: {error}")))?;
    Ok(Some(stream.into()))
}

fn spawn_self<P: DeviceProgram>(
    options: &Options,
    control: &OwnedFd,
    log: &OwnedFd,
    directory: Option<&OpenDirectory>,
) -> Result<Child, Error> {
    let open = |path: &str, flags| {
        let path = CString::new(path).map_err(|_| Error::Usage("a path with a zero byte".to_owned()))?;
        nix::fcntl::open(path.as_c_str(), flags | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
            .map_err(Error::system("open what the child needs"))
    };
    let program = open("/proc/self/exe", OFlag::O_PATH)?;
    let null = open("/dev/null", OFlag::O_RDWR)?;
    let sandbox = format!("--sandbox={}", options.requirement);
    let mut arguments = vec!["--hand-over=3", sandbox.as_str()];
    if options.unsealed == Unsealed::Accept {
        arguments.push("--unsealed-memory");
    }
    #[cfg(feature = "fault-points")]
    let die_at = crate::fault::argument();
    #[cfg(feature = "fault-points")]
    arguments.extend(die_at.as_deref());
    let plan = Plan {
        program: program.as_fd(),
        name: P::PROGRAM.name(),
        arguments: &arguments,
        log: log.as_fd(),
        control: control.as_fd(),
        null: null.as_fd(),
        identity: Identity::for_child(0),
        requirement: options.requirement,
        directory: directory.map(|it| Directory { descriptor: it.descriptor.as_fd(), readonly: it.readonly }),
        group: None,
    };
    Ok(spawn(&plan)?)
}

/// Relays the log until the child ends, and returns the exit code.
fn wait(mut child: Child, log: OwnedFd, control: &Channel, signals: &SignalFd) -> Result<u8, Error> {
    let mut log = Some(File::from(log));
    let mut relay = Relay::default();
    let mut buffer = [0; LINE];
    loop {
        let fds = [Some(child.as_fd()), Some(signals.as_fd()), log.as_ref().map(AsFd::as_fd)];
        let mut fds: Vec<PollFd<'_>> =
            fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match ppoll(&mut fds, None, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::System { action: "wait for the device", errno }),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        let is_ready = |position: usize| ready.get(position) == Some(&true);
        if is_ready(1)
            && let Ok(Some(info)) = signals.read_signal()
        {
            // Ending this process kills the child.
            return Ok(128u8.saturating_add(u8::try_from(info.ssi_signo).unwrap_or(0)));
        }
        if is_ready(2)
            && let Some(pipe) = &mut log
        {
            match pipe.read(&mut buffer) {
                Ok(count) if count > 0 => {
                    relay.take(buffer.get(..count).unwrap_or_default());
                    continue;
                }
                // Closed by the child, which may live on without a log.
                _ => log = None,
            }
        }
        if is_ready(0)
            && let Some(ended) = child.try_wait()?
        {
            return Ok(code(ended, control));
        }
    }
}

/// The child's log, a line at a time. It may be taken over: no line is endless, and no control character reaches
/// the terminal.
#[derive(Default)]
struct Relay(Vec<u8>);

impl Relay {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' || self.0.len() >= LINE {
                self.end_line();
            }
            if *byte != b'\n' {
                self.0.push(*byte);
            }
        }
    }

    fn end_line(&mut self) {
        if !self.0.is_empty() {
            let text = String::from_utf8_lossy(&self.0);
            let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            log::line(text);
            self.0.clear();
        }
    }
}

/// The exit code for an end of the child, which is told in the log if it was no end that the child chose.
fn code(ended: Ended, control: &Channel) -> u8 {
    match (ended, refused(control)) {
        (Ended::Exited(code), _) => u8::try_from(code).unwrap_or(1),
        (Ended::Signaled(_), Some(Violation { call, arguments: [a, b, c, d, e, f] })) => {
            log::line(format_args!(
                "the device process made system call {call} with arguments ({a:#x}, {b:#x}, {c:#x}, {d:#x}, {e:#x}, \
                 {f:#x}), which its policy forbids, and was killed"
            ));
            7
        }
        (Ended::Signaled(signal), None) => {
            log::line(format_args!("the device process was killed by signal {signal}"));
            7
        }
    }
}

/// The last word of a child that has ended, if it is that: it says little else, and nothing that asks for an answer.
fn refused(control: &Channel) -> Option<Violation> {
    while let Ok(Some((message, _))) = control.receive::<FromDevice>(Phase::HandOver) {
        if let FromDevice::Violation(violation) = message {
            return Some(violation);
        }
    }
    None
}

/// The exit code of a program that a signal ended.
fn ended_by(signals: &SignalFd) -> ExitCode {
    let signal = signals.read_signal().ok().flatten().map_or(0, |info| info.ssi_signo);
    ExitCode::from(128u8.saturating_add(u8::try_from(signal).unwrap_or(0)))
}
