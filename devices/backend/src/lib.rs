//! The back end of every device program: take descriptors, confine, shake hands over vhost-user, map guest memory,
//! serve split rings. It knows no device type; a device implements [`Device`], and [`Handler`], [`Receiver`] or [`Holder`]
//! for each queue, and its `main` is [`run`].
//!
//! Top to bottom: `program` decides which life this process has; `spawned` is the confined one and
//! `stand_alone` the other. `connection` and `message` turn bytes into requests, `session` and
//! `vring` obey them, `worker` and `ring` serve the queues, `chain` and `file_io` are what a device
//! sees of a request or of a buffer, `pace` holds them to the user's limits. Of what outlives the process `inflight` notes the requests and `keep` the device's own state.
//!
//! Of the rust-vmm crates this uses `vhost`'s message structures, `vm-memory`'s mappings and `virtio-queue`'s
//! `Queue`. The module headers say which parts are not used and why.

mod announce;
mod chain;
mod connection;
mod counters;
mod device;
#[cfg(feature = "fuzzing")]
pub mod direct;
mod error;
pub mod fault;
mod file_io;
mod inflight;
mod inquiry;
mod keep;
mod listening;
mod log;
mod memory;
mod message;
mod pace;
mod process;
mod program;
mod ring;
mod session;
mod shared_word;
mod socket;
mod spawned;
mod stand_alone;
mod state;
mod vring;
mod worker;

pub use chain::{Reader, Writer};
pub use device::{
    Arrival, Choice, Device, Handler, Holder, NOTHING_TO_SET, Needs, Outside, Receiver, Service, Turn,
};
pub use error::Error;
pub use file_io::{Durability, bytes_waiting, read_at, read_stream, take_event, write_at, write_stream};
pub use inquiry::Inquiry;
pub use keep::{Keeper, Kept};
pub use listening::listen_for_user;
pub use log::line as log_line;
pub use memory::{GiveBackError, GuestPages};
pub use program::{Capabilities, DeviceProgram, OpenDirectory, run};
pub use ring::Room;
pub use shared_word::SharedWord;
