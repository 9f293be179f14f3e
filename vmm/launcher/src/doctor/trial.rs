//! A program of ours spawned into its confinement for nothing but to see how far it gets.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::MFdFlags;
use protocol::{
    BalloonOptions, CoreSetup, DeviceOptions, FailureKind, FromCore, FromDevice, Message, Phase, Rates,
    ToCore, frame,
};
use sandbox_policies::spawn::{Ended, Identity};
use sandbox_policies::{Program, Requirement};

use super::{Finding, LESS_CONFINED, NO_MACHINE};
use crate::device_process::{DeviceProcess, tell};
use crate::error::{Error, code_of_failure};
use crate::exit_code::Code;
use crate::memory::{self, Region};
use crate::programs::Executable;
use crate::report;
use crate::spawn::{Ourselves, Spawned, Spawning};

/// Milliseconds that a program has for its answer.
const PATIENCE: u16 = 60_000;
/// Bytes of its log that are read.
const LOG: u64 = 4096;

/// What is tried.
pub struct Subject<'a> {
    /// The program.
    pub executable: &'a Executable,
    /// Its descriptors 0 and 1.
    pub null: &'a OwnedFd,
}

/// How far a program got.
#[derive(Debug, Default)]
pub struct Trial {
    /// Why it was not even spawned.
    pub not_spawned: Option<Error>,
    /// Namespaces that it went without.
    pub lacking: Vec<String>,
    /// Why it gave up, which it says only once it is confined.
    pub said: Option<(FailureKind, String)>,
    /// The minor version of its hand-over, if it said anything.
    minor: u8,
    log: String,
    ended: Option<Ended>,
    /// Whether there was a KVM to give to it.
    had_kvm: bool,
}

impl<'a> Subject<'a> {
    fn spawning(&self, requirement: Requirement) -> Spawning<'a> {
        Spawning {
            executable: self.executable,
            name: self.executable.program.name(),
            identity: Identity::for_child(0),
            requirement,
            null: self.null.as_fd(),
            directory: None,
            group: None,
        }
    }
}

/// Has the core make a VM and boot an empty kernel.
pub fn core(
    subject: &Subject<'_>,
    requirement: Requirement,
    kvm: Option<&OwnedFd>,
    memory: &[Region],
) -> Result<Trial, Error> {
    let name = subject.executable.program.name();
    let kernel =
        memory::memfd("no-kernel", MFdFlags::empty()).map_err(Error::system("make an empty file"))?;
    let spawned = match subject.spawning(requirement).spawn(&mut Ourselves, None) {
        Ok(spawned) => spawned,
        Err(error) => return Ok(Trial { not_spawned: Some(error), ..Trial::default() }),
    };
    let setup = CoreSetup {
        memory: memory.iter().map(|region| region.region).collect(),
        cpus: 1,
        command_line: String::new(),
        initrd: false,
        console: false,
    };
    // Without a KVM the core still shows whether it can be confined.
    let mut fds = vec![kvm.unwrap_or(subject.null).as_fd()];
    fds.extend(memory.iter().map(|region| region.fd.as_fd()));
    fds.push(kernel.as_fd());
    let told = tell(name, &spawned.1, &ToCore::Setup(setup), &fds)
        .and_then(|()| tell(name, &spawned.1, &ToCore::Start, &[]));
    let trial = watch::<FromCore>(spawned, |message| match message {
        FromCore::Failed(failure) => Some((failure.kind, failure.text)),
        _ => None,
    })?;
    told.map(|()| Trial { had_kvm: kvm.is_some(), ..trial })
}

/// Has a device's program serve what is another's.
pub fn device(subject: &Subject<'_>) -> Result<Trial, Error> {
    let none = BalloonOptions { size: 0, deflate_on_oom: false, free_page_reporting: false };
    let foreign = match subject.executable.program {
        Program::DeviceRng => DeviceOptions::Balloon(none),
        _ => DeviceOptions::Rng,
    };
    let process = DeviceProcess {
        spawning: subject.spawning(Requirement::Required),
        options: foreign,
        rates: Rates::default(),
        resource: subject.null.as_fd(),
        more: Vec::new(),
    };
    match process.spawn(&mut Ourselves, false, None) {
        Ok((spawned, _front_end)) => watch::<FromDevice>(spawned, |message| match message {
            FromDevice::Failed(failure) => Some((failure.kind, failure.text)),
            _ => None,
        }),
        Err(error) => Ok(Trial { not_spawned: Some(error), ..Trial::default() }),
    }
}

/// Waits for the one word of the program, and for its end.
fn watch<M: Message>(
    (mut child, control, log): Spawned,
    failure: impl Fn(M) -> Option<(FailureKind, String)>,
) -> Result<Trial, Error> {
    let mut trial = Trial { lacking: child.lacking().to_vec(), ..Trial::default() };
    let mut ends = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
    if matches!(poll(&mut ends, PollTimeout::from(PATIENCE)), Ok(1..))
        && let Ok(Some((message, _))) = control.receive::<M>(Phase::HandOver)
    {
        trial.minor = control.peer_minor();
        trial.said = failure(message);
    } else if !matches!(poll(&mut ends, PollTimeout::ZERO), Ok(1..)) {
        trial.log = "it does not answer".to_owned();
    }
    if trial.said.is_some() || !trial.log.is_empty() {
        // It has said all that is of interest, or never will.
        child.kill()?;
    }
    drop(control);
    trial.ended = Some(child.wait()?);
    let mut text = Vec::new();
    // Of a log that cannot be read there is nothing to be said.
    let _ = File::from(log).take(LOG).read_to_end(&mut text);
    trial.log.push_str(report::printable(String::from_utf8_lossy(&text).trim()).as_str());
    Ok(trial)
}

impl Trial {
    /// What the core found beyond the namespaces.
    pub fn findings(&self) -> Vec<Finding> {
        if self.not_spawned.is_some() {
            return Vec::new();
        }
        let Some((kind, text)) = &self.said else {
            let code = match self.ended {
                Some(Ended::Exited(6)) => Code::Sandbox,
                _ => Code::Core,
            };
            return vec![Finding::stops("confinement", self.unsaid(), LESS_CONFINED, code)];
        };
        let filters = "limits, landlock and the filters of system calls are in force in vmm-core";
        let mut all = vec![match kind {
            FailureKind::Sandbox => Finding::stops("confinement", text, LESS_CONFINED, Code::Sandbox),
            _ => Finding::held("confinement", format!("{filters} ({})", self.version())),
        }];
        match kind {
            FailureKind::Sandbox => {}
            // It was made, and then there was no kernel in it.
            FailureKind::Kernel => {
                all.push(Finding::held("virtual machine", "KVM has every capability that vmm-core needs"));
            }
            _ if !self.had_kvm => {}
            kind => all.push(Finding::stops("virtual machine", text, NO_MACHINE, code_of_failure(*kind))),
        }
        all
    }

    /// What keeps a device's program from serving.
    pub fn trouble(&self) -> Option<String> {
        match (&self.not_spawned, &self.said) {
            (Some(error), _) => Some(error.to_string()),
            (None, Some((FailureKind::Sandbox, text))) => Some(text.clone()),
            (None, Some(_)) => None,
            (None, None) => Some(self.unsaid()),
        }
    }

    /// Which hand-over it speaks.
    pub fn version(&self) -> String {
        let (major, minor, theirs) = (frame::MAJOR, frame::MINOR, self.minor);
        if minor == theirs {
            format!("hand-over {major}.{theirs}")
        } else {
            format!("hand-over {major}.{theirs}, vmm's own is {major}.{minor}: what is newer is refused")
        }
    }

    /// How it ended without a word.
    fn unsaid(&self) -> String {
        let how = match self.ended {
            Some(Ended::Exited(code)) => format!("ended with code {code}"),
            Some(Ended::Signaled(signal)) => format!("was killed by signal {signal}"),
            None => "did not end".to_owned(),
        };
        if self.log.is_empty() { how } else { format!("{how}: {}", self.log) }
    }
}
