//! What front end and back end say to each other (vhost-user, "Communication"), step by step.
//!
//! [`Agreement`] is everything that was negotiated and [`Activation`] everything that the
//! guest set up: the two together can be said again to another process on another socket. That is what a reconnection
//! does: handshake, an agreement that covers the old one, and [`start`] from where the rings are instead of from 0.
//! Each operation has one deadline for the whole of it.

use super::connection::{Connection, Deadline};
use super::fault::Fault;
use super::inflight::InflightRegion;
use super::memory_table::{MemoryTable, USER_ADDRESS_OFFSET};
use crate::interrupts::SharedEventFd;
use crate::virtio_pci::{Activation, DeviceType, Ring, VERSION_1};
use protocol::limits;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;
use vhost::vhost_user::message::{
    FrontendReq, VHOST_USER_MAX_VRINGS, VhostUserConfig, VhostUserConfigFlags, VhostUserProtocolFeatures,
    VhostUserVirtioFeatures, VhostUserVringAddr, VhostUserVringAddrFlags, VhostUserVringState,
};
use vm_memory::ByteValued;

/// VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX and VIRTIO_F_VERSION_1: what this transport passes on for any device.
/// Not IN_ORDER, RING_PACKED, ACCESS_PLATFORM, RING_RESET and what comes after.
const TRANSPORT_FEATURES: u64 = 1 << 28 | 1 << 29 | VERSION_1;

/// What this front end makes use of.
const PROTOCOL_FEATURES: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::CONFIG)
    .union(VhostUserProtocolFeatures::BACKEND_REQ)
    .union(VhostUserProtocolFeatures::INFLIGHT_SHMFD)
    .union(VhostUserProtocolFeatures::RESET_DEVICE);

/// What is wanted of a back end.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The device type.
    pub kind: DeviceType,
    /// Queues; 0 for as many as are offered.
    pub queues: u16,
    /// The limit for each operation.
    pub limit: Duration,
    /// The back end's end of its channel, if there is one.
    pub channel: Option<RawFd>,
}

/// What was negotiated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    /// Virtio features that the guest may be offered.
    pub features: u64,
    /// Protocol features in use.
    pub protocol_features: VhostUserProtocolFeatures,
    /// Queues, at most 64.
    pub queues: u16,
    /// Device configuration.
    pub config: Vec<u8>,
}

impl Agreement {
    /// Whether requests that a back end leaves undone are known to its successor.
    #[must_use]
    pub fn tracks_requests(&self) -> bool {
        self.protocol_features.contains(VhostUserProtocolFeatures::INFLIGHT_SHMFD)
    }

    /// Whether the back end says when its configuration changes.
    #[must_use]
    pub fn announces_changes(&self) -> bool {
        self.protocol_features.contains(VhostUserProtocolFeatures::BACKEND_REQ)
    }

    /// Whether a successor that agreed to `self` can take the place of one that agreed to `old`, for a driver that
    /// accepted `accepted`. The driver has read the configuration and built on it, so nothing in it may differ.
    pub fn succeeds(&self, old: &Agreement, accepted: u64) -> Result<(), Fault> {
        if accepted & !self.features != 0 {
            return Err(Fault::Features { offered: self.features, accepted });
        }
        let same = self.config.iter().zip(&old.config).take_while(|(new, old)| new == old).count();
        if self.config != old.config {
            return Err(Fault::Config { at: same });
        }
        Ok(())
    }
}

/// Where the rings start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From<'a> {
    /// The driver has just set them up.
    Reset,
    /// A back end that is gone has served them.
    Predecessor,
    /// One that has drained them said where each stands, in the order of the rings.
    Drained(&'a [u16]),
}

/// What all back ends of one device are given.
#[derive(Debug)]
pub struct Shares {
    /// Guest memory.
    pub memory: Arc<MemoryTable>,
    /// Kicks and calls.
    pub events: QueueEvents,
    /// The account of requests, if the first back end could keep one.
    pub inflight: Option<InflightRegion>,
}

/// The descriptors of a device's queues, made once and shared with its back end.
#[derive(Debug, Clone)]
pub struct QueueEvents {
    /// Kicks, one for each queue.
    pub kicks: Arc<[SharedEventFd]>,
    /// Calls, one for each queue, then one that is never shared.
    pub calls: Arc<[SharedEventFd]>,
}

/// Says hello, agrees on features, and reads what the device is.
pub fn handshake(connection: &mut Connection, wanted: &Wanted) -> Result<Agreement, Fault> {
    let deadline = Deadline::after(wanted.limit);
    let offered = ask_u64(connection, FrontendReq::GET_FEATURES, deadline)?;
    connection.tell(FrontendReq::SET_OWNER, &[], &[], deadline)?;
    if offered & VERSION_1 == 0 {
        return Err(Fault::Lacks("VIRTIO_F_VERSION_1"));
    }
    if offered & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
        return Err(Fault::Lacks("VHOST_USER_F_PROTOCOL_FEATURES"));
    }
    let offered_protocol = ask_u64(connection, FrontendReq::GET_PROTOCOL_FEATURES, deadline)?;
    let mut protocol_features =
        VhostUserProtocolFeatures::from_bits_truncate(offered_protocol) & PROTOCOL_FEATURES;
    let channel = wanted.channel.filter(|_| protocol_features.contains(VhostUserProtocolFeatures::CONFIG));
    if channel.is_none() {
        protocol_features.remove(VhostUserProtocolFeatures::BACKEND_REQ);
    }
    let value = protocol_features.bits().to_ne_bytes();
    connection.tell(FrontendReq::SET_PROTOCOL_FEATURES, &value, &[], deadline)?;
    connection.set_acknowledged(protocol_features.contains(VhostUserProtocolFeatures::REPLY_ACK));
    if let Some(fd) = channel.filter(|_| protocol_features.contains(VhostUserProtocolFeatures::BACKEND_REQ)) {
        // Before the configuration is read, so that no change of it falls between the two.
        connection.tell(FrontendReq::SET_BACKEND_REQ_FD, &[], &[fd], deadline)?;
    }

    let queues = queue_count(connection, wanted, protocol_features, deadline)?;
    let mut config = Vec::new();
    if wanted.kind.config_size > 0 {
        if !protocol_features.contains(VhostUserProtocolFeatures::CONFIG) {
            return Err(Fault::Lacks("VHOST_USER_PROTOCOL_F_CONFIG"));
        }
        config = read_config(connection, &wanted.kind, queues, deadline)?;
    }
    let features = offered & (wanted.kind.features | TRANSPORT_FEATURES);
    Ok(Agreement { features, protocol_features, queues, config })
}

fn queue_count(
    connection: &Connection,
    wanted: &Wanted,
    features: VhostUserProtocolFeatures,
    deadline: Deadline,
) -> Result<u16, Fault> {
    let mut offered = 1;
    if features.contains(VhostUserProtocolFeatures::MQ) {
        offered = ask_u64(connection, FrontendReq::GET_QUEUE_NUM, deadline)?;
    }
    let refused = Fault::Queues { offered, wanted: wanted.queues };
    if offered == 0 || offered > VHOST_USER_MAX_VRINGS || u64::from(wanted.queues) > offered {
        return Err(refused);
    }
    let most = u16::try_from(offered).map_or(limits::MAX_QUEUES, |offered| offered.min(limits::MAX_QUEUES));
    match wanted.queues {
        0 => Ok(most),
        queues if queues <= most => Ok(queues),
        _ => Err(refused),
    }
}

/// Reads the configuration, and makes it say what is this side's to say ([`DeviceType::correct`]).
pub fn read_config(
    connection: &Connection,
    kind: &DeviceType,
    queues: u16,
    deadline: Deadline,
) -> Result<Vec<u8>, Fault> {
    let request = FrontendReq::GET_CONFIG;
    let asked = VhostUserConfig::new(0, kind.config_size.into(), VhostUserConfigFlags::empty());
    let mut body = asked.as_slice().to_vec();
    let header = body.len();
    body.resize(header.saturating_add(kind.config_size.into()), 0);
    let mut answer = vec![0; body.len()];
    connection.ask(request, &body, &mut answer, deadline)?;
    let config = answer.split_off(header);
    let mut found = VhostUserConfig::default();
    for (byte, read) in found.as_mut_slice().iter_mut().zip(&answer) {
        *byte = *read;
    }
    let (expected, found) = ((asked.offset, asked.size), (found.offset, found.size));
    if expected != found {
        return Err(Fault::Echo { request, expected, found });
    }
    let mut config = config;
    kind.correct(&mut config, queues);
    Ok(config)
}

/// Writes a part of the configuration.
pub fn write_config(
    connection: &Connection,
    offset: u16,
    data: &[u8],
    deadline: Deadline,
) -> Result<(), Fault> {
    let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let header = VhostUserConfig::new(offset.into(), size, VhostUserConfigFlags::empty());
    connection.tell(FrontendReq::SET_CONFIG, &[header.as_slice(), data].concat(), &[], deadline)
}

/// Tells a back end, if it wants to hear of it, that a driver begins anew which knows nothing of what another has told it.
/// Returns whether it has heard.
pub fn reset(connection: &Connection, agreement: &Agreement, limit: Duration) -> Result<bool, Fault> {
    if !agreement.protocol_features.contains(VhostUserProtocolFeatures::RESET_DEVICE) {
        return Ok(false);
    }
    connection.tell(FrontendReq::RESET_DEVICE, &[], &[], Deadline::after(limit)).map(|()| true)
}

/// Tells a back end what it can be told before it has the rings: it maps guest memory.
pub fn prepare(
    connection: &Connection,
    activation: &Activation,
    shares: &Shares,
    limit: Duration,
) -> Result<(), Fault> {
    let deadline = Deadline::after(limit);
    let features = activation.features | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    connection.tell(FrontendReq::SET_FEATURES, &features.to_ne_bytes(), &[], deadline)?;
    let memory = &shares.memory;
    connection.tell(FrontendReq::SET_MEM_TABLE, &memory.body(), &memory.descriptors(), deadline)
}

/// Starts the device as the guest has set it up, on a back end that is prepared.
pub fn start(
    connection: &Connection,
    activation: &Activation,
    shares: &Shares,
    from: From<'_>,
    limit: Duration,
) -> Result<(), Fault> {
    let deadline = Deadline::after(limit);
    let Shares { memory, events, inflight } = shares;
    if let Some(region) = inflight {
        let (body, fd) = (region.body(), region.descriptor());
        connection.tell(FrontendReq::SET_INFLIGHT_FD, &body, &[fd], deadline)?;
    }
    for (place, ring) in activation.rings.iter().enumerate() {
        // GET_VRING_BASE of one that is dead is not to be had. What it gave back the used ring says; what it took and
        // did not give back its successor finds in the in-flight region, and goes on behind that (vhost-user,
        // "Inflight I/O tracking").
        let base = match from {
            From::Reset => 0,
            From::Predecessor => memory.used_index(ring).unwrap_or(0),
            From::Drained(bases) => bases.get(place).copied().unwrap_or(0),
        };
        start_ring(connection, ring, base, events, deadline)?;
    }
    if !connection.is_acknowledged() {
        // Requests are handled in order: an answer to this one says that those before are done.
        ask_u64(connection, FrontendReq::GET_FEATURES, deadline)?;
    }
    for ring in &activation.rings {
        let index = usize::from(ring.index);
        // What the guest made available before the back end had the eventfd, or what a predecessor was told of.
        if let Some(kick) = events.kicks.get(index) {
            kick.signal();
        }
        // What a predecessor gave back without living to say so. A driver takes a call too many in its stride.
        if let Some(call) = events.calls.get(index).filter(|_| from == From::Predecessor) {
            call.signal();
        }
    }
    Ok(())
}

fn start_ring(
    connection: &Connection,
    ring: &Ring,
    base: u16,
    events: &QueueEvents,
    deadline: Deadline,
) -> Result<(), Fault> {
    let index = u32::from(ring.index);
    let state = |request, value: u32| {
        connection.tell(request, VhostUserVringState::new(index, value).as_slice(), &[], deadline)
    };
    let event = |request, events: &[SharedEventFd]| {
        let fd: Vec<RawFd> =
            events.get(usize::from(ring.index)).map(AsRawFd::as_raw_fd).into_iter().collect();
        connection.tell(request, &u64::from(index).to_ne_bytes(), &fd, deadline)
    };
    let user = |address: u64| address.wrapping_add(USER_ADDRESS_OFFSET);
    let flags = VhostUserVringAddrFlags::empty();
    let (descriptors, used, available) = (user(ring.descriptors), user(ring.used), user(ring.available));
    let addresses = VhostUserVringAddr::new(index, flags, descriptors, used, available, 0);

    state(FrontendReq::SET_VRING_NUM, ring.size.into())?;
    state(FrontendReq::SET_VRING_BASE, base.into())?;
    connection.tell(FrontendReq::SET_VRING_ADDR, addresses.as_slice(), &[], deadline)?;
    event(FrontendReq::SET_VRING_CALL, &events.calls)?;
    event(FrontendReq::SET_VRING_KICK, &events.kicks)?;
    state(FrontendReq::SET_VRING_ENABLE, 1)
}

/// Stops the rings. When this returns without a fault the back end has drained them: it writes to guest memory no more. The
/// answer is where each ring stands, as the back end says.
pub fn stop(connection: &Connection, rings: &[Ring], limit: Duration) -> Result<Vec<u32>, Fault> {
    let deadline = Deadline::after(limit);
    let request = FrontendReq::GET_VRING_BASE;
    let mut bases = Vec::new();
    for ring in rings {
        let index = u32::from(ring.index);
        let mut answer = VhostUserVringState::default();
        let body = VhostUserVringState::new(index, 0);
        connection.ask(request, body.as_slice(), answer.as_mut_slice(), deadline)?;
        let (found, base) = (answer.index, answer.num);
        if found != index {
            return Err(Fault::Echo { request, expected: (index, base), found: (found, base) });
        }
        bases.push(base);
    }
    Ok(bases)
}

fn ask_u64(connection: &Connection, request: FrontendReq, deadline: Deadline) -> Result<u64, Fault> {
    let mut answer = [0; 8];
    connection.ask(request, &[], &mut answer, deadline)?;
    Ok(u64::from_ne_bytes(answer))
}
