//! One spawned program: the process, its control channel, its log.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use protocol::{Channel, Ready, ToDevice, Violation, take_no_descriptors};
use sandbox_policies::spawn::{Child, Ended, Identity, Plan};
use sandbox_policies::{Directory, Program, Requirement, refusals_are_logged};

use crate::error::Error;
use crate::programs::Executable;
use crate::supervise::Asker;
use crate::supervise::amounts::Amount;
use crate::supervise::log_relay::LogRelay;
use crate::supervise::silence::Silence;

/// A program that was spawned, until it is reaped.
#[derive(Debug)]
pub struct Process {
    /// `vmm-core`, or the device's name.
    pub name: String,
    /// Which program.
    pub program: Program,
    /// The process.
    pub child: Child,
    /// Our end of the control channel; closed once the other end is.
    pub control: Option<Channel>,
    /// What it writes to its descriptor 2.
    pub log: LogRelay,
    /// What it said when it was ready.
    pub ready: Option<Ready>,
    /// Whether it was given its device's keep.
    pub has_keep: bool,
    /// Whether it owes an answer.
    pub silence: Silence,
    /// Whose setting it owes an answer to.
    pub setting_for: Option<Asker>,
    /// The clients that it owes the word of the guest's driver, if it owes it.
    pub statistics_for: Option<Vec<u64>>,
    /// What it holds of guest memory, if it is a balloon, or what of it is plugged in.
    pub amount: Amount,
    /// The system call that its policy has refused, if it said so.
    pub refused: Option<Violation>,
    /// How it ended.
    pub ended: Option<Ended>,
    /// It serves nothing any more, was told to end, and has until then.
    pub dismissed: Option<Instant>,
}

/// How programs are told that they were spawned by us: the control channel is descriptor 3.
pub const HAND_OVER: &str = "--hand-over=3";

/// How programs are told that what their policies refuse is only logged, with what each is called, which is for the tracer:
/// said if it holds for this process ([`sandbox_policies::log_refusals`]), and to be had from nobody else.
pub const SANDBOX_LOG: &str = "--sandbox-log=";

/// What it takes to spawn a program.
#[derive(Debug, Clone, Copy)]
pub struct Spawning<'a> {
    /// The program.
    pub executable: &'a Executable,
    /// What it is called.
    pub name: &'a str,
    /// Who it is outside of its user namespace.
    pub identity: Identity,
    /// What to do when a layer is missing.
    pub requirement: Requirement,
    /// Its descriptors 0 and 1.
    pub null: BorrowedFd<'a>,
    /// What its root is, if not empty.
    pub directory: Option<Directory<'a>>,
    /// The control group that it begins in.
    pub group: Option<BorrowedFd<'a>>,
}

/// Whose children programs become.
pub trait Parent {
    /// Spawns one.
    fn spawn(&mut self, plan: &Plan<'_>) -> Result<Child, sandbox_policies::Error>;

    /// Sees to it that one that was killed does not stay a zombie.
    fn bury(&mut self, child: Child);
}

/// Of the calling process.
#[derive(Debug, Clone, Copy)]
pub struct Ourselves;

impl Parent for Ourselves {
    fn spawn(&mut self, plan: &Plan<'_>) -> Result<Child, sandbox_policies::Error> {
        sandbox_policies::spawn::spawn(plan)
    }

    fn bury(&mut self, mut child: Child) {
        let _ = child.wait();
    }
}

/// What comes of spawning a program: the process, our end of its control channel, the reading end of its log.
pub type Spawned = (Child, Channel, OwnedFd);

impl Spawning<'_> {
    /// Spawns the program, or another under its name and in its confinement.
    pub fn spawn(&self, parent: &mut impl Parent, program: Option<BorrowedFd<'_>>) -> Result<Spawned, Error> {
        let hand_over = |error| Error::HandOver { name: self.name.to_owned(), error };
        let (control, theirs) = Channel::pair().map_err(hand_over)?;
        // No message of theirs has any.
        take_no_descriptors(&control);
        let (log, their_log) = pipe2(OFlag::O_CLOEXEC).map_err(Error::system("make a pipe"))?;
        // Ours alone: the two ends of a pipe have flags of their own.
        fcntl(&log, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(Error::system("set a pipe non-blocking"))?;
        let sandbox = format!("--sandbox={}", self.requirement);
        let logged = format!("{SANDBOX_LOG}{}", self.name);
        let arguments = [HAND_OVER, &sandbox, &logged];
        let arguments = if refusals_are_logged() { &arguments[..] } else { &arguments[..2] };
        let child = parent.spawn(&Plan {
            program: program.unwrap_or(self.executable.fd.as_fd()),
            name: self.executable.program.name(),
            arguments,
            log: their_log.as_fd(),
            control: theirs.as_fd(),
            null: self.null,
            identity: self.identity,
            requirement: self.requirement,
            directory: self.directory,
            group: self.group,
        })?;
        Ok((child, control, log))
    }
}

impl Process {
    /// Tells a device's program something that has no descriptors.
    pub fn tell(&self, message: &ToDevice) -> Result<(), String> {
        let name = &self.name;
        let Some(control) = &self.control else { return Err(format!("the program of {name} is ending")) };
        control.send(message, &[]).map_err(|error| format!("the program of {name} does not take it: {error}"))
    }

    /// The process that was spawned as `name`.
    pub fn new(name: &str, program: Program, (child, control, log): Spawned) -> Process {
        let log = LogRelay::new(name, log);
        Process {
            name: name.to_owned(),
            program,
            child,
            control: Some(control),
            log,
            ready: None,
            has_keep: false,
            silence: Silence::default(),
            setting_for: None,
            statistics_for: None,
            amount: Amount::default(),
            refused: None,
            ended: None,
            dismissed: None,
        }
    }
}
