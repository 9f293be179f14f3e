//! Core to launcher, and the answers that devices give in the same words.

use super::violation::Violation;
use super::{entries, short};
use crate::{Error, Fields, Message, Phase, fields, limits};
use bincode::{Decode, Encode};

const READY: u16 = 0x0201;
const FAILED: u16 = 0x0202;
const EXITED: u16 = 0x0203;
const COUNTERS: u16 = 0x0204;
const DEVICE_LOST: u16 = 0x0205;
const RECONNECTED: u16 = 0x0206;
const REFUSED: u16 = 0x0207;
const VIOLATION: u16 = 0x0208;

/// Optional field of [`DeviceLost`]: that it stands still.
const LOST_HUNG: u16 = 1;

/// What the core tells the launcher. It can ask for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromCore {
    /// Set up, every thread in its serving filter; the guest runs from here on.
    Ready(Ready),
    /// It gives up; the process ends.
    Failed(Failure),
    /// The guest ended the machine.
    Exited(Exit),
    /// Answer to `Query`.
    Counters(Counters),
    /// A back end is gone: said once for each connection, whether it failed while serving or while the device was
    /// being set up on it. What the guest had set up waits for a successor ([`crate::ToCore::Reconnect`]); where the
    /// two had no in-flight tracking, the guest sees `DEVICE_NEEDS_RESET`.
    DeviceLost(DeviceLost),
    /// A successor serves the device. Since minor version 1.
    Reconnected(Reconnected),
    /// The one that was to replace a back end ([`crate::ToCore::Replace`]) will not do; nothing has changed. Since minor
    /// version 2.
    Refused(Refused),
    /// Its policy has refused a system call of its: it is about to die of that. At any time; since minor version 4. To a
    /// launcher that does not know it, it is a breach of the protocol, for which the core is ended as well.
    Violation(Violation),
}

/// A replacement that is none.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Refused {
    /// The PCI device number of the device.
    pub slot: u8,
    /// Why, in one line.
    pub text: String,
}

/// Which device goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Reconnected {
    /// Its PCI device number.
    pub slot: u8,
}

/// A program is set up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Ready {
    /// The landlock ABI in force, 0 for none.
    pub landlock_abi: u8,
    /// Layers that the host lacks, a line each.
    pub lacking: Vec<String>,
}

/// A program gives up.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Failure {
    /// Decides the launcher's exit code.
    pub kind: FailureKind,
    /// One line for a person.
    pub text: String,
}

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum FailureKind {
    /// A bug, or a system call that should not fail.
    Internal,
    /// The hand-over was malformed.
    HandOver,
    /// The kernel image cannot be used.
    Kernel,
    /// The initrd cannot be used.
    Initrd,
    /// Guest memory cannot be used.
    Memory,
    /// KVM lacks something.
    Kvm,
    /// A required layer of the sandbox is missing.
    Sandbox,
    /// A back end failed.
    Device,
    /// The device's resource cannot be used.
    Resource,
}

/// How the guest ended the machine.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Exit {
    /// Powered off.
    PowerOff,
    /// Asked for a reset.
    Reset,
    /// Triple fault or a state in which KVM cannot go on; the text says which.
    GuestCrash(String),
}

/// Counters by name, and of a device what is as large as it is now (`BALLOON_TARGET`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Counters {
    /// In a fixed order.
    pub entries: Vec<Counter>,
}

/// One counter.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Counter {
    /// Its name.
    pub name: String,
    /// Its value since the start, or now.
    pub value: u64,
}

/// A back end is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceLost {
    /// Its PCI device number.
    pub slot: u8,
    /// Why, in one line.
    pub text: String,
    /// Whether it is given up because it made no progress: it may live. Optional field, since minor version 2.
    pub hung: bool,
}

impl Ready {
    pub(super) fn check(&self) -> Result<(), Error> {
        entries(self.lacking.len())?;
        self.lacking.iter().try_for_each(|line| text(line))
    }
}

impl Failure {
    /// The failure in one line of at most [`limits::MAX_TEXT`] bytes, whatever `text` is.
    #[must_use]
    pub fn new(kind: FailureKind, text: &str) -> Self {
        Self { kind, text: one_line(text) }
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        text(&self.text)
    }
}

impl Counters {
    pub(super) fn check(&self) -> Result<(), Error> {
        entries(self.entries.len())?;
        self.entries.iter().try_for_each(|counter| super::name(&counter.name))
    }
}

impl Exit {
    /// A crash in one line of at most [`limits::MAX_TEXT`] bytes, whatever `text` is.
    #[must_use]
    pub fn crash(text: &str) -> Self {
        Self::GuestCrash(one_line(text))
    }
}

impl DeviceLost {
    /// The loss in one line of at most [`limits::MAX_TEXT`] bytes, whatever `text` is.
    #[must_use]
    pub fn new(slot: u8, text: &str) -> Self {
        Self { slot, text: one_line(text), hung: false }
    }

    fn encode(&self) -> Result<Vec<u8>, Error> {
        let fields = Fields::default().flag(LOST_HUNG, self.hung)?;
        fields::encode("DeviceLost", &(self.slot, &self.text), &fields)
    }

    fn decode(body: &[u8]) -> Result<Self, Error> {
        let ((slot, text), fields) = fields::decode_body("DeviceLost", body)?;
        Ok(Self { slot, text, hung: fields.value(LOST_HUNG, false)? })
    }
}

impl Refused {
    /// The refusal in one line of at most [`limits::MAX_TEXT`] bytes, whatever `text` is.
    #[must_use]
    pub fn new(slot: u8, text: &str) -> Self {
        Self { slot, text: one_line(text) }
    }

    fn check(&self) -> Result<(), Error> {
        super::slot(self.slot)?;
        text(&self.text)
    }
}

/// `text` without control characters, cut at a character's boundary.
pub(super) fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.truncate(line.floor_char_boundary(limits::MAX_TEXT));
    line
}

pub(super) fn text(text: &str) -> Result<(), Error> {
    short("length of a text", text, limits::MAX_TEXT, "at most 1024")
}

impl FromCore {
    fn check(&self) -> Result<(), Error> {
        match self {
            Self::Ready(ready) => ready.check(),
            Self::Failed(failure) => failure.check(),
            Self::Exited(Exit::GuestCrash(line)) => text(line),
            Self::Exited(_) | Self::Violation(_) => Ok(()),
            Self::Counters(counters) => counters.check(),
            Self::DeviceLost(lost) => text(&lost.text),
            Self::Reconnected(device) => super::slot(device.slot),
            Self::Refused(refused) => refused.check(),
        }
    }
}

impl Message for FromCore {
    fn kind(&self) -> u16 {
        match self {
            Self::Ready(_) => READY,
            Self::Failed(_) => FAILED,
            Self::Exited(_) => EXITED,
            Self::Counters(_) => COUNTERS,
            Self::DeviceLost(_) => DEVICE_LOST,
            Self::Reconnected(_) => RECONNECTED,
            Self::Refused(_) => REFUSED,
            Self::Violation(_) => VIOLATION,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Ready(_) => "Ready",
            Self::Failed(_) => "Failed",
            Self::Exited(_) => "Exited",
            Self::Counters(_) => "Counters",
            Self::DeviceLost(_) => "DeviceLost",
            Self::Reconnected(_) => "Reconnected",
            Self::Refused(_) => "Refused",
            Self::Violation(_) => "Violation",
        }
    }

    fn fds(&self) -> usize {
        0
    }

    fn allowed(&self, phase: Phase) -> bool {
        match self {
            Self::Ready(_) => phase == Phase::HandOver,
            Self::Failed(_) | Self::Violation(_) => true,
            Self::Exited(_)
            | Self::Counters(_)
            | Self::DeviceLost(_)
            | Self::Reconnected(_)
            | Self::Refused(_) => phase == Phase::Serving,
        }
    }

    fn encode(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        let (name, none) = (self.name(), Fields::default());
        match self {
            Self::Ready(ready) => fields::encode(name, ready, &none),
            Self::Failed(failure) => fields::encode(name, failure, &none),
            Self::Exited(exit) => fields::encode(name, exit, &none),
            Self::Counters(counters) => fields::encode(name, counters, &none),
            Self::DeviceLost(lost) => lost.encode(),
            Self::Reconnected(device) => fields::encode(name, device, &none),
            Self::Refused(refused) => fields::encode(name, refused, &none),
            Self::Violation(violation) => violation.encode(),
        }
    }

    fn decode(kind: u16, body: &[u8]) -> Result<Self, Error> {
        let message = match kind {
            READY => Self::Ready(fields::decode_body("Ready", body)?.0),
            FAILED => Self::Failed(fields::decode_body("Failed", body)?.0),
            EXITED => Self::Exited(fields::decode_body("Exited", body)?.0),
            COUNTERS => Self::Counters(fields::decode_body("Counters", body)?.0),
            DEVICE_LOST => Self::DeviceLost(DeviceLost::decode(body)?),
            REFUSED => Self::Refused(fields::decode_body("Refused", body)?.0),
            RECONNECTED => Self::Reconnected(fields::decode_body("Reconnected", body)?.0),
            VIOLATION => Self::Violation(Violation::decode(body)?),
            kind => return Err(Error::Kind { kind }),
        };
        message.check()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_one_line_within_the_limit() {
        let failure = Failure::new(FailureKind::Internal, &format!("a\nb\x1b[31m{}", "ä".repeat(1000)));
        assert!(failure.text.len() <= limits::MAX_TEXT && !failure.text.chars().any(char::is_control));
        FromCore::Failed(failure).encode().unwrap();
    }
}
