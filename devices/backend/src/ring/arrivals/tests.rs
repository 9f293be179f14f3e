//! A ring of buffers over guest memory of 1 MiB, filled from a datagram socket.
#![expect(clippy::arithmetic_side_effects, reason = "a test says what it expects by failing")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use vhost::vhost_user::message::VhostUserMemoryRegion;
use virtio_queue::desc::split::Descriptor;

use super::*;
use crate::inflight::{InflightArea, InflightFile, Kept};
use crate::memory::{MemoryTable, Unsealed};
use crate::pace::Pace;
use crate::ring::{Events, Layout};

const SIZE: u16 = 8;
const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const BUFFERS: u64 = 0x1_0000;
const EVENT_IDX: bool = true;
const WRITE: u16 = 2;

/// Takes a datagram whole; "drop" is dropped, and "end" is the end.
struct Datagrams {
    socket: UnixDatagram,
    needs: Needs,
}

impl Receiver for Datagrams {
    fn source(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn needs(&self, _features: u64) -> Needs {
        self.needs
    }

    fn receive(&mut self, _features: u64, room: &Room<'_, '_>) -> Result<Arrival, &'static str> {
        let mut front = [0; 4];
        let mut writer = room.writer();
        let body = writer.split_off(front.len());
        match body.read_packet(&self.socket, &mut front) {
            Err(Errno::EAGAIN) => Ok(Arrival::None),
            Err(_) => Err("the socket fails"),
            Ok(_) if front == *b"drop" => Ok(Arrival::Dropped),
            Ok(_) if front == *b"end!" => Err("the end"),
            Ok(bytes) if bytes > body.remaining() + front.len() => Ok(Arrival::Dropped),
            Ok(bytes) => {
                front[3] = b'0' + u8::try_from(room.chains(bytes)).unwrap();
                writer.write_all(&front).unwrap();
                Ok(Arrival::Received(bytes))
            }
        }
    }
}

struct Bench {
    table: Arc<MemoryTable>,
    ring: Ring,
    receiver: Datagrams,
    sender: UnixDatagram,
    call: Arc<OwnedFd>,
    counters: QueueCounters,
    lane: Lane,
    available: u16,
}

fn memory() -> Arc<MemoryTable> {
    let fd = memfd_create("guest", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    ftruncate(&fd, 1 << 20).unwrap();
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
    let region = VhostUserMemoryRegion::new(0, 1 << 20, 0, 0);
    Arc::new(MemoryTable::map(vec![(region, fd)], Unsealed::Refuse).unwrap())
}

impl Bench {
    fn new(needs: Needs, event_idx: bool) -> Self {
        Self::on(memory(), needs, event_idx, None)
    }

    fn on(table: Arc<MemoryTable>, needs: Needs, event_idx: bool, area: Option<&InflightArea>) -> Self {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let call = Arc::new(OwnedFd::from(EventFd::from_value_and_flags(0, flags).unwrap()));
        let events = Events { call: Some(Arc::clone(&call)), ..Events::default() };
        let part = |address| GuestAddress(address);
        let layout =
            Layout { size: SIZE, descriptors: part(TABLE), available: part(AVAILABLE), used: part(USED) };
        let inflight = area.map(|area| area.ring(0, SIZE, Kept::Nothing).unwrap());
        let ring =
            Ring::new(0, layout, 0, events, (0, event_idx), Arc::clone(&table), (inflight, true)).unwrap();
        let (sender, socket) = UnixDatagram::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let receiver = Datagrams { socket, needs };
        let lane = Lane::new(0, None, Instant::now());
        Self { table, ring, receiver, sender, call, counters: QueueCounters::default(), lane, available: 0 }
    }

    /// Offers chain `head` of one buffer of `bytes`.
    fn offer(&mut self, head: u16, bytes: u32) {
        let at = BUFFERS + u64::from(head) * 0x1000;
        let descriptor = Descriptor::new(at, bytes, WRITE, 0);
        let memory = self.table.memory();
        memory.write_obj(descriptor, GuestAddress(TABLE + u64::from(head) * 16)).unwrap();
        let slot = u64::from(self.available % SIZE);
        memory.write_obj(head, GuestAddress(AVAILABLE + 4 + slot * 2)).unwrap();
        self.available = self.available.wrapping_add(1);
        memory.store(self.available, GuestAddress(AVAILABLE + 2), Release).unwrap();
    }

    fn go(&mut self) -> Result<Progress, Error> {
        self.ring.receive(&mut self.receiver, &self.counters, &AtomicBool::new(false), &self.lane)
    }

    fn word(&self, at: u64) -> u16 {
        self.table.memory().load(GuestAddress(at), Acquire).unwrap()
    }

    /// The used elements so far.
    fn used(&self) -> Vec<(u32, u32)> {
        let element = |index: u16| {
            let at = USED + 4 + u64::from(index % SIZE) * 8;
            let [head, length]: [u32; 2] = self.table.memory().read_obj(GuestAddress(at)).unwrap();
            (head, length)
        };
        (0..self.word(USED + 2)).map(element).collect()
    }

    fn buffer(&self, head: u64, bytes: usize) -> Vec<u8> {
        let mut content = vec![0; bytes];
        self.table.memory().read_slice(&mut content, GuestAddress(BUFFERS + head * 0x1000)).unwrap();
        content
    }

    fn calls(&self) -> u64 {
        let mut count = [0; 8];
        nix::unistd::read(&self.call, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }
}

const ONE: Needs = Needs { bytes: 64, spread: false };
const SPREAD: Needs = Needs { bytes: 64, spread: true };

#[test]
fn who_has_had_his_share_gets_no_more_and_loses_nothing() {
    let mut bench = Bench::new(ONE, EVENT_IDX);
    let rate = protocol::Rate { per_second: 1, burst: 1 };
    let rates = protocol::Rates { bandwidth: Some(rate), operations: None };
    bench.lane = Lane::new(0, Some(Arc::new(Pace::new(&rates, Duration::ZERO))), Instant::now());
    (0..3).for_each(|head| bench.offer(head, 1000));
    for datagram in [[b'a'; 900], [b'b'; 900]] {
        bench.sender.send(&datagram).unwrap();
    }
    let Ok(Progress::Paced(wait)) = bench.go() else { panic!("900 bytes at one a second") };
    assert!(wait > Duration::from_secs(60));
    assert_eq!(bench.word(USED + 2), 1, "the first is the driver's at once");
    assert!(matches!(bench.go(), Ok(Progress::Paced(_))));
    bench.lane = Lane::new(0, None, Instant::now());
    assert!(matches!(bench.go(), Ok(Progress::Waiting)));
    assert_eq!(bench.word(USED + 2), 2, "the second was left where it was");
}

#[test]
fn without_room_the_source_is_left_alone_and_with_room_waited_for() {
    let mut bench = Bench::new(ONE, EVENT_IDX);
    bench.sender.send(b"one.").unwrap();
    assert_eq!(bench.go().unwrap(), Progress::Idle);
    assert_eq!(bench.calls(), 0);
    bench.offer(5, 100);
    bench.offer(2, 100);
    assert_eq!(bench.go().unwrap(), Progress::Waiting);
    assert_eq!((bench.used(), bench.calls()), (vec![(5, 4)], 1));
    assert_eq!(bench.buffer(5, 5), b"one1\0");
    assert_eq!(bench.ring.base(), 1, "what was not filled was put back");
    bench.sender.send(b"two.").unwrap();
    assert_eq!(bench.go().unwrap(), Progress::Idle, "the last buffer is filled");
    assert_eq!(bench.used(), [(5, 4), (2, 4)]);
}

#[test]
fn many_arrivals_are_one_call() {
    for event_idx in [true, false] {
        let mut bench = Bench::new(ONE, event_idx);
        (0..SIZE).for_each(|head| bench.offer(head, 64));
        for _ in 0..5 {
            bench.sender.send(b"many").unwrap();
        }
        assert_eq!(bench.go().unwrap(), Progress::Waiting);
        assert_eq!((bench.used().len(), bench.calls()), (5, 1));
    }
}

#[test]
fn a_driver_that_waits_for_later_is_not_called() {
    let mut bench = Bench::new(ONE, EVENT_IDX);
    (0..SIZE).for_each(|head| bench.offer(head, 64));
    // used_event: to be called when the third is used.
    bench.table.memory().write_obj(2u16, GuestAddress(AVAILABLE + 4 + u64::from(SIZE) * 2)).unwrap();
    for calls in [0, 0, 1, 0] {
        bench.sender.send(b"more").unwrap();
        bench.go().unwrap();
        assert_eq!(bench.calls(), calls);
    }
    let mut bench = Bench::new(ONE, false);
    bench.offer(0, 64);
    bench.table.memory().write_obj(1u16, GuestAddress(AVAILABLE)).unwrap();
    bench.sender.send(b"flag").unwrap();
    bench.go().unwrap();
    assert_eq!((bench.used().len(), bench.calls()), (1, 0), "VRING_AVAIL_F_NO_INTERRUPT");
}

#[test]
fn an_arrival_spreads_over_chains_and_what_is_over_stays_with_the_driver() {
    let mut bench = Bench::new(SPREAD, EVENT_IDX);
    (0..4).for_each(|head| bench.offer(head, 30));
    bench.sender.send(&[b'x'; 45]).unwrap();
    bench.sender.send(&[b'y'; 30]).unwrap();
    assert_eq!(bench.go().unwrap(), Progress::Idle, "30 bytes of room are no 64");
    assert_eq!(bench.used(), [(0, 30), (1, 15)]);
    assert_eq!(
        (bench.buffer(0, 4), bench.buffer(1, 16)),
        (b"xxx2".to_vec(), [&[b'x'; 15][..], &[0]].concat())
    );
    assert_eq!(bench.ring.base(), 2);
    // Kicks are asked for beyond what the device has seen.
    assert_eq!(bench.word(USED + 4 + u64::from(SIZE) * 8), 4);
    (4..6).for_each(|head| bench.offer(head, 30));
    assert_eq!(bench.go().unwrap(), Progress::Waiting);
    assert_eq!(bench.used()[2..], [(2, 30)]);
}

#[test]
fn a_ring_that_can_offer_no_more_is_served_all_the_same() {
    let mut bench = Bench::new(Needs { bytes: 1 << 16, spread: true }, EVENT_IDX);
    (0..SIZE).for_each(|head| bench.offer(head, 10));
    bench.sender.send(&[b'x'; 81]).unwrap();
    bench.sender.send(&[b'y'; 80]).unwrap();
    assert_eq!(bench.go().unwrap(), Progress::Idle);
    assert_eq!(bench.used(), (0..8).map(|head| (head, 10)).collect::<Vec<_>>(), "the longer one was dropped");
}

#[test]
fn what_is_dropped_takes_no_room() {
    let mut bench = Bench::new(ONE, EVENT_IDX);
    bench.offer(3, 64);
    for datagram in [&b"drop"[..], b"drop", b"kept", b"drop"] {
        bench.sender.send(datagram).unwrap();
    }
    bench.go().unwrap();
    assert_eq!((bench.used(), bench.buffer(3, 4)), (vec![(3, 4)], b"kep1".to_vec()));
}

#[test]
fn indices_wrap_and_a_successor_goes_on_from_the_used_index() {
    let table = memory();
    let file = InflightFile::create(1, SIZE).unwrap();
    let description =
        file.describe(&vhost::vhost_user::message::VhostUserInflight::new(0, 0, 1, SIZE)).unwrap();
    let fd = file.as_fd().try_clone_to_owned().unwrap();
    let area = InflightArea::map(&description, fd, Unsealed::Refuse).unwrap();
    // The indices as a driver has them that has run for long.
    for at in [AVAILABLE + 2, USED + 2] {
        table.memory().store(0xfffeu16, GuestAddress(at), Release).unwrap();
    }
    for round in 0..6u16 {
        let mut bench = Bench::on(Arc::clone(&table), ONE, EVENT_IDX, Some(&area));
        bench.available = 0xfffeu16.wrapping_add(round * 2);
        if round > 0 {
            bench.available = bench.available.wrapping_add(1);
        } else {
            bench.offer(7, 64);
        }
        bench.offer((round * 2) % SIZE, 64);
        bench.offer((round * 2 + 1) % SIZE, 64);
        bench.sender.send(b"one.").unwrap();
        bench.sender.send(b"two.").unwrap();
        assert_eq!(bench.go().unwrap(), Progress::Waiting);
        assert_eq!(bench.word(USED + 2), 0xfffeu16.wrapping_add(round * 2 + 2));
    }
}

#[test]
fn a_buffer_that_a_predecessor_of_another_kind_has_is_an_error() {
    let file = InflightFile::create(1, SIZE).unwrap();
    let description =
        file.describe(&vhost::vhost_user::message::VhostUserInflight::new(0, 0, 1, SIZE)).unwrap();
    let fd = file.as_fd().try_clone_to_owned().unwrap();
    let area = InflightArea::map(&description, fd, Unsealed::Refuse).unwrap();
    let mut requests = area.ring(0, SIZE, Kept::Requests).unwrap();
    requests.recover(0, false).unwrap();
    requests.taken(3).unwrap();
    assert!(area.ring(0, SIZE, Kept::Nothing).unwrap().recover(0, false).is_err());
}

#[test]
fn what_a_driver_must_not_offer_breaks_the_ring() {
    let broken = |heads: &[u16], bytes| {
        let mut bench = Bench::new(SPREAD, EVENT_IDX);
        heads.iter().for_each(|head| bench.offer(*head, bytes));
        bench.sender.send(b"data").unwrap();
        (bench.go().unwrap_err().to_string(), bench.used().len())
    };
    assert!(broken(&[1, 1], 20).0.contains("twice"));
    assert!(broken(&[1], 0).0.contains("no room"));
    assert!(broken(&[8], 20).0.contains("beyond the ring"));
    let mut bench = Bench::new(SPREAD, EVENT_IDX);
    bench.table.memory().store(9u16, GuestAddress(AVAILABLE + 2), Release).unwrap();
    assert!(bench.go().is_err(), "an available index that jumped");
    let mut bench = Bench::new(ONE, EVENT_IDX);
    bench.offer(0, 64);
    bench.sender.send(b"end!").unwrap();
    assert!(bench.go().unwrap_err().to_string().contains("the end"));
}
