//! A client of a machine's control socket to its launcher, and back. Since minor version 2.

use super::from_core::Failure;
use super::setting::Setting;
use super::statistics::Statistic;
use super::{name, short};
use crate::{Error, Fields, Message, Phase, fields, limits};
use bincode::{Decode, Encode};

const DEVICES: u16 = 0x0701;
const REPLACE: u16 = 0x0702;
const SET: u16 = 0x0703;
const STATISTICS: u16 = 0x0704;
const PROCESSES: u16 = 0x0705;
const STATUS: u16 = 0x0801;
const REPLACED: u16 = 0x0802;
const FAILED: u16 = 0x0803;
const DONE: u16 = 0x0804;
const TOLD: u16 = 0x0805;
const RUNNING: u16 = 0x0806;

/// Optional field of `Devices`: balloon, of each device that has one.
const BALLOONS: u16 = 1;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToLauncher {
    /// Answer with `Devices`.
    Devices,
    /// Replace the program of a device. Descriptor: the executable, if one is said to come along. Answered with
    /// `Replaced` or `Failed`.
    Replace(ReplaceDevice),
    /// Set something of a device. Answered with `Set` or `Failed`. Since minor version 4.
    Set(SetDevice),
    /// Ask the guest's driver of a device for what it knows. Answered with `Statistics` or `Failed`, when the driver has
    /// answered: a guest may never do so. Since minor version 5.
    Statistics(AskDevice),
    /// Answer with `Processes`. Since minor version 5: whoever asks has had another answer before, which says that the
    /// launcher knows it.
    Processes,
}

/// Which device.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ReplaceDevice {
    /// Its name, as in `blk0`.
    pub device: String,
    /// Whether a program comes along; else it is the one that it has.
    pub program: bool,
}

/// What of which device.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SetDevice {
    /// Its name, as in `balloon0`.
    pub device: String,
    /// What it is to be.
    pub setting: Setting,
}

/// Which device is to be asked.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct AskDevice {
    /// Its name, as in `balloon0`.
    pub device: String,
}

impl SetDevice {
    fn check(&self) -> Result<(), Error> {
        name(&self.device)?;
        self.setting.check()
    }
}

/// What the launcher answers, once for each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromLauncher {
    /// All devices.
    Devices(Vec<DeviceStatus>),
    /// The device is served by another process.
    Replaced(Replaced),
    /// It could not be done; nothing has changed but what the text says.
    Failed(Failure),
    /// The device has what was set. Since minor version 4.
    Set,
    /// What the guest's driver says. Since minor version 5.
    Statistics(Vec<Statistic>),
    /// All processes of the machine that live, the launcher first. Since minor version 5.
    Processes(Vec<ProcessStatus>),
}

/// A process of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ProcessStatus {
    /// What it is for: its device's name, or its program's.
    pub name: String,
    /// The program in whose confinement and under whose policy it runs.
    pub program: String,
    /// In a word or two: whether it serves, is a spare, …
    pub state: String,
    /// Its pid, as the launcher sees it.
    pub pid: i32,
    /// Whether it has said that it is set up: before, it is not confined as while it serves.
    pub ready: bool,
    /// The landlock ABI that it said holds for it; 0: none, or it has not said anything yet.
    pub landlock_abi: u8,
}

/// How a device does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceStatus {
    /// Its name.
    pub name: String,
    /// In a word or two.
    pub state: String,
    /// Of the process that serves it; 0 if that is not one of the launcher's.
    pub pid: i32,
    /// Of back ends, so far.
    pub deaths: u64,
    /// Successors that were started, or waited for.
    pub restarts: u64,
    /// The longest time without a back end, in milliseconds.
    pub longest_pause_ms: u64,
    /// What it holds of guest memory, if it is a balloon, or what of it is plugged in, and it has said so. Optional field,
    /// since minor version 5.
    pub balloon: Option<BalloonAmount>,
}

/// What a balloon holds, or what is plugged in of memory, by the word of its program and of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct BalloonAmount {
    /// How much the guest is to give, or to plug in, in bytes.
    pub target: u64,
    /// How much it has, in bytes.
    pub actual: u64,
}

/// All but the optional fields of a status, as they stand on the wire.
type StatusWire = (String, String, i32, u64, u64, u64);

/// An optional field for all devices: which of the list, and its amount.
type BalloonsWire = Vec<(u8, BalloonAmount)>;

fn encode_statuses(devices: &[DeviceStatus]) -> Result<Vec<u8>, Error> {
    let wire = |it: &DeviceStatus| -> StatusWire {
        (it.name.clone(), it.state.clone(), it.pid, it.deaths, it.restarts, it.longest_pause_ms)
    };
    let balloons: BalloonsWire =
        (0..).zip(devices).filter_map(|(place, it)| Some((place, it.balloon?))).collect();
    let none = Fields::default();
    let fields = if balloons.is_empty() { none } else { none.with(BALLOONS, &balloons)? };
    fields::encode("Devices", &devices.iter().map(wire).collect::<Vec<_>>(), &fields)
}

fn decode_statuses(body: &[u8]) -> Result<Vec<DeviceStatus>, Error> {
    let (wire, fields) = fields::decode_body::<Vec<StatusWire>>("Devices", body)?;
    let balloons: BalloonsWire = fields.value(BALLOONS, Vec::new())?;
    let mut devices: Vec<DeviceStatus> = wire
        .into_iter()
        .map(|(name, state, pid, deaths, restarts, longest_pause_ms)| DeviceStatus {
            name,
            state,
            pid,
            deaths,
            restarts,
            longest_pause_ms,
            balloon: None,
        })
        .collect();
    for (place, amount) in balloons {
        if let Some(device) = devices.get_mut(usize::from(place)) {
            device.balloon = Some(amount);
        }
    }
    Ok(devices)
}

/// A process took the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Replaced {
    /// Its pid, as the launcher sees it.
    pub pid: i32,
    /// From the moment at which the core had it to talk to, in milliseconds; the guest's pause is a part of that.
    pub within_ms: u64,
}

impl Message for ToLauncher {
    fn kind(&self) -> u16 {
        match self {
            Self::Devices => DEVICES,
            Self::Replace(_) => REPLACE,
            Self::Set(_) => SET,
            Self::Statistics(_) => STATISTICS,
            Self::Processes => PROCESSES,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Devices => "Devices",
            Self::Replace(_) => "Replace",
            Self::Set(_) => "Set",
            Self::Statistics(_) => "Statistics",
            Self::Processes => "Processes",
        }
    }

    fn fds(&self) -> usize {
        match self {
            Self::Devices | Self::Set(_) | Self::Statistics(_) | Self::Processes => 0,
            Self::Replace(replace) => replace.program.into(),
        }
    }

    fn allowed(&self, phase: Phase) -> bool {
        phase == Phase::Serving
    }

    fn encode(&self) -> Result<Vec<u8>, Error> {
        match self {
            Self::Devices | Self::Processes => fields::encode(self.name(), &(), &Fields::default()),
            Self::Replace(replace) => {
                name(&replace.device)?;
                fields::encode(self.name(), replace, &Fields::default())
            }
            Self::Set(set) => {
                set.check()?;
                fields::encode(self.name(), set, &Fields::default())
            }
            Self::Statistics(ask) => {
                name(&ask.device)?;
                fields::encode(self.name(), ask, &Fields::default())
            }
        }
    }

    fn decode(kind: u16, body: &[u8]) -> Result<Self, Error> {
        match kind {
            DEVICES => Ok(Self::Devices),
            PROCESSES => Ok(Self::Processes),
            REPLACE => {
                let (replace, _) = fields::decode_body::<ReplaceDevice>("Replace", body)?;
                name(&replace.device)?;
                Ok(Self::Replace(replace))
            }
            SET => {
                let (set, _) = fields::decode_body::<SetDevice>("Set", body)?;
                set.check()?;
                Ok(Self::Set(set))
            }
            STATISTICS => {
                let (ask, _) = fields::decode_body::<AskDevice>("Statistics", body)?;
                name(&ask.device)?;
                Ok(Self::Statistics(ask))
            }
            kind => Err(Error::Kind { kind }),
        }
    }
}

impl FromLauncher {
    fn check(&self) -> Result<(), Error> {
        match self {
            Self::Devices(devices) => {
                super::entries(devices.len())?;
                devices.iter().try_for_each(|device| {
                    name(&device.name)?;
                    short("length of a state", &device.state, limits::MAX_NAME, "at most 32")
                })
            }
            Self::Replaced(_) | Self::Set => Ok(()),
            Self::Failed(failure) => failure.check(),
            Self::Statistics(told) => super::entries(told.len()),
            Self::Processes(processes) => {
                let (count, most) = (processes.len() as u64, limits::MAX_PROCESSES as u64);
                super::within("processes of a machine", count, 1, most, "1 to 128")?;
                processes.iter().try_for_each(ProcessStatus::check)
            }
        }
    }
}

impl ProcessStatus {
    fn check(&self) -> Result<(), Error> {
        name(&self.name)?;
        name(&self.program)?;
        short("length of a state", &self.state, limits::MAX_NAME, "at most 32")
    }
}

impl Message for FromLauncher {
    fn kind(&self) -> u16 {
        match self {
            Self::Devices(_) => STATUS,
            Self::Replaced(_) => REPLACED,
            Self::Failed(_) => FAILED,
            Self::Set => DONE,
            Self::Statistics(_) => TOLD,
            Self::Processes(_) => RUNNING,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Devices(_) => "Devices",
            Self::Replaced(_) => "Replaced",
            Self::Failed(_) => "Failed",
            Self::Set => "Set",
            Self::Statistics(_) => "Statistics",
            Self::Processes(_) => "Processes",
        }
    }

    fn fds(&self) -> usize {
        0
    }

    fn allowed(&self, phase: Phase) -> bool {
        phase == Phase::Serving
    }

    fn encode(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        let (name, none) = (self.name(), Fields::default());
        match self {
            Self::Devices(devices) => encode_statuses(devices),
            Self::Replaced(replaced) => fields::encode(name, replaced, &none),
            Self::Failed(failure) => fields::encode(name, failure, &none),
            Self::Set => fields::encode(name, &(), &none),
            Self::Statistics(told) => fields::encode(name, told, &none),
            Self::Processes(processes) => fields::encode(name, processes, &none),
        }
    }

    fn decode(kind: u16, body: &[u8]) -> Result<Self, Error> {
        let message = match kind {
            STATUS => Self::Devices(decode_statuses(body)?),
            REPLACED => Self::Replaced(fields::decode_body("Replaced", body)?.0),
            FAILED => Self::Failed(fields::decode_body("Failed", body)?.0),
            DONE => Self::Set,
            TOLD => Self::Statistics(fields::decode_body("Statistics", body)?.0),
            RUNNING => Self::Processes(fields::decode_body("Processes", body)?.0),
            kind => return Err(Error::Kind { kind }),
        };
        message.check()?;
        Ok(message)
    }
}
