//! A small vhost-user front end with a driver for a disk of one split ring: what stands in for the core where a device
//! program is to be met without a guest.
//!
//! Guest memory is a file that is read and written by offset. Driver and device agree by system calls (kick and call), which
//! order their accesses. The in-flight region is made here and sealed, as the core does, and never looked at; the ring and
//! the region outlive any one device program.

mod wire;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::{Error, Result};
use wire::{Connection, request, state};

/// Entries of the ring; a request takes three.
const SIZE: u16 = 64;
/// Requests that can be in flight.
pub const MOST: u16 = SIZE / 3;
/// Bytes of a request's data.
pub const DATA: usize = 4096;

/// VIRTIO_F_VERSION_1, VHOST_USER_F_PROTOCOL_FEATURES and VIRTIO_BLK_F_FLUSH.
const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 9;
/// VHOST_USER_PROTOCOL_F_MQ, _REPLY_ACK, _CONFIG and _INFLIGHT_SHMFD.
const PROTOCOL_FEATURES: u64 = 1 << 0 | 1 << 3 | 1 << 9 | 1 << 12;

/// Places in guest memory.
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const HEADERS: u64 = 0x4000;
const STATUSES: u64 = 0x5000;
const BUFFERS: u64 = 0x1_0000;
/// Guest memory is at least so large.
pub const LEAST_MEMORY: u64 = 0x4_0000;

/// What to do with the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// VIRTIO_BLK_T_IN
    Read,
    /// VIRTIO_BLK_T_OUT
    Write,
}

/// A driver's memory, ring and events, and the connection to whoever serves them.
pub struct FrontEnd {
    memory: File,
    size: u64,
    inflight: File,
    kick: EventFd,
    call: EventFd,
    available: u16,
    used: u16,
    connection: Option<Connection>,
}

impl FrontEnd {
    /// On guest memory of `size` bytes, all zeros, that nobody can truncate.
    pub fn new(memory: File, size: u64) -> Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = || EventFd::from_value_and_flags(0, flags).map_err(failed("make an eventfd"));
        let inflight = sealed_memory("inflight", inflight_size())?;
        let (kick, call) = (event()?, event()?);
        Ok(Self { memory, size, inflight, kick, call, available: 0, used: 0, connection: None })
    }

    /// Has the ring served by the device program at the other end of `socket`, from where it is.
    pub fn attach(&mut self, socket: OwnedFd) -> Result<()> {
        let connection = Connection::new(UnixStream::from(socket))?;
        let offered = connection.get(request::GET_FEATURES)?;
        connection.tell(request::SET_OWNER, &[], &[])?;
        let protocol = connection.get(request::GET_PROTOCOL_FEATURES)? & PROTOCOL_FEATURES;
        if offered & FEATURES != FEATURES || protocol != PROTOCOL_FEATURES {
            return Err(Error::Unexpected(format!("offered only {offered:#x} and {protocol:#x}")));
        }
        connection.tell(request::SET_PROTOCOL_FEATURES, &protocol.to_ne_bytes(), &[])?;
        connection.ask(request::SET_FEATURES, &FEATURES.to_ne_bytes(), &[])?;
        connection.ask(request::SET_MEM_TABLE, &wire::memory_table(self.size), &[self.memory.as_raw_fd()])?;
        let inflight = wire::inflight(inflight_size(), SIZE);
        connection.ask(request::SET_INFLIGHT_FD, &inflight, &[self.inflight.as_raw_fd()])?;
        connection.ask(request::SET_VRING_NUM, &state(0, SIZE.into()), &[])?;
        let rings = wire::ring_addresses(DESCRIPTORS, AVAILABLE, USED);
        connection.ask(request::SET_VRING_ADDR, &rings, &[])?;
        let base = state(0, self.used_index()?.into());
        connection.ask(request::SET_VRING_BASE, &base, &[])?;
        let ring = 0_u64.to_ne_bytes();
        connection.ask(request::SET_VRING_CALL, &ring, &[self.call.as_fd().as_raw_fd()])?;
        connection.ask(request::SET_VRING_KICK, &ring, &[self.kick.as_fd().as_raw_fd()])?;
        connection.ask(request::SET_VRING_ENABLE, &state(0, 1), &[])?;
        self.connection = Some(connection);
        // What a predecessor was told of, and what it gave back without living to say so.
        self.kick.write(1).map_err(failed("kick"))?;
        self.call.write(1).map_err(failed("call"))?;
        Ok(())
    }

    /// The connection to a device program is gone.
    pub fn detach(&mut self) {
        self.connection = None;
    }

    /// The connection, to be polled for its end.
    pub fn socket(&self) -> Option<&UnixStream> {
        self.connection.as_ref().map(Connection::socket)
    }

    /// The event that says that requests may have come back.
    pub fn call(&self) -> &EventFd {
        &self.call
    }

    /// Puts what is to be written by request `slot` into its buffer.
    pub fn fill(&self, slot: u16, data: &[u8; DATA]) -> Result<()> {
        self.put(buffer(slot), data)
    }

    /// What request `slot` has read.
    pub fn data(&self, slot: u16) -> Result<[u8; DATA]> {
        let mut data = [0; DATA];
        self.memory.read_exact_at(&mut data, buffer(slot)).map_err(broken)?;
        Ok(data)
    }

    /// Makes request number `slot`, below [`MOST`] and not in flight, available, and kicks.
    pub fn submit(&mut self, slot: u16, kind: Kind, sector: u64) -> Result<()> {
        let (number, written) = match kind {
            Kind::Read => (0_u32, true),
            Kind::Write => (1, false),
        };
        let (header, status) =
            (HEADERS.wrapping_add(u64::from(slot) << 4), STATUSES.wrapping_add(slot.into()));
        self.put(header, &[&number.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat())?;
        self.put(status, &[0xFF])?;
        let head = slot.wrapping_mul(3);
        let size = u32::try_from(DATA).unwrap_or(u32::MAX);
        for (entry, (at, size, written)) in
            (head..).zip([(header, 16, false), (buffer(slot), size, written), (status, 1, true)])
        {
            let next = (at != status).then(|| entry.wrapping_add(1));
            let descriptor = wire::descriptor(at, size, written, next);
            self.put(DESCRIPTORS.wrapping_add(u64::from(entry) << 4), &descriptor)?;
        }
        let place = u64::from(self.available & (SIZE - 1)) << 1;
        self.put(AVAILABLE.wrapping_add(4).wrapping_add(place), &head.to_le_bytes())?;
        self.available = self.available.wrapping_add(1);
        self.put(AVAILABLE.wrapping_add(2), &self.available.to_le_bytes())?;
        self.kick.write(1).map_err(failed("kick")).map(drop)
    }

    /// The next request that has come back: its number and its status.
    pub fn completed(&mut self) -> Result<Option<(u16, u8)>> {
        // Taken before the look: what comes after it, comes with another call.
        let _ = self.call.read();
        if self.used_index()? == self.used {
            return Ok(None);
        }
        let place = u64::from(self.used & (SIZE - 1)) << 3;
        let mut head = [0; 4];
        self.memory.read_exact_at(&mut head, USED.wrapping_add(4).wrapping_add(place)).map_err(broken)?;
        self.used = self.used.wrapping_add(1);
        let slot = u16::try_from(u32::from_le_bytes(head) / 3).unwrap_or(u16::MAX);
        let mut status = [0];
        self.memory.read_exact_at(&mut status, STATUSES.wrapping_add(slot.into())).map_err(broken)?;
        Ok(Some((slot, u8::from_le_bytes(status))))
    }

    fn used_index(&self) -> Result<u16> {
        let mut index = [0; 2];
        self.memory.read_exact_at(&mut index, USED.wrapping_add(2)).map_err(broken)?;
        Ok(u16::from_le_bytes(index))
    }

    fn put(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.memory.write_all_at(bytes, at).map_err(broken)
    }
}

fn buffer(slot: u16) -> u64 {
    BUFFERS.wrapping_add(u64::from(slot) << 12)
}

/// As many bytes as the core gives a device of one such ring: a header of 16 and 16 for each entry, up to the next multiple
/// of 64 (vhost-user, "Inflight I/O tracking").
fn inflight_size() -> u64 {
    u64::from(SIZE).saturating_mul(16).saturating_add(16).next_multiple_of(64)
}

/// Memory of `size` bytes, all zeros, of a size that nobody can change.
pub fn sealed_memory(name: &str, size: u64) -> Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(name, flags).map_err(failed("make a memfd"))?);
    file.set_len(size).map_err(broken)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(failed("seal a memfd"))?;
    Ok(file)
}

fn failed(what: &'static str) -> impl FnOnce(nix::errno::Errno) -> Error {
    move |errno| Error::System { what: format!("cannot {what}"), source: errno.into() }
}

fn broken(source: std::io::Error) -> Error {
    Error::System { what: "guest memory".to_owned(), source }
}
