//! One queue of a device served in the caller's thread, without socket, worker and confinement, and a whole device without
//! the confinement alone: what the fuzz targets feed.
//! Behind the feature `fuzzing`, which no program has.
//!
//! The ring is the one that workers serve, and so is everything below it.

mod conversation;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::GuestAddress;

use crate::counters::QueueCounters;
use crate::memory::{MemoryTable, Unsealed};
use crate::pace::Lane;
use crate::ring::{Events, Layout, Progress, Ring};
use crate::session::VIRTIO_F_EVENT_IDX;
use crate::worker::{Either, whom};
use crate::{Device, Error};

pub use conversation::{Conversation, DirectBackend};

/// Guest memory of one region, from guest-physical address 0 on.
pub struct DirectMemory(Arc<MemoryTable>);

impl DirectMemory {
    /// All `size` bytes of a sealed memfd.
    ///
    /// # Errors
    /// Those of SET_MEM_TABLE.
    pub fn map(memfd: OwnedFd, size: u64) -> Result<Self, Error> {
        let region = VhostUserMemoryRegion::new(0, size, 0, 0);
        Ok(Self(Arc::new(MemoryTable::map(vec![(region, memfd)], Unsealed::Refuse)?)))
    }
}

/// Where the driver has put its ring: guest-physical addresses.
#[derive(Debug, Clone, Copy)]
pub struct DirectRing {
    /// Its entries, a power of two.
    pub size: u16,
    /// Of the descriptor table.
    pub descriptors: u64,
    /// Of the available ring.
    pub available: u64,
    /// Of the used ring.
    pub used: u64,
}

/// Serves queue `queue` of `device`, for a driver that accepted `features`, until nothing more is available or arrives.
///
/// # Errors
/// The ring is broken.
pub fn serve<D: Device>(
    device: &Arc<D>,
    queue: u16,
    DirectMemory(memory): &DirectMemory,
    ring: DirectRing,
    features: u64,
) -> Result<(), Error> {
    let layout = Layout {
        size: ring.size,
        descriptors: GuestAddress(ring.descriptors),
        available: GuestAddress(ring.available),
        used: GuestAddress(ring.used),
    };
    let features = (features, features & VIRTIO_F_EVENT_IDX != 0);
    let memory = Arc::clone(memory);
    let mut ring = Ring::new(queue, layout, 0, Events::default(), features, memory, (None, false))?;
    let (counters, stop) = (QueueCounters::default(), AtomicBool::new(false));
    let lane = Lane::new(queue, None, Instant::now());
    let mut service = device.service(queue);
    match whom(&mut service, features.0) {
        Some(Either::Handler(handler)) => ring.serve(handler, &counters, &stop, &lane),
        Some(Either::Receiver(receiver)) => ring.receive(receiver, &counters, &stop, &lane),
        Some(Either::Holder(holder)) => ring.hold(holder, &counters, &stop),
        None => Ok(Progress::Idle),
    }
    .map(drop)
}
