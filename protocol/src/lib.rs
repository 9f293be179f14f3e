//! The words that the launcher, the core and the devices share: messages, framing, limits, phases.
//!
//! A frame is one packet of a `SOCK_SEQPACKET` socket pair: a fixed header ([`frame`]), a body in
//! bincode, optional fields by tag, and file descriptors by `SCM_RIGHTS`. Invariants, held for every
//! frame before a caller sees it:
//!
//! * no decode allocates beyond [`limits::MAX_FRAME`], whatever a length prefix claims;
//! * the number of descriptors is exactly the one that the message calls for, and all others are closed;
//! * the message is one that its sender may send in the receiver's present [`Phase`];
//! * every number and text is inside its limit (`limits`), so that receivers need not check again.
//!
//! Versions: the major number must be equal. A minor number says which optional fields and messages the
//! sender knows; a receiver skips the fields that it does not know and takes the default for those that
//! are absent, so neighbours of one minor version more or less understand each other.
//!
//! What goes over as a descriptor alone is the opener's and the receiver's to know; what a tap has to be, both must, so
//! that opening one is here too ([`tap`]).
//!
//! vhost-user, the other wire of the design, is the published protocol and has nothing in this crate.

pub mod channel;
mod descriptors;
mod error;
mod fields;
pub mod frame;
pub mod limits;
pub mod memory_layout;
mod message;
mod messages;
mod phase;
pub mod tap;

pub use channel::Channel;
pub use descriptors::take_no_descriptors;
pub use error::Error;
pub use fields::Fields;
pub use message::Message;
pub use messages::{
    balloon::{BALLOON_ACTUAL, BALLOON_TARGET, BalloonOptions},
    blk::{BlkOptions, DiskFormat},
    console::{ConsoleOptions, ConsolePort, ConsoleSize, NoConsoleSize},
    control::{
        AskDevice, BalloonAmount, DeviceStatus, FromLauncher, ProcessStatus, ReplaceDevice, Replaced,
        SetDevice, ToLauncher,
    },
    from_core::{
        Counter, Counters, DeviceLost, Exit, Failure, FailureKind, FromCore, Ready, Reconnected, Refused,
    },
    from_device::FromDevice,
    fs::FsOptions,
    mem::{MEM_PLUGGED, MEM_REQUESTED, MemOptions},
    net::{MacAddress, NetOptions, NoMacAddress},
    pmem::PmemOptions,
    rates::{Rate, Rates},
    setting::{SetOutcome, Setting},
    spawner::{Connect, FromSpawner, NotConnected, Respawn, SpawnFailed, Spawned, ToSpawner},
    statistics::{Statistic, Statistics},
    to_core::{Abandon, AttachDevice, CoreSetup, MemoryRegion, Reconnect, Replace, ToCore},
    to_device::{DeviceOptions, DeviceSetup, ToDevice},
    violation::{Violation, ViolationFrame},
    vsock::VsockOptions,
};
pub use phase::Phase;
