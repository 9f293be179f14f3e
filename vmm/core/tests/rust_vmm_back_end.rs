//! The front end against a back end that is not ours: the daemon of the rust-vmm crate `vhost-user-backend`, which no
//! program of ours links. A driver of a few accesses sets the device up on its bus, as a guest would, and the guest
//! memory between them has a hole in it.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test says what it expects by failing"
)]

mod null_disk;

use kvm_ioctls::Kvm;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use null_disk::{CAPACITY, Daemon, ID};
use protocol::{AttachDevice, DeviceLost, FromCore, memory_layout};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use vm_memory::{ByteValued, Bytes, GuestAddress};
use vmm_core::frontend::{MemoryTable, attach};
use vmm_core::interrupts::Interrupts;
use vmm_core::pci::{PciHost, Touched, Windows};
use vmm_core::{GuestMemory, guest_memory};

const BAR: u64 = 0x40_0000_8000;
const STATUS: u64 = 0x14;
const CONFIG: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const PENDING: u64 = 0x5000;
const NEEDS_RESET: u64 = 0x40;
/// VIRTIO_F_VERSION_1, EVENT_IDX, INDIRECT_DESC and VIRTIO_BLK_F_FLUSH: of what the peer offers, what a guest may see.
const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 28 | 1 << 9;
/// Rings below the hole, buffers above it.
const RING: u64 = 0x10_0000;
const BUFFERS: u64 = 1 << 32;
const SIZE: u16 = 128;
const QUEUES: u64 = null_disk::QUEUES as u64;
const GET_ID: u32 = 8;

/// Guest memory that goes on above 4 GiB; nearly all of it is never touched.
fn memory() -> GuestMemory {
    let regions = memory_layout::regions((3 << 30) + (16 << 20));
    assert_eq!(regions.len(), 2);
    let memfd = |size| {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create("guest", flags).unwrap());
        file.set_len(size).unwrap();
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        OwnedFd::from(file)
    };
    let memfds = regions.iter().map(|region| memfd(region.size)).collect();
    guest_memory::map(&regions, memfds).unwrap()
}

/// A block device in slot 1, its guest's driver, and the thread of its front end.
struct Guest {
    host: PciHost,
    memory: GuestMemory,
    lost: Receiver<FromCore>,
    thread: JoinHandle<()>,
}

impl Guest {
    /// Waits until the back end is lost.
    fn loss(&self) -> DeviceLost {
        match self.lost.recv().unwrap() {
            FromCore::DeviceLost(lost) => lost,
            other => DeviceLost::new(0, &format!("no loss but {other:?}")),
        }
    }

    fn attach(socket: OwnedFd, queues: u16) -> Result<Self, vmm_core::Error> {
        let memory = memory();
        let vm = Kvm::new().unwrap().create_vm().unwrap();
        vm.create_irq_chip().unwrap();
        let vm = Arc::new(vm);
        let interrupts = Arc::new(Interrupts::new(Arc::clone(&vm))?);
        let device = AttachDevice {
            slot: 1,
            name: "blk0".into(),
            virtio_type: 2,
            queues,
            queue_size: SIZE,
            deadline_ms: 60_000,
            pmem: None,
            mem: None,
        };
        let table = Arc::new(MemoryTable::of(&memory)?);
        let device = attach(device, socket, None, table, Arc::clone(&interrupts), vm)?;
        let windows = Windows { mmio32: 0xC000_0000..0xE000_0000, mmio64: 0x40_0000_0000..0x44_0000_0000 };
        let mut host = PciHost::new(windows, interrupts);
        host.add(1, device)?;
        host.ecam_write((1 << 15) + 4, &[6, 0]);
        let worker = host.workers().pop().unwrap();
        let (report, lost) = channel();
        let thread = std::thread::spawn(move || worker.run(&|word, _| report.send(word).unwrap()));
        Ok(Self { host, memory, lost, thread })
    }

    fn write(&self, offset: u64, value: u64, width: usize) -> Touched {
        self.host.mmio_write(BAR + offset, &value.to_le_bytes()[..width]).unwrap()
    }

    fn read(&self, offset: u64, width: usize) -> u64 {
        let mut bytes = [0; 8];
        self.host.mmio_read(BAR + offset, &mut bytes[..width]).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// Waits for what another thread or the back end is about to do.
    fn until(&self, met: impl Fn(&Self) -> bool) {
        while !met(self) {
            std::thread::yield_now();
        }
    }

    fn features(&self) -> u64 {
        let half = |index| {
            self.write(0x00, index, 4);
            self.read(0x04, 4)
        };
        half(1) << 32 | half(0)
    }

    /// The driver of 3.1.1, with all queues, each with the vector of its number.
    fn set_up(&self) {
        self.memory.write_slice(&[0; 0x4000], GuestAddress(RING)).unwrap();
        self.write(STATUS, 1, 1);
        self.write(STATUS, 3, 1);
        let features = self.features();
        for half in [0, 1] {
            self.write(0x08, half, 4);
            self.write(0x0C, features >> (32 * half) & 0xFFFF_FFFF, 4);
        }
        self.write(STATUS, 11, 1);
        assert_eq!(self.read(STATUS, 1), 11, "the features are taken");
        for queue in 0..QUEUES {
            self.write(0x16, queue, 2);
            assert_eq!(self.read(0x18, 2), u64::from(SIZE));
            self.write(0x1A, queue, 2);
            let rings = [(0x20, table(queue)), (0x28, available(queue)), (0x30, used(queue))];
            for (register, address) in rings {
                self.write(register, address, 4);
                self.write(register + 4, address >> 32, 4);
            }
            self.write(0x1C, 1, 2);
        }
        self.write(STATUS, 15, 1);
        assert_eq!(self.read(STATUS, 1), 15);
    }

    fn put<T: ByteValued>(&self, address: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }

    fn see<T: ByteValued>(&self, address: u64) -> T {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }

    /// One request to its end, the `turn`-th of its queue: what the device put into a data buffer of 64 bytes.
    fn submit(&self, queue: u64, turn: u16, kind: u32, sector: u64) -> [u8; 64] {
        let buffer = BUFFERS + queue * 0x1000;
        let (header, data, status) = (buffer, buffer + 0x100, buffer + 0x200);
        self.put(header, kind);
        self.put(header + 8, sector);
        self.memory.write_slice(&[0xEE; 64], GuestAddress(data)).unwrap();
        self.put(status, 0xEE_u8);
        let chain = [(header, 16_u32, 1_u16), (data, 64, 3), (status, 1, 2)];
        for (at, next, (address, length, flags)) in chain
            .into_iter()
            .zip(1_u16..)
            .map(|(part, next)| (table(queue) + u64::from(next - 1) * 16, next, part))
        {
            self.put(at, address);
            self.put(at + 8, length);
            self.put(at + 12, flags);
            self.put(at + 14, next);
        }
        self.put(available(queue) + 4 + u64::from(turn % SIZE) * 2, 0_u16);
        self.put(available(queue) + 2, turn + 1);
        assert_eq!(self.write(NOTIFY + queue * 4, queue, 2), Touched::Notify);
        self.until(|guest| guest.see::<u16>(used(queue) + 2) == turn + 1);
        let element = used(queue) + 4 + u64::from(turn % SIZE) * 8;
        assert_eq!((self.see::<u32>(element), self.see::<u32>(element + 4)), (0, 65), "head and length");
        assert_eq!(self.see::<u8>(status), 0);
        let mut seen = [0; 64];
        self.memory.read_slice(&mut seen, GuestAddress(data)).unwrap();
        seen
    }

    fn end(self) {
        drop(self.host);
        self.thread.join().unwrap();
    }
}

fn table(queue: u64) -> u64 {
    RING + queue * 0x2000
}

fn available(queue: u64) -> u64 {
    table(queue) + 0x800
}

fn used(queue: u64) -> u64 {
    table(queue) + 0x1000
}

#[test]
fn it_is_attached_started_reset_and_started_again() {
    let (daemon, socket) = Daemon::start();
    let guest = Guest::attach(socket, 0).unwrap();
    assert_eq!(guest.features(), FEATURES);
    assert_eq!(guest.read(0x12, 2), QUEUES, "as many queues as it offers");
    assert_eq!(guest.read(CONFIG, 8), CAPACITY);
    assert_eq!(guest.read(CONFIG + 34, 2), QUEUES);
    for round in 0..3 {
        guest.set_up();
        // More than the ring has entries, so that its index wraps around the ring.
        for turn in 0..SIZE + 2 {
            let sector = u64::from(turn) + round;
            assert_eq!(guest.submit(0, turn, 0, sector)[..8], sector.to_le_bytes());
        }
        assert_eq!(guest.submit(1, 0, GET_ID, 0)[..16], *ID);
        // Every vector is masked: the calls show as pending bits.
        guest.until(|guest| guest.read(PENDING, 8) & 3 == 3);
        let other = guest.read(CONFIG + 32, 1) ^ 1;
        assert_eq!(guest.write(CONFIG + 32, other, 1), Touched::DeviceConfig);
        guest.until(|guest| guest.read(CONFIG + 32, 1) == other);
        guest.write(STATUS, 0, 1);
        guest.until(|guest| guest.read(STATUS, 1) == 0);
        assert_eq!(daemon.stopped(), (round + 1) * QUEUES, "each ring was stopped before the reset was done");
    }
    assert!(guest.lost.try_recv().is_err());
    guest.end();
    daemon.ends_by_hang_up();
}

#[test]
fn more_queues_than_it_has_are_refused() {
    let (daemon, socket) = Daemon::start();
    let refused = Guest::attach(socket, 3).map(drop).unwrap_err().to_string();
    assert!(refused.contains("blk0") && refused.contains("offers 2 queues, 3 are wanted"), "{refused}");
    daemon.ends_by_hang_up();
}

#[test]
fn a_refusal_of_it_loses_the_device_and_nothing_else() {
    let (daemon, socket) = Daemon::start();
    let guest = Guest::attach(socket, 0).unwrap();
    guest.set_up();
    guest.submit(0, 0, 0, 7);
    // The capacity, which it does not let anybody write: it says so, and then ends the connection.
    guest.write(CONFIG, 1, 1);
    let lost = guest.loss();
    assert!(
        lost.slot == 1 && lost.text.starts_with("blk0: the back end refused SET_CONFIG"),
        "{}",
        lost.text
    );
    guest.until(|guest| guest.read(STATUS, 1) & NEEDS_RESET != 0);
    guest.write(STATUS, 0, 1);
    guest.until(|guest| guest.read(STATUS, 1) == 0);
    guest.end();
    daemon.ends_by_refusal();
}

#[test]
fn its_end_is_seen_and_the_reset_after_it_ends() {
    let (daemon, socket) = Daemon::start();
    let guest = Guest::attach(socket, 2).unwrap();
    guest.set_up();
    guest.submit(1, 0, 0, 7);
    daemon.shut_down();
    assert_eq!(
        guest.loss().text,
        "blk0: the back end closed the connection; it kept no account of its requests \
         (VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD), so that the guest's driver has to reset the device"
    );
    guest.until(|guest| guest.read(STATUS, 1) & NEEDS_RESET != 0);
    guest.write(STATUS, 0, 1);
    guest.until(|guest| guest.read(STATUS, 1) == 0);
    guest.end();
}
