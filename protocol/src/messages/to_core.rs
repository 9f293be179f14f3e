//! Launcher to core.

use super::pmem::PmemOptions;
use super::{name, short, slot, within};
use crate::{Error, Fields, Message, Phase, fields, limits};
use bincode::{Decode, Encode};

const SETUP: u16 = 0x0101;
const ATTACH: u16 = 0x0102;
const START: u16 = 0x0103;
const POWER_BUTTON: u16 = 0x0104;
const PAUSE: u16 = 0x0105;
const RESUME: u16 = 0x0106;
const QUERY: u16 = 0x0107;
const STOP: u16 = 0x0108;
const RECONNECT: u16 = 0x0109;
const ABANDON: u16 = 0x010a;
const REPLACE: u16 = 0x010b;

/// Optional field of [`AttachDevice`]: the deadline.
const ATTACH_DEADLINE: u16 = 1;
/// Optional field of [`AttachDevice`]: persistent memory.
const ATTACH_PMEM: u16 = 2;
/// Optional field of [`AttachDevice`]: memory to be plugged in.
const ATTACH_MEM: u16 = 3;

/// What the launcher tells the core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToCore {
    /// The machine. Descriptors: KVM, a memfd per region, the kernel, the initrd if there is one, the
    /// console's input and output if there is one.
    Setup(CoreSetup),
    /// A device. Descriptors: the vhost-user socket, and the file of persistent memory if it has that, or, of memory
    /// to be plugged in, its memfd and the page on which the device says how much of it is plugged.
    Attach(AttachDevice),
    /// Nothing more comes: set up, answer `Ready`, run.
    Start,
    /// Press the power button.
    PowerButton,
    /// Stop the vCPUs.
    Pause,
    /// Let them go on.
    Resume,
    /// Answer with `Counters`.
    Query,
    /// End now.
    Stop,
    /// A successor for a back end that the core reported as lost. Descriptor: the vhost-user socket. Its sender has
    /// made sure that the predecessor is dead, and so writes to guest memory no more. Since minor version 1.
    Reconnect(Reconnect),
    /// There will be no successor: fail the device. Since minor version 1.
    Abandon(Abandon),
    /// A successor for a back end that serves: to be taken up while that lives, or refused, with an answer in either
    /// case. Descriptor: the vhost-user socket. Since minor version 2.
    Replace(Replace),
}

/// Which device is to have another back end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Replace {
    /// Its PCI device number, 1 to 31.
    pub slot: u8,
}

/// Which device has a new back end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Reconnect {
    /// Its PCI device number, 1 to 31.
    pub slot: u8,
}

/// Which device is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Abandon {
    /// Its PCI device number, 1 to 31.
    pub slot: u8,
}

/// A region of guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct MemoryRegion {
    /// Its guest-physical address.
    pub guest_phys: u64,
    /// Its size in bytes, which is also its memfd's.
    pub size: u64,
}

/// The machine without its devices.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CoreSetup {
    /// Guest RAM, lowest first.
    pub memory: Vec<MemoryRegion>,
    /// vCPUs.
    pub cpus: u8,
    /// The kernel's command line.
    pub command_line: String,
    /// Whether an initrd's descriptor is among those passed.
    pub initrd: bool,
    /// Whether the console's two descriptors are.
    pub console: bool,
}

/// A device behind a vhost-user socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachDevice {
    /// PCI device number, 1 to 31.
    pub slot: u8,
    /// Its name in messages, as in `blk0`.
    pub name: String,
    /// The virtio device type (virtio 1.3, 5).
    pub virtio_type: u16,
    /// Queues wanted; 0 for as many as the back end offers.
    pub queues: u16,
    /// Largest size of a queue, a power of two.
    pub queue_size: u16,
    /// The longest wait for one reply of the back end, in milliseconds. Optional field.
    pub deadline_ms: u32,
    /// A file that becomes memory of the guest. Optional field, since minor version 4: an older core finds a descriptor
    /// too many and refuses the message.
    pub pmem: Option<PmemOptions>,
    /// Memory that the guest plugs in and out. Optional field, since minor version 5: as above.
    pub mem: Option<MemoryRegion>,
}

impl CoreSetup {
    fn check(&self) -> Result<(), Error> {
        within(
            "number of memory regions",
            self.memory.len() as u64,
            1,
            limits::MAX_REGIONS as u64,
            "1 to 4",
        )?;
        within("number of vCPUs", self.cpus.into(), 1, limits::MAX_CPUS.into(), "1 to 32")?;
        short("length of the command line", &self.command_line, limits::MAX_COMMAND_LINE, "at most 2047")
    }

    fn fds(&self) -> usize {
        let console = if self.console { 2 } else { 0 };
        self.memory.len().saturating_add(2).saturating_add(usize::from(self.initrd)).saturating_add(console)
    }
}

impl AttachDevice {
    fn check(&self) -> Result<(), Error> {
        name(&self.name)?;
        slot(self.slot)?;
        within("number of queues", self.queues.into(), 0, limits::MAX_QUEUES.into(), "at most 64")?;
        let size = if self.queue_size.is_power_of_two() { self.queue_size } else { 0 };
        within(
            "size of a queue",
            size.into(),
            2,
            limits::MAX_QUEUE_SIZE.into(),
            "a power of two up to 1024",
        )?;
        self.pmem.as_ref().map_or(Ok(()), PmemOptions::check)?;
        self.mem.map_or(Ok(()), super::mem::check_region)?;
        let deadline = u64::from(self.deadline_ms);
        within("deadline in ms", deadline, 1, limits::MAX_DEADLINE_MS.into(), "1 to 60000")
    }

    fn encode(&self) -> Result<Vec<u8>, Error> {
        let required = (self.slot, &self.name, self.virtio_type, self.queues, self.queue_size);
        let fields = Fields::default().with(ATTACH_DEADLINE, &self.deadline_ms)?;
        let fields = match &self.pmem {
            Some(pmem) => fields.with(ATTACH_PMEM, pmem)?,
            None => fields,
        };
        let fields = match &self.mem {
            Some(mem) => fields.with(ATTACH_MEM, mem)?,
            None => fields,
        };
        fields::encode("Attach", &required, &fields)
    }

    fn decode(body: &[u8]) -> Result<Self, Error> {
        let ((slot, name, virtio_type, queues, queue_size), fields) = fields::decode_body("Attach", body)?;
        let deadline_ms = fields.value(ATTACH_DEADLINE, limits::DEFAULT_DEADLINE_MS)?;
        let (pmem, mem) = (fields.optional(ATTACH_PMEM)?, fields.optional(ATTACH_MEM)?);
        Ok(Self { slot, name, virtio_type, queues, queue_size, deadline_ms, pmem, mem })
    }
}

impl Message for ToCore {
    fn kind(&self) -> u16 {
        match self {
            Self::Setup(_) => SETUP,
            Self::Attach(_) => ATTACH,
            Self::Start => START,
            Self::PowerButton => POWER_BUTTON,
            Self::Pause => PAUSE,
            Self::Resume => RESUME,
            Self::Query => QUERY,
            Self::Stop => STOP,
            Self::Reconnect(_) => RECONNECT,
            Self::Abandon(_) => ABANDON,
            Self::Replace(_) => REPLACE,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Setup(_) => "Setup",
            Self::Attach(_) => "Attach",
            Self::Start => "Start",
            Self::PowerButton => "PowerButton",
            Self::Pause => "Pause",
            Self::Resume => "Resume",
            Self::Query => "Query",
            Self::Stop => "Stop",
            Self::Reconnect(_) => "Reconnect",
            Self::Abandon(_) => "Abandon",
            Self::Replace(_) => "Replace",
        }
    }

    fn fds(&self) -> usize {
        match self {
            Self::Setup(setup) => setup.fds(),
            Self::Attach(device) => {
                let of_mem = if device.mem.is_some() { 2 } else { 0 };
                1usize.saturating_add(usize::from(device.pmem.is_some())).saturating_add(of_mem)
            }
            Self::Reconnect(_) | Self::Replace(_) => 1,
            _ => 0,
        }
    }

    fn allowed(&self, phase: Phase) -> bool {
        match self {
            Self::Setup(_) | Self::Attach(_) | Self::Start => phase == Phase::HandOver,
            Self::PowerButton
            | Self::Pause
            | Self::Resume
            | Self::Query
            | Self::Reconnect(_)
            | Self::Abandon(_)
            | Self::Replace(_) => phase == Phase::Serving,
            Self::Stop => true,
        }
    }

    fn encode(&self) -> Result<Vec<u8>, Error> {
        match self {
            Self::Setup(setup) => {
                setup.check()?;
                fields::encode(self.name(), setup, &Fields::default())
            }
            Self::Attach(attach) => {
                attach.check()?;
                attach.encode()
            }
            Self::Reconnect(device) => {
                slot(device.slot)?;
                fields::encode(self.name(), device, &Fields::default())
            }
            Self::Abandon(device) => {
                slot(device.slot)?;
                fields::encode(self.name(), device, &Fields::default())
            }
            Self::Replace(device) => {
                slot(device.slot)?;
                fields::encode(self.name(), device, &Fields::default())
            }
            _ => fields::encode(self.name(), &(), &Fields::default()),
        }
    }

    fn decode(kind: u16, body: &[u8]) -> Result<Self, Error> {
        Ok(match kind {
            SETUP => {
                let (setup, _) = fields::decode_body::<CoreSetup>("Setup", body)?;
                setup.check()?;
                Self::Setup(setup)
            }
            ATTACH => {
                let attach = AttachDevice::decode(body)?;
                attach.check()?;
                Self::Attach(attach)
            }
            START => Self::Start,
            POWER_BUTTON => Self::PowerButton,
            PAUSE => Self::Pause,
            RESUME => Self::Resume,
            QUERY => Self::Query,
            STOP => Self::Stop,
            RECONNECT => {
                let (device, _) = fields::decode_body::<Reconnect>("Reconnect", body)?;
                slot(device.slot)?;
                Self::Reconnect(device)
            }
            ABANDON => {
                let (device, _) = fields::decode_body::<Abandon>("Abandon", body)?;
                slot(device.slot)?;
                Self::Abandon(device)
            }
            REPLACE => {
                let (device, _) = fields::decode_body::<Replace>("Replace", body)?;
                slot(device.slot)?;
                Self::Replace(device)
            }
            kind => return Err(Error::Kind { kind }),
        })
    }
}
