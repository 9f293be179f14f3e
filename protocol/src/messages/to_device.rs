//! Launcher to device.

use super::balloon::BalloonOptions;
use super::blk::{self, BlkOptions};
use super::console::{self, ConsoleOptions};
use super::fs::{self, FsOptions};
use super::mem::MemOptions;
use super::net::{self, NetOptions};
use super::pmem::PmemOptions;
use super::rates::Rates;
use super::setting::Setting;
use super::vsock::{self, VsockOptions};
use super::{name, within};
use crate::{Error, Fields, Message, Phase, fields, limits};
use bincode::{Decode, Encode};

const SETUP: u16 = 0x0301;
const QUERY: u16 = 0x0302;
const STOP: u16 = 0x0303;
const KEEP: u16 = 0x0304;
const SET: u16 = 0x0305;
const STATISTICS: u16 = 0x0306;
const MORE: u16 = 0x0308;

/// Optional field of [`DeviceSetup`]: blamed.
const BLAMED: u16 = 2;
/// Optional field of [`DeviceSetup`]: keep.
const KEEP_TO_BE_HAD: u16 = 3;
/// Optional field of [`NetOptions`]: pairs.
const NET_PAIRS: u16 = 10;
/// Optional field of [`NetOptions`]: stream.
const NET_STREAM: u16 = 11;

/// What the launcher tells a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToDevice {
    /// What it serves. Descriptors: the vhost-user socket, the resource.
    Setup(DeviceSetup),
    /// Answer with `Counters`. Since minor version 4 a device that does not is ended as one that hangs.
    Query,
    /// End now.
    Stop,
    /// Answer to `Keeps`. Descriptor: a memfd of [`limits::KEEP_SIZE`] bytes, sealed at that size, which every process
    /// of this device gets and nobody else maps or reads. Since minor version 3.
    Keep,
    /// The user sets something while the machine runs. Answered with `Set`. Since minor version 4: a launcher must not
    /// send it to a program of an older one, which would end.
    Set(Setting),
    /// Ask the guest's driver for what it knows. Answered with `Statistics`, once for however many of these were sent before
    /// it. Since minor version 5: as above.
    Statistics,
    /// The rest of a resource that is more than one descriptor, right after the `Setup` that says so
    /// ([`DeviceOptions::more`]). Descriptors: as many as it has. Since minor version 5.
    More(u8),
}

/// What a device serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSetup {
    /// Its name in messages, as in `blk0`.
    pub name: String,
    /// By type of device.
    pub options: DeviceOptions,
    /// The predecessor crashed, broke its policy or hung, which a request that it was handling may have caused. False
    /// for a first start, a planned replacement, and after somebody else's kill. Optional field, since minor version
    /// 2, sent only when it is true.
    pub blamed: bool,
    /// There is a keep to be had, by `Keeps`, for what of the device's state outlives its process. Optional field, since
    /// minor version 3, sent only when it is true: a launcher of an older version has none, and a device that does not
    /// know of it gets none.
    pub keep: bool,
    /// How much it may do in a second. Optional fields, since minor version 4: a program that does not know of them
    /// knows no limit, so a launcher whose user asked for one has to look at the version of its peer.
    pub rates: Rates,
}

/// By type of device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceOptions {
    /// virtio-blk.
    Blk(BlkOptions),
    /// virtio-rng, which has nothing to choose. Since minor version 1: an older program refuses it and understands its
    /// own as before.
    Rng,
    /// virtio-net. Since minor version 4.
    Net(NetOptions),
    /// virtio-console. Since minor version 4.
    Console(ConsoleOptions),
    /// virtio-pmem. Since minor version 4.
    Pmem(PmemOptions),
    /// virtio-balloon. Since minor version 4.
    Balloon(BalloonOptions),
    /// virtio-fs. Since minor version 4.
    Fs(FsOptions),
    /// virtio-vsock. Since minor version 5.
    Vsock(VsockOptions),
    /// virtio-mem. Since minor version 5.
    Mem(MemOptions),
}

impl DeviceOptions {
    /// How many descriptors the resource has beside the one that comes with `Setup`.
    #[must_use]
    pub fn more(&self) -> u8 {
        match self {
            Self::Blk(blk) => blk.more(),
            Self::Console(console) => console.more(),
            Self::Net(net) => u8::try_from(net.pairs.saturating_sub(1)).unwrap_or(u8::MAX),
            _ => 0,
        }
    }
}

/// The required part as it stands on the wire; the variant's number is the tag of the type.
#[derive(Encode, Decode)]
enum Wire {
    Blk(blk::Wire),
    Rng,
    Net(net::Wire),
    Console(console::Wire),
    Pmem(PmemOptions),
    Balloon(BalloonOptions),
    Fs(fs::Wire),
    Vsock(vsock::Wire),
    Mem(MemOptions),
}

impl DeviceSetup {
    fn check(&self) -> Result<(), Error> {
        name(&self.name)?;
        self.rates.check()?;
        match &self.options {
            DeviceOptions::Blk(blk) => blk.check(),
            DeviceOptions::Rng => Ok(()),
            DeviceOptions::Net(net) => net.check(),
            DeviceOptions::Console(console) => console.check(),
            DeviceOptions::Pmem(pmem) => pmem.check(),
            DeviceOptions::Balloon(balloon) => balloon.check(),
            DeviceOptions::Fs(fs) => fs.check(),
            DeviceOptions::Vsock(vsock) => vsock.check(),
            DeviceOptions::Mem(mem) => mem.check(),
        }
    }

    fn encode(&self) -> Result<Vec<u8>, Error> {
        let own = |fields: Fields| {
            self.rates.encode(fields.flag(BLAMED, self.blamed)?.flag(KEEP_TO_BE_HAD, self.keep)?)
        };
        match &self.options {
            DeviceOptions::Blk(blk) => {
                fields::encode("Setup", &(&self.name, Wire::Blk(blk.wire())), &own(blk.fields()?)?)
            }
            DeviceOptions::Rng => fields::encode("Setup", &(&self.name, Wire::Rng), &own(Fields::default())?),
            DeviceOptions::Net(net) => {
                let fields = own(Fields::default())?;
                let fields = if net.pairs == 1 { fields } else { fields.with(NET_PAIRS, &net.pairs)? };
                let fields = fields.flag(NET_STREAM, net.stream)?;
                fields::encode("Setup", &(&self.name, Wire::Net(net.wire())), &fields)
            }
            DeviceOptions::Console(console) => {
                let wire = Wire::Console(console.wire());
                fields::encode("Setup", &(&self.name, wire), &own(console.fields()?)?)
            }
            DeviceOptions::Pmem(pmem) => {
                fields::encode("Setup", &(&self.name, Wire::Pmem(*pmem)), &own(Fields::default())?)
            }
            DeviceOptions::Balloon(balloon) => {
                let wire = Wire::Balloon(balloon.clone());
                fields::encode("Setup", &(&self.name, wire), &own(Fields::default())?)
            }
            DeviceOptions::Fs(fs) => {
                fields::encode("Setup", &(&self.name, Wire::Fs(fs.wire())), &own(Fields::default())?)
            }
            DeviceOptions::Vsock(vsock) => {
                let wire = Wire::Vsock(vsock.wire());
                fields::encode("Setup", &(&self.name, wire), &own(Fields::default())?)
            }
            DeviceOptions::Mem(mem) => {
                fields::encode("Setup", &(&self.name, Wire::Mem(*mem)), &own(Fields::default())?)
            }
        }
    }

    fn decode(body: &[u8]) -> Result<Self, Error> {
        let ((name, wire), fields) = fields::decode_body("Setup", body)?;
        let blamed = fields.value(BLAMED, false)?;
        let keep = fields.value(KEEP_TO_BE_HAD, false)?;
        let rates = Rates::decode(&fields)?;
        let options = match wire {
            Wire::Blk(blk) => DeviceOptions::Blk(BlkOptions::from_wire(blk, &fields)?),
            Wire::Rng => DeviceOptions::Rng,
            Wire::Net(net) => {
                let (pairs, stream) = (fields.value(NET_PAIRS, 1)?, fields.value(NET_STREAM, false)?);
                DeviceOptions::Net(NetOptions::from_wire(&net, pairs, stream)?)
            }
            Wire::Console(console) => DeviceOptions::Console(ConsoleOptions::from_wire(&console, &fields)?),
            Wire::Pmem(pmem) => DeviceOptions::Pmem(pmem),
            Wire::Balloon(balloon) => DeviceOptions::Balloon(balloon),
            Wire::Fs(fs) => DeviceOptions::Fs(FsOptions::from_wire(fs)),
            Wire::Vsock(vsock) => DeviceOptions::Vsock(VsockOptions::from_wire(vsock)),
            Wire::Mem(mem) => DeviceOptions::Mem(mem),
        };
        Ok(Self { name, options, blamed, keep, rates })
    }
}

/// The most is what a frame has place for.
fn check_more(more: u8) -> Result<(), Error> {
    within("descriptors of a resource", more.into(), 1, limits::MAX_FDS as u64, "1 to 16")
}

impl Message for ToDevice {
    fn kind(&self) -> u16 {
        match self {
            Self::Setup(_) => SETUP,
            Self::Query => QUERY,
            Self::Stop => STOP,
            Self::Keep => KEEP,
            Self::Set(_) => SET,
            Self::Statistics => STATISTICS,
            Self::More(_) => MORE,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Setup(_) => "Setup",
            Self::Query => "Query",
            Self::Stop => "Stop",
            Self::Keep => "Keep",
            Self::Set(_) => "Set",
            Self::Statistics => "Statistics",
            Self::More(_) => "More",
        }
    }

    fn fds(&self) -> usize {
        match self {
            Self::Setup(_) => 2,
            Self::Keep => 1,
            Self::More(more) => (*more).into(),
            Self::Query | Self::Stop | Self::Set(_) | Self::Statistics => 0,
        }
    }

    fn allowed(&self, phase: Phase) -> bool {
        match self {
            Self::Setup(_) | Self::Keep | Self::More(_) => phase == Phase::HandOver,
            Self::Query | Self::Set(_) | Self::Statistics => phase == Phase::Serving,
            Self::Stop => true,
        }
    }

    fn encode(&self) -> Result<Vec<u8>, Error> {
        match self {
            Self::Setup(setup) => {
                setup.check()?;
                setup.encode()
            }
            Self::Set(setting) => {
                setting.check()?;
                fields::encode("Set", setting, &Fields::default())
            }
            Self::More(more) => {
                check_more(*more)?;
                fields::encode("More", more, &Fields::default())
            }
            Self::Query | Self::Stop | Self::Keep | Self::Statistics => {
                fields::encode(self.name(), &(), &Fields::default())
            }
        }
    }

    fn decode(kind: u16, body: &[u8]) -> Result<Self, Error> {
        Ok(match kind {
            SETUP => {
                let setup = DeviceSetup::decode(body)?;
                setup.check()?;
                Self::Setup(setup)
            }
            QUERY => Self::Query,
            STOP => Self::Stop,
            STATISTICS => Self::Statistics,
            KEEP => Self::Keep,
            SET => {
                let (setting, _) = fields::decode_body::<Setting>("Set", body)?;
                setting.check()?;
                Self::Set(setting)
            }
            MORE => {
                let (more, _) = fields::decode_body("More", body)?;
                check_more(more)?;
                Self::More(more)
            }
            kind => return Err(Error::Kind { kind }),
        })
    }
}
