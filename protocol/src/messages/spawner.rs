//! Launcher to its spawner, and back. The spawner holds what it takes to spawn each device program of the machine again,
//! and the paths of the back ends that somebody else runs; all that it can be asked is to spawn the one and to connect
//! to the other again, by number.

use super::from_core::{Failure, one_line, text};
use crate::{Error, Fields, Message, Phase, fields, limits};
use bincode::{Decode, Encode};

const RESPAWN: u16 = 0x0501;
const CONNECT: u16 = 0x0502;
const SPAWNED: u16 = 0x0601;
const FAILED: u16 = 0x0602;
const CONNECTED: u16 = 0x0603;
const NOT_CONNECTED: u16 = 0x0604;

/// Optional field of [`Respawn`]: blame.
const RESPAWN_BLAMED: u16 = 1;
/// Optional field of [`Respawn`]: that a program comes along.
const RESPAWN_PROGRAM: u16 = 2;

/// Optional field of [`Spawned`]: what could not be had.
const SPAWNED_LACKING: u16 = 1;
/// Optional field of [`Spawned`]: processes that came to nothing.
const SPAWNED_LEFT: u16 = 2;
/// Optional field of [`SpawnFailed`]: the same.
const FAILED_LEFT: u16 = 1;
/// So many attempts there are to spawn one program.
const MOST_LEFT: u8 = 2;

/// What the launcher tells its spawner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToSpawner {
    /// Spawn this device's program. Descriptor: the executable, if one is said to come along.
    Respawn(Respawn),
    /// Connect to this device's back end. Since minor version 2.
    Connect(Connect),
}

/// Which back end of somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Connect {
    /// The PCI device number of its device.
    pub slot: u8,
}

/// Which device, and after what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Respawn {
    /// Its number among those of the spawner, from 0.
    pub device: u8,
    /// Whether a request of the guest's may be why the predecessor is gone. Optional field, since minor version 2.
    pub blamed: bool,
    /// Whether a program comes along that is to be executed instead of the device's own. Optional field, since minor
    /// version 2.
    pub program: bool,
}

/// What the spawner answers, once for each request, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromSpawner {
    /// It runs, a child of the launcher's. Descriptors: its pidfd, the launcher's end of its control channel, the
    /// reading end of its log, the core's end of its vhost-user connection; then the pidfds of those that came to nothing.
    Spawned(Spawned),
    /// It does not. Descriptors: the pidfds of those that came to nothing.
    Failed(SpawnFailed),
    /// The back end listens. Descriptor: the core's end of its vhost-user connection. Since minor version 2.
    Connected(Connect),
    /// It does not listen, or takes no connection now. Since minor version 2.
    NotConnected(NotConnected),
}

/// A back end that could not be connected to.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NotConnected {
    /// As asked.
    pub slot: u8,
    /// Why.
    pub failure: Failure,
}

/// A program that was spawned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spawned {
    /// As asked.
    pub device: u8,
    /// Its pid, as the launcher sees it.
    pub pid: i32,
    /// What could not be had for it, a line each. Optional field.
    pub lacking: Vec<String>,
    /// As many as came to nothing before it, for the launcher to wait for. Optional field.
    pub left: u8,
}

/// A program that was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpawnFailed {
    /// As asked.
    pub device: u8,
    /// Why.
    pub failure: Failure,
    /// So many processes of it came to nothing, for the launcher to wait for. Optional field.
    pub left: u8,
}

impl Spawned {
    /// Its own descriptors, before those of the ones that came to nothing.
    pub const FDS: usize = 4;

    /// What does not fit of `lacking` is cut.
    #[must_use]
    pub fn new(device: u8, pid: i32, lacking: &[String], left: u8) -> Self {
        let lacking = lacking.iter().take(limits::MAX_ENTRIES).map(|line| one_line(line)).collect();
        Self { device, pid, lacking, left }
    }

    fn check(&self) -> Result<(), Error> {
        few(self.left)?;
        super::entries(self.lacking.len())?;
        self.lacking.iter().try_for_each(|line| text(line))
    }
}

impl SpawnFailed {
    fn check(&self) -> Result<(), Error> {
        few(self.left)?;
        self.failure.check()
    }
}

fn few(left: u8) -> Result<(), Error> {
    super::within("processes that came to nothing", left.into(), 0, MOST_LEFT.into(), "at most 2")
}

impl NotConnected {
    fn check(&self) -> Result<(), Error> {
        super::slot(self.slot)?;
        self.failure.check()
    }
}

impl Message for ToSpawner {
    fn kind(&self) -> u16 {
        match self {
            Self::Respawn(_) => RESPAWN,
            Self::Connect(_) => CONNECT,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Respawn(_) => "Respawn",
            Self::Connect(_) => "Connect",
        }
    }

    fn fds(&self) -> usize {
        match self {
            Self::Respawn(respawn) => respawn.program.into(),
            Self::Connect(_) => 0,
        }
    }

    fn allowed(&self, phase: Phase) -> bool {
        phase == Phase::Serving
    }

    fn encode(&self) -> Result<Vec<u8>, Error> {
        match self {
            Self::Respawn(respawn) => {
                let fields = Fields::default().flag(RESPAWN_BLAMED, respawn.blamed)?;
                let fields = fields.flag(RESPAWN_PROGRAM, respawn.program)?;
                fields::encode(self.name(), &respawn.device, &fields)
            }
            Self::Connect(device) => {
                super::slot(device.slot)?;
                fields::encode(self.name(), device, &Fields::default())
            }
        }
    }

    fn decode(kind: u16, body: &[u8]) -> Result<Self, Error> {
        match kind {
            RESPAWN => {
                let (device, fields) = fields::decode_body("Respawn", body)?;
                let blamed = fields.value(RESPAWN_BLAMED, false)?;
                Ok(Self::Respawn(Respawn { device, blamed, program: fields.value(RESPAWN_PROGRAM, false)? }))
            }
            CONNECT => {
                let (device, _) = fields::decode_body::<Connect>("Connect", body)?;
                super::slot(device.slot)?;
                Ok(Self::Connect(device))
            }
            kind => Err(Error::Kind { kind }),
        }
    }
}

impl Message for FromSpawner {
    fn kind(&self) -> u16 {
        match self {
            Self::Spawned(_) => SPAWNED,
            Self::Failed(_) => FAILED,
            Self::Connected(_) => CONNECTED,
            Self::NotConnected(_) => NOT_CONNECTED,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Spawned(_) => "Spawned",
            Self::Failed(_) => "SpawnFailed",
            Self::Connected(_) => "Connected",
            Self::NotConnected(_) => "NotConnected",
        }
    }

    fn fds(&self) -> usize {
        match self {
            Self::Spawned(spawned) => Spawned::FDS.saturating_add(spawned.left.into()),
            Self::Connected(_) => 1,
            Self::Failed(failed) => failed.left.into(),
            Self::NotConnected(_) => 0,
        }
    }

    fn allowed(&self, phase: Phase) -> bool {
        phase == Phase::Serving
    }

    fn encode(&self) -> Result<Vec<u8>, Error> {
        match self {
            Self::Spawned(spawned) => {
                spawned.check()?;
                let fields = Fields::default();
                let some = !spawned.lacking.is_empty();
                let fields = if some { fields.with(SPAWNED_LACKING, &spawned.lacking)? } else { fields };
                let fields =
                    if spawned.left > 0 { fields.with(SPAWNED_LEFT, &spawned.left)? } else { fields };
                fields::encode(self.name(), &(spawned.device, spawned.pid), &fields)
            }
            Self::Failed(failed) => {
                failed.check()?;
                let fields = Fields::default();
                let fields = if failed.left > 0 { fields.with(FAILED_LEFT, &failed.left)? } else { fields };
                fields::encode(self.name(), &(failed.device, &failed.failure), &fields)
            }
            Self::Connected(device) => {
                super::slot(device.slot)?;
                fields::encode(self.name(), device, &Fields::default())
            }
            Self::NotConnected(device) => {
                device.check()?;
                fields::encode(self.name(), device, &Fields::default())
            }
        }
    }

    fn decode(kind: u16, body: &[u8]) -> Result<Self, Error> {
        match kind {
            SPAWNED => {
                let ((device, pid), fields) = fields::decode_body("Spawned", body)?;
                let (lacking, left) =
                    (fields.value(SPAWNED_LACKING, Vec::new())?, fields.value(SPAWNED_LEFT, 0)?);
                let spawned = Spawned { device, pid, lacking, left };
                spawned.check()?;
                Ok(Self::Spawned(spawned))
            }
            FAILED => {
                let ((device, failure), fields) = fields::decode_body("SpawnFailed", body)?;
                let failed = SpawnFailed { device, failure, left: fields.value(FAILED_LEFT, 0)? };
                failed.check()?;
                Ok(Self::Failed(failed))
            }
            CONNECTED => {
                let (device, _) = fields::decode_body::<Connect>("Connected", body)?;
                super::slot(device.slot)?;
                Ok(Self::Connected(device))
            }
            NOT_CONNECTED => {
                let (device, _) = fields::decode_body::<NotConnected>("NotConnected", body)?;
                device.check()?;
                Ok(Self::NotConnected(device))
            }
            kind => Err(Error::Kind { kind }),
        }
    }
}
