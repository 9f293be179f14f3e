//! What the core does for a device, done by a test: it keeps guest memory, the rings with their events and the
//! region for requests in flight, and gives the same to each process that serves the device.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::SealFlag;

use crate::front_end::driver::{MEMORY, Memory, Queue};
use crate::front_end::{Connection, NEED_REPLY, memfd, memory_table, request, ring_address, state};

pub const QUEUES: u16 = 2;
/// Entries of each ring.
pub const RING: u16 = 32;
/// Bytes of a ring's part of the region for requests in flight.
const PART: u64 = (16 + 16 * RING as u64).next_multiple_of(64);

pub struct Core {
    pub memory: Memory,
    pub queues: Vec<Queue>,
    inflight: File,
}

/// The device has hung up.
#[derive(Debug)]
pub struct Gone;

impl Core {
    pub fn new() -> Self {
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        Self {
            memory: Memory::new(),
            queues: (0..QUEUES).map(|index| Queue::new(index.into(), RING, 0)).collect(),
            inflight: memfd(PART * u64::from(QUEUES), seals),
        }
    }

    /// The whole handshake: everything as it was for the predecessor, rings from the used index.
    pub fn connect(&self, device: &Connection) -> Result<(), Gone> {
        tell(device, request::SET_OWNER, &[], &[])?;
        let features = number(device, request::GET_FEATURES)?;
        let protocol = number(device, request::GET_PROTOCOL_FEATURES)?;
        // Acknowledgements are part of what this turns on.
        device.send(request::SET_PROTOCOL_FEATURES, 1, &protocol.to_ne_bytes(), &[]);
        tell(device, request::SET_FEATURES, &features.to_ne_bytes(), &[])?;
        tell(device, request::SET_MEM_TABLE, &memory_table(&[(0, MEMORY, 0)]), &[self.memory.as_fd()])?;
        let mut description = (PART * u64::from(QUEUES)).to_ne_bytes().to_vec();
        description.extend(0u64.to_ne_bytes());
        description.extend(QUEUES.to_ne_bytes());
        description.extend(RING.to_ne_bytes());
        description.extend([0; 4]);
        tell(device, request::SET_INFLIGHT_FD, &description, &[self.inflight.as_fd()])?;
        self.queues.iter().try_for_each(|queue| self.start(device, queue))
    }

    pub fn start(&self, device: &Connection, queue: &Queue) -> Result<(), Gone> {
        let index = queue.index;
        let number = u64::from(index).to_ne_bytes();
        let used = self.memory.used_index(queue);
        tell(device, request::SET_VRING_NUM, &state(index, queue.size.into()), &[])?;
        let address = ring_address(index, queue.table(), queue.available_ring(), queue.used_ring());
        tell(device, request::SET_VRING_ADDR, &address, &[])?;
        tell(device, request::SET_VRING_BASE, &state(index, used.into()), &[])?;
        tell(device, request::SET_VRING_CALL, &number, &[queue.call.as_fd()])?;
        tell(device, request::SET_VRING_KICK, &number, &[queue.kick.as_fd()])?;
        tell(device, request::SET_VRING_ENABLE, &state(index, 1), &[])
    }

    /// GET_VRING_BASE.
    pub fn stop(&self, device: &Connection, queue: &Queue) -> Result<(), Gone> {
        device.send(request::GET_VRING_BASE, 1, &state(queue.index, 0), &[]);
        device.reply(request::GET_VRING_BASE).map(drop).ok_or(Gone)
    }
}

fn tell(device: &Connection, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Gone> {
    // Before acknowledgements are negotiated there are none.
    if request == request::SET_OWNER {
        device.send(request, 1, body, fds);
        return Ok(());
    }
    device.send(request, 1 | NEED_REPLY, body, fds);
    let reply = device.reply(request).ok_or(Gone)?;
    assert_eq!(reply, 0u64.to_ne_bytes(), "request {request} was refused");
    Ok(())
}

fn number(device: &Connection, request: u32) -> Result<u64, Gone> {
    device.send(request, 1, &[], &[]);
    let reply = device.reply(request).ok_or(Gone)?;
    Ok(u64::from_ne_bytes(reply.try_into().unwrap()))
}
