//! The virtio network device (virtio 1.2, §5.1) on one tap: what it offers, and its two queues.
//!
//! A frame's payload goes between tap and guest memory without a copy here. Its header does not: it is judged in this
//! process's own memory, in both directions (see `frame`).
//!
//! When a process of this device ends, frames that it had are lost or were passed on, as a network may lose them:
//! none is passed on twice or in part. The transmit queue's in-flight notes hold that for frames of the guest, and a
//! receive queue's used index, which moves when a frame lies there whole, for those of the host.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use device_backend::{Arrival, Device, Handler, Needs, Reader, Receiver, Room, Service, Writer, log_line};
use nix::errno::Errno;
use protocol::{MacAddress, NetOptions};

use crate::frame::{self, Refused, Rules};
use crate::tap::Tap;
use crate::wire::{Config, ETHERNET_HEADER, Header, LINK_UP, VLAN_TAG, feature, queue};

/// What a packet has at most where nobody says otherwise.
const USUAL_MTU: u16 = 1500;
/// In front of a packet.
const FRONT: usize = Header::SIZE + ETHERNET_HEADER;

/// Why a ring ends whose tap is nobody's any more, whichever call finds it out.
const REMOVED: &str = "the tap's interface was removed";

/// A tap as a virtio device.
#[derive(Debug)]
pub struct Net {
    tap: Tap,
    options: NetOptions,
}

impl Net {
    /// Serves `tap` as `options` say.
    #[must_use]
    pub fn new(tap: Tap, options: NetOptions) -> Self {
        Self { tap, options }
    }
}

impl Device for Net {
    fn features(&self) -> u64 {
        let mut features = feature::CSUM
            | feature::GUEST_CSUM
            | feature::MAC
            | feature::GUEST_TSO4
            | feature::GUEST_TSO6
            | feature::GUEST_ECN
            | feature::HOST_TSO4
            | feature::HOST_TSO6
            | feature::HOST_ECN
            | feature::MRG_RXBUF
            | feature::STATUS;
        if self.options.segments_udp {
            features |= feature::GUEST_USO4 | feature::GUEST_USO6 | feature::HOST_USO;
        }
        if self.options.mtu.is_some() {
            features |= feature::MTU;
        }
        features
    }

    fn config(&self) -> Vec<u8> {
        let mac = self.options.mac.bytes();
        Config { mac, status: LINK_UP, mtu: self.options.mtu.unwrap_or(0) }.bytes()
    }

    fn queues(&self) -> u16 {
        queue::COUNT
    }

    /// Each direction has the whole of a limit.
    fn limited_with(&self, index: u16) -> u16 {
        index % 2
    }

    fn service(self: &Arc<Self>, index: u16) -> Service {
        if index == queue::RECEIVEQ1 {
            Service::Arrivals(Box::new(Receive { net: Arc::clone(self), offload: None }))
        } else {
            Service::Requests(Box::new(Transmit { net: Arc::clone(self), told_of_forgery: false }))
        }
    }
}

/// `receiveq1`.
struct Receive {
    net: Arc<Net>,
    /// The features by which the tap's offloads were set.
    offload: Option<u64>,
}

impl Receiver for Receive {
    fn source(&self) -> BorrowedFd<'_> {
        self.net.tap.as_fd()
    }

    /// As much as a driver must offer (§5.1.6.3.1), more where packets are larger than usual.
    fn needs(&self, features: u64) -> Needs {
        let segmented = feature::GUEST_TSO4 | feature::GUEST_TSO6 | feature::GUEST_USO4 | feature::GUEST_USO6;
        let packet = self.net.options.mtu.map_or(USUAL_MTU, |mtu| mtu.max(USUAL_MTU)).into();
        let usual = FRONT.saturating_add(VLAN_TAG).saturating_add(packet);
        let bytes = if features & segmented == 0 { usual } else { Header::SIZE.saturating_add(frame::MOST) };
        Needs { bytes, spread: features & feature::MRG_RXBUF != 0 }
    }

    fn receive(&mut self, features: u64, room: &Room<'_, '_>) -> Result<Arrival, &'static str> {
        if self.offload != Some(features) {
            // Before the first frame is taken. Those that wait already may be of another form: `for_driver` sorts them out.
            self.net.tap.set_offload(features).map_err(|errno| match errno {
                Errno::EBADFD => REMOVED,
                _ => "the tap refuses the driver's offloads",
            })?;
            self.offload = Some(features);
        }
        let mut whole = room.writer();
        let frame = whole.split_off(Header::SIZE);
        let mut header = [0; Header::SIZE];
        let bytes = match frame.read_packet(&self.net.tap, &mut header) {
            Ok(bytes) => bytes,
            Err(Errno::EAGAIN) => return Ok(Arrival::None),
            Err(Errno::EBADFD) => return Err(REMOVED),
            Err(_) => return Err("the tap cannot be read"),
        };
        if bytes < FRONT || bytes > Header::SIZE.saturating_add(frame.remaining()) {
            return Ok(Arrival::Dropped);
        }
        let Some(header) = frame::for_driver(features, Header::parse(header)) else {
            return Ok(Arrival::Dropped);
        };
        // Without VIRTIO_NET_F_MRG_RXBUF the room is one chain.
        let header = Header { num_buffers: room.chains(bytes), ..header };
        match whole.write_all(&header.bytes()) {
            Ok(()) => Ok(Arrival::Received(bytes)),
            Err(_) => Ok(Arrival::Dropped),
        }
    }
}

/// `transmitq1`.
struct Transmit {
    net: Arc<Net>,
    /// One line is enough.
    told_of_forgery: bool,
}

impl Handler for Transmit {
    /// Sends a frame or drops it: there is no answer that says which.
    fn handle(
        &mut self,
        features: u64,
        reader: Reader<'_, '_>,
        _writer: Writer<'_, '_>,
    ) -> Result<u32, &'static str> {
        if let Err(Refused::Source(source)) = self.send(features, reader)
            && !std::mem::replace(&mut self.told_of_forgery, true)
            && let Ok(source) = MacAddress::new(source)
        {
            log_line(format_args!(
                "a frame from {source} is not sent: the device is {}; others like it are dropped in silence",
                self.net.options.mac
            ));
        }
        Ok(0)
    }

    fn refuse(&mut self, _writer: Writer<'_, '_>) -> Result<u32, &'static str> {
        Ok(0)
    }

    /// Lost, as any frame may be: of what an application sends without a copy (MSG_ZEROCOPY) parts may lie in persistent
    /// memory.
    fn refuse_outside(&mut self, _writer: Writer<'_, '_>) -> Result<(), &'static str> {
        Ok(())
    }

    /// Lost rather than sent twice.
    fn repeats(&self) -> bool {
        false
    }
}

impl Transmit {
    fn send(&self, features: u64, mut reader: Reader<'_, '_>) -> Result<(), Refused> {
        let mut front = [0; FRONT];
        reader.read_exact(&mut front).map_err(|_| Refused::Length)?;
        let (Some(header), Some(ethernet)) = (front.first_chunk().copied(), front.last_chunk().copied())
        else {
            return Err(Refused::Length);
        };
        let options = &self.net.options;
        let rules = Rules { features, source: (!options.any_source).then_some(options.mac.bytes()) };
        let length = ETHERNET_HEADER.saturating_add(reader.remaining());
        let header = frame::from_driver(rules, Header::parse(header), ethernet, length)?;
        if let Some(place) = front.first_chunk_mut() {
            *place = header.bytes();
        }
        // What the host does not take now (an interface that is down, no memory, too many pieces) is lost.
        let _ = reader.write_packet(&self.net.tap, &front);
        Ok(())
    }
}
