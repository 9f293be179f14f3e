//! The real `device-blk`, confined as always, under a front end that is not ours: `Frontend` of the crate `vhost`, which
//! no program of ours uses.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test says what it expects by failing"
)]

mod front_end;

use std::os::fd::AsRawFd;

use front_end::driver::{BUFFERS, Driver, MEMORY, Memory, WRITE};
use front_end::{Device, USER, header_bytes, image, pattern};
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight};
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const DISK: usize = 1 << 20;
const QUEUES: u16 = 2;
const SIZE: u16 = 16;
const IN: u32 = 0;

/// One queue: where its ring is, and its two eventfds.
struct Ring {
    index: usize,
    base: u64,
    kick: EventFd,
    call: EventFd,
}

impl Ring {
    fn new(index: usize) -> Self {
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        Self { index, base: 0x1000 + index as u64 * 0x1_0000, kick: event(), call: event() }
    }

    fn available(&self) -> u64 {
        self.base + 0x1000
    }

    fn used(&self) -> u64 {
        self.base + 0x2000
    }

    /// Starts it at `base`.
    fn start(&self, front_end: &mut Frontend, base: u16) {
        let addresses = VringConfigData {
            queue_max_size: SIZE,
            queue_size: SIZE,
            flags: 0,
            desc_table_addr: USER + self.base,
            used_ring_addr: USER + self.used(),
            avail_ring_addr: USER + self.available(),
            log_addr: None,
        };
        front_end.set_vring_num(self.index, SIZE).unwrap();
        front_end.set_vring_addr(self.index, &addresses).unwrap();
        front_end.set_vring_base(self.index, base).unwrap();
        front_end.set_vring_call(self.index, &self.call).unwrap();
        front_end.set_vring_kick(self.index, &self.kick).unwrap();
        front_end.set_vring_enable(self.index, true).unwrap();
    }

    /// Reads one sector by the `turn`-th request.
    fn read(&self, driver: &Driver<'_>, turn: u16, sector: u64) -> Vec<u8> {
        let buffer = BUFFERS + self.index as u64 * 0x1000;
        driver.put(buffer, &header_bytes(IN, sector));
        driver.chain(self.base, 0, &[(buffer, 16, 0), (buffer + 512, 512, WRITE), (buffer + 16, 1, WRITE)]);
        driver.put(self.available() + 4 + u64::from(turn % SIZE) * 2, &0_u16.to_le_bytes());
        // used_event: call for this one.
        driver.put(self.available() + 4 + u64::from(SIZE) * 2, &turn.to_le_bytes());
        driver.put(self.available() + 2, &(turn + 1).to_le_bytes());
        self.kick.write(1).unwrap();
        while driver.look(self.used() + 2, 2) != (turn + 1).to_le_bytes() || self.call.read().is_err() {
            std::thread::yield_now();
        }
        assert_eq!(driver.look(buffer + 16, 1), [0], "the status");
        driver.look(buffer + 512, 512)
    }
}

/// All that can be agreed on is, each request acknowledged.
fn negotiate(front_end: &mut Frontend) {
    let features = front_end.get_features().unwrap();
    front_end.set_owner().unwrap();
    let protocol = front_end.get_protocol_features().unwrap();
    assert!(protocol.contains(VhostUserProtocolFeatures::INFLIGHT_SHMFD));
    front_end.set_protocol_features(protocol).unwrap();
    front_end.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    front_end.set_features(features).unwrap();
}

fn share(front_end: &Frontend, memory: &std::fs::File) {
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: MEMORY,
        userspace_addr: USER,
        mmap_offset: 0,
        mmap_handle: memory.as_raw_fd(),
    };
    front_end.set_mem_table(&[region]).unwrap();
}

#[test]
fn it_negotiates_serves_stops_and_goes_on() {
    let disk = image(DISK);
    let device = Device::start(disk.path(), &["--queues=2"]);
    let mut front_end = Frontend::from_stream(device.socket.try_clone().unwrap(), QUEUES.into());
    negotiate(&mut front_end);
    assert_eq!(front_end.get_queue_num().unwrap(), u64::from(QUEUES));
    let (_, config) = front_end.get_config(0, 60, VhostUserConfigFlags::empty(), &[0; 60]).unwrap();
    assert_eq!(config[..8], (DISK as u64 / 512).to_le_bytes());

    let driver = Driver { device: &device, memory: Memory::new() };
    share(&front_end, driver.memory.file());
    let wanted = VhostUserInflight::new(0, 0, QUEUES, SIZE);
    let (area, file) = front_end.get_inflight_fd(&wanted).unwrap();
    assert_eq!((area.num_queues, area.queue_size), (QUEUES, SIZE));
    front_end.set_inflight_fd(&area, file.as_raw_fd()).unwrap();

    let rings = [0, 1].map(Ring::new);
    for ring in &rings {
        ring.start(&mut front_end, 0);
    }
    for turn in 0..SIZE + 2 {
        for ring in &rings {
            let sector = usize::from(turn) * 3 + ring.index;
            assert_eq!(ring.read(&driver, turn, sector as u64), pattern(sector * 512, 512));
        }
    }
    for ring in &rings {
        let base = front_end.get_vring_base(ring.index).unwrap();
        assert_eq!(base, u32::from(SIZE) + 2);
        ring.start(&mut front_end, SIZE + 2);
        assert_eq!(ring.read(&driver, SIZE + 2, 77), pattern(77 * 512, 512));
    }
    drop(front_end);
    let (code, log) = device.end();
    assert_eq!((code, log.as_str()), (Some(0), ""));
}

#[test]
fn a_reset_by_it_leaves_a_device_that_serves_from_the_start() {
    let disk = image(DISK);
    let device = Device::start(disk.path(), &[]);
    let mut front_end = Frontend::from_stream(device.socket.try_clone().unwrap(), 1);
    negotiate(&mut front_end);
    let driver = Driver { device: &device, memory: Memory::new() };
    let ring = Ring::new(0);
    for round in [0_u16, 1] {
        share(&front_end, driver.memory.file());
        driver.put(ring.base, &[0; 0x3000]);
        ring.start(&mut front_end, 0);
        assert_eq!(ring.read(&driver, 0, round.into()), pattern(usize::from(round) * 512, 512));
        front_end.reset_device().unwrap();
        let features = front_end.get_features().unwrap();
        front_end.set_features(features).unwrap();
    }
    drop(front_end);
    let (code, log) = device.end();
    assert_eq!((code, log.as_str()), (Some(0), ""));
}

#[test]
fn a_refusal_reaches_it_and_the_connection_goes_on() {
    let disk = image(DISK);
    let device = Device::start(disk.path(), &[]);
    let mut front_end = Frontend::from_stream(device.socket.try_clone().unwrap(), 1);
    negotiate(&mut front_end);
    assert!(front_end.set_vring_num(0, SIZE - 1).is_err());
    let driver = Driver { device: &device, memory: Memory::new() };
    share(&front_end, driver.memory.file());
    let ring = Ring::new(0);
    ring.start(&mut front_end, 0);
    assert_eq!(ring.read(&driver, 0, 5), pattern(5 * 512, 512));
    drop(front_end);
    let (code, log) = device.end();
    let refused = "refused: ring 0: size 15 is not a power of two from 1 to 1024\n";
    assert_eq!((code, log.as_str()), (Some(0), refused));
}
