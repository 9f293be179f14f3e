//! The virtio network device (virtio 1.2, §5.1) on one tap, or one stream: what it offers, and the two queues of each pair. What it is told on
//! its control queue is in `control`, what comes of it in `choices`.
//!
//! A frame's payload goes between tap or stream and guest memory without a copy here. Its header does not: it is judged in this
//! process's own memory, in both directions (see `frame`).
//!
//! When a process of this device ends, frames that it had are lost or were passed on, as a network may lose them:
//! none is passed on twice or in part. The transmit queue's in-flight notes hold that for frames of the guest, and a
//! receive queue's used index, which moves when a frame lies there whole, for those of the host.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use device_backend::{
    Arrival, Choice, Device, Handler, Keeper, Kept, Needs, Outside, Reader, Receiver, Room, Service, Writer,
    log_line,
};
use nix::errno::Errno;
use protocol::limits::USUAL_MTU;
use protocol::{MacAddress, NetOptions, Setting};

use crate::choices::Choices;
use crate::control::{Command, Control};
use crate::frame::{self, Refused, Rules};
use crate::host::Host;
use crate::stream::{self, Received, Sent, Stream};
use crate::tap::{Queues, Tap};
use crate::wire::{Config, ETHERNET_HEADER, Header, LINK_UP, VLAN_TAG, feature, queue};

/// In front of a packet.
const FRONT: usize = Header::SIZE + ETHERNET_HEADER;

/// What a tap takes over from the driver, or leaves to it.
const OFFLOADS: u64 = feature::CSUM
    | feature::GUEST_CSUM
    | feature::GUEST_TSO4
    | feature::GUEST_TSO6
    | feature::GUEST_ECN
    | feature::HOST_TSO4
    | feature::HOST_TSO6
    | feature::HOST_ECN
    | feature::CTRL_GUEST_OFFLOADS;

/// Why a ring ends whose tap is nobody's any more, whichever call finds it out.
const REMOVED: &str = "the tap's interface was removed";

/// Sends to a stream that is full, in one batch of requests, that may wait.
const WAITS: u8 = 20;

/// A tap or a stream as a virtio device.
pub struct Net {
    host: Host,
    options: NetOptions,
    choices: Choices,
}

impl Net {
    /// Serves `host`, and what is added, as `options` say.
    #[must_use]
    pub fn new(host: Host, options: NetOptions) -> Self {
        let choices = Choices::new(options.pairs);
        Self { host, options, choices }
    }

    /// The queues of the other pairs.
    pub fn add(&mut self, more: impl IntoIterator<Item = Tap>) {
        self.host.add(more);
    }

    /// Pairs of queues.
    #[must_use]
    pub fn most_pairs(&self) -> u16 {
        self.options.pairs
    }

    /// Whether frames pass: the cable is in, and there is a network at its other end.
    fn link_up(&self) -> bool {
        self.choices.link_up() && self.host.is_there()
    }

    /// Does what a driver that accepted `features` asks for. Whether it is done.
    #[must_use]
    pub fn obey(&self, command: Command, features: u64) -> bool {
        self.choices.obey(&self.host, command, features)
    }
}

/// Whether a driver knows of a control queue and not of several pairs, so that it looks for it behind the first.
fn knows_one_pair(features: u64) -> bool {
    features & (feature::CTRL_VQ | feature::MQ) == feature::CTRL_VQ
}

impl Device for Net {
    fn features(&self) -> u64 {
        let mut features = feature::MAC | feature::MRG_RXBUF | feature::STATUS | feature::CTRL_VQ;
        // Nobody at the other end of a stream would finish what a driver leaves unfinished.
        if let Host::Tap(_) = self.host {
            features |= OFFLOADS;
        }
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
        let status = if self.link_up() { LINK_UP } else { 0 };
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

    fn changes(&self) -> Option<BorrowedFd<'_>> {
        self.host.changes()
    }

    fn reset(&self) -> bool {
        self.choices.reset(&self.host);
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
            self.choices.enable(&self.host, index / 2, enabled, features);
        }
    }

    fn service(self: &Arc<Self>, index: u16) -> Service {
        let (net, pair) = (Arc::clone(self), index / 2);
        let control = |net| Service::Requests(Box::new(Control::new(net)));
        if index == queue::controlq(self.options.pairs) {
            return control(net);
        }
        if index % 2 == 1 {
            return Service::Requests(Box::new(Transmit { net, pair, told_of_forgery: false, waits: 0 }));
        }
        let discarded = if let Host::Stream(_) = net.host { stream::discarded() } else { Vec::new() };
        let receive = Service::Arrivals(Box::new(Receive { net, pair, offload: None, discarded }));
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
    /// For frames of a stream that nobody wants.
    discarded: Vec<u8>,
}

impl Receiver for Receive {
    fn source(&self) -> BorrowedFd<'_> {
        match &self.net.host {
            Host::Tap(queues) => queues.of(self.pair).as_fd(),
            Host::Stream(stream) => stream.arrivals(),
        }
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
        match &self.net.host {
            Host::Tap(queues) => {
                let of_pair = (queues, self.pair);
                receive_from_tap(&self.net.choices, of_pair, &mut self.offload, accepted, room)
            }
            Host::Stream(stream) => {
                let wanted = self.net.choices.link_up();
                Ok(receive_from_stream(stream, wanted, &mut self.discarded, room))
            }
        }
    }
}

fn receive_from_tap(
    choices: &Choices,
    (queues, pair): (&Queues, u16),
    offload: &mut Option<u64>,
    accepted: u64,
    room: &Room<'_, '_>,
) -> Result<Arrival, &'static str> {
    let mut features = choices.in_use(accepted);
    if *offload != Some(features) {
        // Before the first frame is taken. Those that wait already may be of another form: `for_driver` sorts them out.
        features = choices.set_offload(queues, accepted).map_err(|errno| match errno {
            Errno::EBADFD => REMOVED,
            _ => "the tap refuses the driver's offloads",
        })?;
        *offload = Some(features);
    }
    let mut whole = room.writer();
    let frame = whole.split_off(Header::SIZE);
    let mut header = [0; Header::SIZE];
    let bytes = match frame.read_packet(queues.of(pair), &mut header) {
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
    Ok(arrived(room, whole, header, bytes))
}

fn receive_from_stream(stream: &Stream, wanted: bool, discarded: &mut [u8], room: &Room<'_, '_>) -> Arrival {
    let mut whole = room.writer();
    let frame = whole.split_off(Header::SIZE);
    match stream.receive(frame, wanted, discarded) {
        Received::None => Arrival::None,
        Received::Frame(length) if length >= ETHERNET_HEADER => {
            arrived(room, whole, Header::default(), Header::SIZE.saturating_add(length))
        }
        Received::Frame(_) | Received::Dropped => Arrival::Dropped,
    }
}

/// Completes a frame that lies in `room` with the header in front of it, in `front`: `bytes` in all.
fn arrived(room: &Room<'_, '_>, mut front: Writer<'_, '_>, header: Header, bytes: usize) -> Arrival {
    // Without VIRTIO_NET_F_MRG_RXBUF the room is one chain.
    let header = Header { num_buffers: room.chains(bytes), ..header };
    match front.write_all(&header.bytes()) {
        Ok(()) => Arrival::Received(bytes),
        Err(_) => Arrival::Dropped,
    }
}

/// The `transmitq` of a pair. Its frames leave by the pair's own queue of the tap: by that the host's kernel knows where the
/// driver wants the answers (§5.1.6.5.5, automatic receive steering). A stream that is full is waited for, within bounds: its
/// peer reads on as a network would, and what is dropped instead a driver sends again and again.
struct Transmit {
    net: Arc<Net>,
    /// From 0.
    pair: u16,
    /// One line is enough.
    told_of_forgery: bool,
    /// How often a full stream may be waited for until the next batch.
    waits: u8,
}

impl Handler for Transmit {
    fn begin_batch(&mut self) {
        self.waits = WAITS;
    }

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
    fn refuse_outside(&mut self, _request: Outside<'_, '_>) -> Result<u32, &'static str> {
        Ok(0)
    }

    /// Lost rather than sent twice.
    fn repeats(&self) -> bool {
        false
    }
}

impl Transmit {
    fn send(&mut self, features: u64, mut reader: Reader<'_, '_>) -> Result<(), Refused> {
        let mut front = [0; FRONT];
        reader.read_exact(&mut front).map_err(|_| Refused::Length)?;
        let (Some(header), Some(ethernet)) = (front.first_chunk().copied(), front.last_chunk().copied())
        else {
            return Err(Refused::Length);
        };
        let Self { net, pair, waits, .. } = self;
        if !net.link_up() {
            return Err(Refused::Link);
        }
        let options = &net.options;
        let rules = Rules { features, source: (!options.any_source).then_some(options.mac.bytes()) };
        let length = ETHERNET_HEADER.saturating_add(reader.remaining());
        let header = frame::from_driver(rules, Header::parse(header), ethernet, length)?;
        match &net.host {
            Host::Tap(queues) => {
                if let Some(place) = front.first_chunk_mut() {
                    *place = header.bytes();
                }
                // What the host does not take now (an interface that is down, no memory, too many pieces) is lost.
                let _ = reader.write_packet(queues.of(*pair), &front);
            }
            Host::Stream(stream) => {
                let front = stream::front(ethernet, length).ok_or(Refused::Length)?;
                while stream.send(&front, &reader) == Sent::Full && *waits > 0 {
                    *waits = waits.saturating_sub(1);
                    stream.wait();
                }
            }
        }
        Ok(())
    }
}
