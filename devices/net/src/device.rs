//! The virtio network device (virtio 1.2, §5.1) on one tap: what it offers, and the two queues of each pair. What it is told on
//! its control queue is in `control`, what comes of it in `choices`.
//!
//! A frame's payload goes between tap and guest memory without a copy here. Its header does not: it is judged in this
//! process's own memory, in both directions (see `frame`).
//!
//! When a process of this device ends, frames that it had are lost or were passed on, as a network may lose them:
//! none is passed on twice or in part. The transmit queue's in-flight notes hold that for frames of the guest, and a
//! receive queue's used index, which moves when a frame lies there whole, for those of the host.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use device_backend::{
    Arrival, Choice, Device, Handler, Keeper, Kept, Needs, Reader, Receiver, Room, Service, Writer, log_line,
};
use nix::errno::Errno;
use protocol::{MacAddress, NetOptions, Setting};

use crate::choices::Choices;
use crate::control::{Command, Control};
use crate::frame::{self, Refused, Rules};
use crate::tap::{Queues, Tap};
use crate::wire::{Config, ETHERNET_HEADER, Header, LINK_UP, VLAN_TAG, feature, queue};

/// What a packet has at most where nobody says otherwise.
const USUAL_MTU: u16 = 1500;
/// In front of a packet.
const FRONT: usize = Header::SIZE + ETHERNET_HEADER;

/// Why a ring ends whose tap is nobody's any more, whichever call finds it out.
const REMOVED: &str = "the tap's interface was removed";

/// A tap as a virtio device.
pub struct Net {
    taps: Queues,
    options: NetOptions,
    choices: Choices,
}

impl Net {
    /// Serves `first`, and what is added, as `options` say.
    #[must_use]
    pub fn new(first: Tap, options: NetOptions) -> Self {
        let choices = Choices::new(options.pairs);
        Self { taps: Queues::new(first), options, choices }
    }

    /// The queues of the other pairs.
    pub fn add(&mut self, more: impl IntoIterator<Item = Tap>) {
        self.taps.add(more);
    }

    /// Pairs of queues.
    #[must_use]
    pub fn most_pairs(&self) -> u16 {
        self.options.pairs
    }

    /// Does what a driver that accepted `features` asks for. Whether it is done.
    #[must_use]
    pub fn obey(&self, command: Command, features: u64) -> bool {
        self.choices.obey(&self.taps, command, features)
    }
}

/// Whether a driver knows of a control queue and not of several pairs, so that it looks for it behind the first.
fn knows_one_pair(features: u64) -> bool {
    features & (feature::CTRL_VQ | feature::MQ) == feature::CTRL_VQ
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
            | feature::STATUS
            | feature::CTRL_VQ
            | feature::CTRL_GUEST_OFFLOADS;
        if self.options.pairs > 1 {
            features |= feature::MQ;
        }
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
        let status = if self.choices.link_up() { LINK_UP } else { 0 };
        let (max_virtqueue_pairs, mtu) = (self.options.pairs, self.options.mtu.unwrap_or(0));
        Config { mac, status, max_virtqueue_pairs, mtu }.bytes()
    }

    fn queues(&self) -> u16 {
        queue::controlq(self.options.pairs).saturating_add(1)
    }

    /// Each direction has the whole of a limit, over all pairs, and commands have one for themselves.
    fn limited_with(&self, index: u16) -> u16 {
        if index == queue::controlq(self.options.pairs) { 2 } else { index % 2 }
    }

    fn keep_with(&self, keeper: Keeper) {
        self.choices.keep_with(keeper);
    }

    /// What changes is kept at once, under the lock under which it changes, and so not a second time by the library: another
    /// thread may change something in between.
    fn set(&self, setting: Setting) -> Result<bool, String> {
        let Setting::Link(up) = setting else {
            return Err("a network has a link to be set, and nothing else".to_owned());
        };
        self.choices.set_link(up);
        Ok(false)
    }

    fn reset(&self) -> bool {
        self.choices.reset(&self.taps);
        false
    }

    fn kept(&self) -> Option<Kept> {
        Some(self.choices.kept())
    }

    fn restore(&self, kept: &Kept) -> bool {
        self.choices.restore(kept)
    }

    fn ring_enabled(&self, index: u16, enabled: bool, features: u64) {
        if index.is_multiple_of(2) && index < queue::controlq(self.options.pairs) {
            self.choices.enable(&self.taps, index / 2, enabled, features);
        }
    }

    fn service(self: &Arc<Self>, index: u16) -> Service {
        let (net, pair) = (Arc::clone(self), index / 2);
        let control = |net| Service::Requests(Box::new(Control::new(net)));
        if index == queue::controlq(self.options.pairs) {
            return control(net);
        }
        if index % 2 == 1 {
            return Service::Requests(Box::new(Transmit { net, pair, told_of_forgery: false }));
        }
        let receive = Service::Arrivals(Box::new(Receive { net, pair, offload: None }));
        if index == queue::CONTROLQ_OF_ONE_PAIR {
            let services = (receive, control(Arc::clone(self)));
            return Service::ByFeatures(Box::new(Choice { second: knows_one_pair, services }));
        }
        receive
    }
}

/// The `receiveq` of a pair.
struct Receive {
    net: Arc<Net>,
    /// From 0.
    pair: u16,
    /// The features in use by which the tap's offloads were set.
    offload: Option<u64>,
}

impl Receiver for Receive {
    fn source(&self) -> BorrowedFd<'_> {
        self.net.taps.of(self.pair).as_fd()
    }

    /// As much as a driver must offer (§5.1.6.3.1), more where packets are larger than usual.
    fn needs(&self, accepted: u64) -> Needs {
        let features = self.net.choices.in_use(accepted);
        let segmented = feature::GUEST_TSO4 | feature::GUEST_TSO6 | feature::GUEST_USO4 | feature::GUEST_USO6;
        let packet = self.net.options.mtu.map_or(USUAL_MTU, |mtu| mtu.max(USUAL_MTU)).into();
        let usual = FRONT.saturating_add(VLAN_TAG).saturating_add(packet);
        let bytes = if features & segmented == 0 { usual } else { Header::SIZE.saturating_add(frame::MOST) };
        Needs { bytes, spread: features & feature::MRG_RXBUF != 0 }
    }

    fn receive(&mut self, accepted: u64, room: &Room<'_, '_>) -> Result<Arrival, &'static str> {
        let Net { taps, choices, .. } = &*self.net;
        let mut features = choices.in_use(accepted);
        if self.offload != Some(features) {
            // Before the first frame is taken. Those that wait already may be of another form: `for_driver` sorts them out.
            features = choices.set_offload(taps, accepted).map_err(|errno| match errno {
                Errno::EBADFD => REMOVED,
                _ => "the tap refuses the driver's offloads",
            })?;
            self.offload = Some(features);
        }
        let mut whole = room.writer();
        let frame = whole.split_off(Header::SIZE);
        let mut header = [0; Header::SIZE];
        let bytes = match frame.read_packet(taps.of(self.pair), &mut header) {
            Ok(bytes) => bytes,
            Err(Errno::EAGAIN) => return Ok(Arrival::None),
            Err(Errno::EBADFD) => return Err(REMOVED),
            Err(_) => return Err("the tap cannot be read"),
        };
        // What comes while the cable is out is not there when it is in again.
        if !choices.link_up() || bytes < FRONT || bytes > Header::SIZE.saturating_add(frame.remaining()) {
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

/// The `transmitq` of a pair. Its frames leave by the pair's own queue of the tap: by that the host's kernel knows where the
/// driver wants the answers (§5.1.6.5.5, automatic receive steering).
struct Transmit {
    net: Arc<Net>,
    /// From 0.
    pair: u16,
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
        if !self.net.choices.link_up() {
            return Err(Refused::Link);
        }
        let options = &self.net.options;
        let rules = Rules { features, source: (!options.any_source).then_some(options.mac.bytes()) };
        let length = ETHERNET_HEADER.saturating_add(reader.remaining());
        let header = frame::from_driver(rules, Header::parse(header), ethernet, length)?;
        if let Some(place) = front.first_chunk_mut() {
            *place = header.bytes();
        }
        // What the host does not take now (an interface that is down, no memory, too many pieces) is lost.
        let _ = reader.write_packet(self.net.taps.of(self.pair), &front);
        Ok(())
    }
}
