//! The vhost-user front end (the vhost-user protocol specification, as QEMU publishes it): one connection and one thread
//! for each device.
//!
//! The back end is hostile: [`connection`] bounds what it may answer and how long that takes, and says which part of
//! the `vhost` crate is not used and why; [`session`] is the conversation; [`Worker`] the thread, so that **no vCPU
//! ever waits for a back end**, not even while it is dead and its successor not yet there.

pub mod backend_channel;
mod config_writes;
pub mod connection;
pub mod fault;
mod inflight;
mod mailbox;
mod memory_table;
pub mod session;
mod watchdog;
mod worker;

pub use connection::Connection;
pub use fault::Fault;
pub use inflight::InflightRegion;
pub use mailbox::{Mailbox, Succession};
pub use memory_table::{MemoryTable, USER_ADDRESS_OFFSET};
pub use worker::Worker;

use crate::Error;
use crate::interrupts::{Interrupts, SharedEventFd};
use crate::pluggable_memory::PluggedSize;
use crate::virtio_pci::{Connections, DeviceType, Doorbells, Machine, Offer, Shared, VirtioPciDevice};
use backend_channel::BackendChannel;
use config_writes::ConfigWrites;
use kvm_ioctls::VmFd;
use protocol::{AttachDevice, MemoryRegion, PmemOptions};
use session::{QueueEvents, Shares, Wanted};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use watchdog::Watchdog;
use worker::Link;

/// The device type that has memory of its own (virtio 1.2, 5.19).
const PMEM: u16 = 27;
/// The one whose memory is plugged in and out (virtio 1.2, 5.15).
const MEM: u16 = 24;

/// Negotiates with the back end at the other end of `socket` and makes its device, with `plugged` if it has memory to be
/// plugged in. Takes no longer than the deadline of `attach`.
pub fn attach(
    attach: AttachDevice,
    socket: OwnedFd,
    plugged: Option<PluggedSize>,
    memory: Arc<MemoryTable>,
    interrupts: Arc<Interrupts>,
    vm: Arc<VmFd>,
) -> Result<VirtioPciDevice, Error> {
    let AttachDevice { slot, name, virtio_type, queues, queue_size, deadline_ms, pmem, mem } = attach;
    let kind = device_type(virtio_type, queues, pmem, mem)
        .map_err(|problem| Error::Device { name: name.clone(), problem })?;
    let limit = Duration::from_millis(deadline_ms.into());
    let mut connection = Connection::new(socket);
    // What has no configuration has none that could change.
    let channel = if kind.config_size > 0 { Some(BackendChannel::new()?) } else { None };
    let wanted =
        Wanted { kind, queues, limit, channel: channel.as_ref().and_then(BackendChannel::descriptor) };
    let agreement = session::handshake(&mut connection, &wanted)
        .map_err(|fault| Error::Device { name: name.clone(), problem: fault.to_string() })?;

    let events = |count: u16| (0..count).map(|_| SharedEventFd::new()).collect::<Result<Arc<[_]>, _>>();
    let kicks = events(agreement.queues)?;
    let calls = events(agreement.queues.saturating_add(1))?;
    let machine = Machine::new(Offer {
        kind,
        features: agreement.features,
        queues: agreement.queues,
        queue_size,
        config: agreement.config.clone(),
        ram: memory.ranges(),
    });
    let doorbells = Doorbells::new(vm, Arc::clone(&kicks));
    let connections = Connections::new(interrupts, Arc::clone(&calls), machine.transport())?;
    let shared = Arc::new(Shared::new(machine, doorbells, connections, plugged));
    let mailbox = Arc::new(Mailbox::new()?);
    let inflight =
        agreement.tracks_requests().then(|| InflightRegion::new(agreement.queues, queue_size)).transpose()?;
    let worker = Worker {
        slot,
        name,
        kind,
        limit,
        link: Link::Up(connection),
        attached: agreement.config.clone(),
        agreement,
        activation: None,
        started: false,
        abandoned: false,
        shares: Shares { memory, events: QueueEvents { kicks, calls }, inflight },
        mailbox: Arc::clone(&mailbox),
        shared: Arc::clone(&shared),
        reset_waits: false,
        anew: true,
        watchdog: Watchdog::default(),
        config_writes: ConfigWrites::default(),
        channel,
    };
    Ok(VirtioPciDevice::new(shared, mailbox, worker))
}

fn device_type(
    id: u16,
    queues: u16,
    pmem: Option<PmemOptions>,
    mem: Option<MemoryRegion>,
) -> Result<DeviceType, String> {
    let kind = DeviceType::new(id)
        .map(|kind| kind.with_control_queue(queues))
        .ok_or_else(|| format!("there is no virtio device type {id}: types are 1 to 63"))?;
    if pmem.is_some() != (id == PMEM) {
        return Err("persistent memory, and nothing else, comes with a file".to_owned());
    }
    if mem.is_some() != (id == MEM) {
        return Err("memory to be plugged in, and nothing else, comes with a memfd".to_owned());
    }
    Ok(DeviceType { memory: pmem.map(|pmem| pmem.region).or(mem), ..kind })
}

#[cfg(test)]
mod tests;
