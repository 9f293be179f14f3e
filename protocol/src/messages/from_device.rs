//! Device to launcher. A device can report; it can ask for nothing, but for the one place that it was offered for what of
//! its state must outlive it.

use super::from_core::{Counters, Failure, Ready};
use super::setting::SetOutcome;
use super::statistics::Statistics;
use super::violation::Violation;
use crate::{Error, Fields, Message, Phase, fields};

const READY: u16 = 0x0401;
const FAILED: u16 = 0x0402;
const COUNTERS: u16 = 0x0403;
const KEEPS: u16 = 0x0404;
const VIOLATION: u16 = 0x0405;
const SET: u16 = 0x0406;
const STATISTICS: u16 = 0x0407;

/// What a device tells the launcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromDevice {
    /// Its resource is checked and its vhost-user socket is being served.
    Ready(Ready),
    /// It gives up; the process ends.
    Failed(Failure),
    /// Answer to `Query`.
    Counters(Counters),
    /// Before it is ready, once, and only if its setup says that there is a keep: it has state that must outlive it.
    /// The answer is `Keep`. Since minor version 3.
    Keeps,
    /// Its policy has refused a system call of its: it is about to die of that. At any time; since minor version 4. To a
    /// launcher that does not know it, it is a breach of the protocol, for which the program is ended as well.
    Violation(Violation),
    /// Answer to `Set`. Since minor version 4.
    Set(SetOutcome),
    /// Answer to `Statistics`, once the guest's driver has given one. Since minor version 5.
    Statistics(Statistics),
}

impl FromDevice {
    fn check(&self) -> Result<(), Error> {
        match self {
            Self::Ready(ready) => ready.check(),
            Self::Failed(failure) => failure.check(),
            Self::Counters(counters) => counters.check(),
            Self::Set(outcome) => outcome.check(),
            Self::Statistics(statistics) => statistics.check(),
            Self::Keeps | Self::Violation(_) => Ok(()),
        }
    }
}

impl Message for FromDevice {
    fn kind(&self) -> u16 {
        match self {
            Self::Ready(_) => READY,
            Self::Failed(_) => FAILED,
            Self::Counters(_) => COUNTERS,
            Self::Keeps => KEEPS,
            Self::Violation(_) => VIOLATION,
            Self::Set(_) => SET,
            Self::Statistics(_) => STATISTICS,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Ready(_) => "Ready",
            Self::Failed(_) => "Failed",
            Self::Counters(_) => "Counters",
            Self::Keeps => "Keeps",
            Self::Violation(_) => "Violation",
            Self::Set(_) => "Set",
            Self::Statistics(_) => "Statistics",
        }
    }

    fn fds(&self) -> usize {
        0
    }

    fn allowed(&self, phase: Phase) -> bool {
        match self {
            Self::Ready(_) | Self::Keeps => phase == Phase::HandOver,
            Self::Failed(_) | Self::Violation(_) => true,
            Self::Counters(_) | Self::Set(_) | Self::Statistics(_) => phase == Phase::Serving,
        }
    }

    fn encode(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        let (name, none) = (self.name(), Fields::default());
        match self {
            Self::Ready(ready) => fields::encode(name, ready, &none),
            Self::Failed(failure) => fields::encode(name, failure, &none),
            Self::Counters(counters) => fields::encode(name, counters, &none),
            Self::Keeps => fields::encode(name, &(), &none),
            Self::Violation(violation) => violation.encode(),
            Self::Set(outcome) => fields::encode(name, &outcome.wire(), &none),
            Self::Statistics(statistics) => fields::encode(name, statistics, &none),
        }
    }

    fn decode(kind: u16, body: &[u8]) -> Result<Self, Error> {
        let message = match kind {
            READY => Self::Ready(fields::decode_body("Ready", body)?.0),
            FAILED => Self::Failed(fields::decode_body("Failed", body)?.0),
            COUNTERS => Self::Counters(fields::decode_body("Counters", body)?.0),
            KEEPS => Self::Keeps,
            VIOLATION => Self::Violation(Violation::decode(body)?),
            SET => Self::Set(SetOutcome::from_wire(fields::decode_body("Set", body)?.0)),
            STATISTICS => Self::Statistics(fields::decode_body("Statistics", body)?.0),
            kind => return Err(Error::Kind { kind }),
        };
        message.check()?;
        Ok(message)
    }
}
