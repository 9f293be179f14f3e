//! The guest's side: memory, and split rings in it.
//!
//! The indices that device and driver tell each other are read and written whole, as a guest's processor would.

use std::fs::File;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::{Acquire, Release, SeqCst};
use std::sync::atomic::fence;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use super::{Connection, memory_table, request, ring_address, sealed, state};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;
pub const MEMORY: u64 = 16 << 20;
pub const EVENT_IDX: u64 = 1 << 29;
/// Where each queue's structures begin, by queue.
const QUEUE_SPACE: u64 = 0x10000;
/// Where buffers begin.
pub const BUFFERS: u64 = 0x20_0000;

/// Guest memory at guest-physical 0.
pub struct Memory {
    file: File,
    mapping: MmapRegion,
}

/// A driver that has its memory shared with `device`.
pub struct Driver<'d> {
    pub device: &'d Connection,
    pub memory: Memory,
}

impl Deref for Driver<'_> {
    type Target = Memory;

    fn deref(&self) -> &Memory {
        &self.memory
    }
}

/// One split ring of `size`, as the driver keeps it.
pub struct Queue {
    pub index: u32,
    pub size: u16,
    base: u64,
    pub available: u16,
    pub used: u16,
    pub kick: EventFd,
    pub call: EventFd,
}

impl<'d> Driver<'d> {
    /// Shares guest memory.
    pub fn new(device: &'d Connection) -> Self {
        let memory = Memory::new();
        let table = memory_table(&[(0, MEMORY, 0)]);
        assert!(device.ask(request::SET_MEM_TABLE, &table, &[memory.as_fd()]));
        Self { device, memory }
    }

    /// Sets up and starts ring `index`, which continues at `at`.
    pub fn queue(&self, index: u32, size: u16, at: u16) -> Queue {
        let queue = Queue::new(index, size, at);
        self.start(&queue, at);
        queue
    }

    pub fn start(&self, queue: &Queue, at: u16) {
        let index = queue.index;
        let ask = |request, body: &[u8], fds: &[BorrowedFd<'_>]| {
            assert!(self.device.ask(request, body, fds), "request {request} was refused");
        };
        ask(request::SET_VRING_NUM, &state(index, queue.size.into()), &[]);
        let (available, used) = (queue.available_ring(), queue.used_ring());
        ask(request::SET_VRING_ADDR, &ring_address(index, queue.base, available, used), &[]);
        ask(request::SET_VRING_BASE, &state(index, at.into()), &[]);
        ask(request::SET_VRING_CALL, &u64::from(index).to_ne_bytes(), &[queue.call.as_fd()]);
        ask(request::SET_VRING_KICK, &u64::from(index).to_ne_bytes(), &[queue.kick.as_fd()]);
        ask(request::SET_VRING_ENABLE, &state(index, 1), &[]);
    }

    /// GET_VRING_BASE.
    pub fn stop(&self, queue: &Queue) -> u32 {
        self.device.send(request::GET_VRING_BASE, 1, &state(queue.index, 0), &[]);
        let reply = self.device.reply(request::GET_VRING_BASE).unwrap();
        assert_eq!(reply[..4], queue.index.to_ne_bytes());
        u32::from_ne_bytes(reply[4..].try_into().unwrap())
    }
}

impl Memory {
    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn new() -> Self {
        let file = sealed(MEMORY);
        let whole = FileOffset::new(file.try_clone().unwrap(), 0);
        Self { file, mapping: MmapRegion::from_file(whole, place(MEMORY)).unwrap() }
    }

    pub fn put(&self, at: u64, bytes: &[u8]) {
        self.mapping.as_volatile_slice().write_slice(bytes, place(at)).unwrap();
    }

    pub fn look(&self, at: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        self.mapping.as_volatile_slice().read_slice(&mut bytes, place(at)).unwrap();
        bytes
    }

    fn load(&self, at: u64) -> u16 {
        u16::from_le(self.mapping.as_volatile_slice().load(place(at), Acquire).unwrap())
    }

    fn store(&self, at: u64, value: u16) {
        self.mapping.as_volatile_slice().store(value.to_le(), place(at), Release).unwrap();
    }

    pub fn used_index(&self, queue: &Queue) -> u16 {
        self.load(queue.used_ring() + 2)
    }

    pub fn descriptor(&self, table: u64, index: u16, at: u64, size: u32, flags: u16, next: u16) {
        let mut bytes = at.to_le_bytes().to_vec();
        bytes.extend(size.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.put(table + u64::from(index) * 16, &bytes);
    }

    /// Writes a chain of (address, size, flags) into `table` from `first` on.
    pub fn chain(&self, table: u64, first: u16, parts: &[(u64, u32, u16)]) {
        for (position, (at, size, flags)) in (first..).zip(parts) {
            let last = usize::from(position - first) + 1 == parts.len();
            let flags = flags | if last { 0 } else { NEXT };
            self.descriptor(table, position, *at, *size, flags, position + 1);
        }
    }

    /// Makes `heads` available, then kicks.
    pub fn offer(&self, queue: &mut Queue, heads: &[u16]) {
        for head in heads {
            let slot = u64::from(queue.available % queue.size);
            self.store(queue.available_ring() + 4 + slot * 2, *head);
            queue.available = queue.available.wrapping_add(1);
        }
        self.store(queue.available_ring() + 2, queue.available);
        queue.kick.write(1).unwrap();
    }

    /// Waits for the next used element and returns (head, length).
    pub fn used(&self, queue: &mut Queue) -> (u32, u32) {
        loop {
            if let Some(element) = self.take_used(queue) {
                return element;
            }
            if self.calls_for_next(queue) {
                let mut fds = [PollFd::new(queue.call.as_fd(), PollFlags::POLLIN)];
                assert_ne!(poll(&mut fds, PollTimeout::from(20_000u16)), Ok(0), "no call within 20 s");
                queue.call.read().unwrap();
            }
        }
    }

    /// The next used element, if there is one.
    pub fn take_used(&self, queue: &mut Queue) -> Option<(u32, u32)> {
        if self.used_index(queue) == queue.used {
            return None;
        }
        let slot = u64::from(queue.used % queue.size);
        let element = self.look(queue.used_ring() + 4 + slot * 8, 8);
        queue.used = queue.used.wrapping_add(1);
        let word = |at: usize| u32::from_le_bytes(element[at..at + 4].try_into().unwrap());
        Some((word(0), word(4)))
    }

    /// used_event: asks to be called for the very next one. Returns whether there is none yet, and so will be a call.
    pub fn calls_for_next(&self, queue: &Queue) -> bool {
        self.store(queue.available_ring() + 4 + u64::from(queue.size) * 2, queue.used);
        fence(SeqCst);
        self.used_index(queue) == queue.used
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn place(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

impl Queue {
    pub fn new(index: u32, size: u16, at: u16) -> Self {
        let base = 0x1000 + u64::from(index) * QUEUE_SPACE;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let kick = EventFd::from_value_and_flags(0, flags).unwrap();
        let call = EventFd::from_value_and_flags(0, flags).unwrap();
        Self { index, size, base, available: at, used: at, kick, call }
    }

    pub fn table(&self) -> u64 {
        self.base
    }

    pub fn available_ring(&self) -> u64 {
        self.base + 0x5000
    }

    pub fn used_ring(&self) -> u64 {
        self.base + 0x7000
    }
}

/// Waits for an event, whose descriptor the device has made non-blocking, and returns its count.
pub fn wait_for(event: &EventFd) -> u64 {
    let mut fds = [PollFd::new(event.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(20_000u16)), Ok(1), "no event within 20 s");
    event.read().unwrap()
}
