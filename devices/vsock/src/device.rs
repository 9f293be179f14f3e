//! The virtio socket device (virtio 1.2, §5.10): its configuration and its three queues.
//!
//! Connections end with the process that has them. What outlives it is that a driver was there: the next process tells that
//! driver by `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET` that all of its connections are gone (§5.10.6.7), and asks it for no new
//! one before.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use device_backend::{
    Arrival, Device, Error, Handler, Kept, Needs, Outside, Reader, Receiver, Room, Service, Writer,
};
use nix::sys::eventfd::{EfdFlags, EventFd};
use protocol::VsockOptions;

use crate::host::Host;
use crate::switch::Switch;
use crate::wire::{Header, TRANSPORT_RESET, feature, queue};

/// Of the kept byte: whether a driver uses the device.
const KEPT_VERSION: u16 = 1;

/// A vsock.
#[derive(Debug)]
pub struct Vsock {
    cid: u32,
    host: Arc<Host>,
    switch: Mutex<Switch>,
    /// A driver uses it, which a process before this one served.
    inherited: AtomicBool,
    /// A driver uses it, which this process serves.
    driven: AtomicBool,
    /// The driver is to be told that its connections are gone.
    reset_is_due: AtomicBool,
    /// Never to be read: what the event queue waits for, since what it has to say is there before it begins.
    never: EventFd,
}

impl Vsock {
    /// For the guest that `options` say, with the listening socket `resource`.
    ///
    /// # Errors
    /// The resource is none; no descriptor is to be had.
    pub fn new(options: &VsockOptions, resource: OwnedFd) -> Result<Self, Error> {
        let host = Arc::new(Host::new(resource, &options.name)?);
        let never = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Error::System { action: "create an eventfd", errno })?;
        // No secret, only another one each time.
        let [a, b, c, d, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
        let switch = Switch::new(Arc::clone(&host), options.cid, u32::from_ne_bytes([a, b, c, d]));
        Ok(Self {
            cid: options.cid,
            host,
            switch: Mutex::new(switch),
            inherited: AtomicBool::new(false),
            driven: AtomicBool::new(false),
            reset_is_due: AtomicBool::new(false),
            never,
        })
    }

    /// A panic ends the process, so a poisoned lock is never seen.
    fn switch(&self) -> MutexGuard<'_, Switch> {
        self.switch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for Vsock {
    fn features(&self) -> u64 {
        feature::STREAM
    }

    /// `guest_cid` (§5.10.4).
    fn config(&self) -> Vec<u8> {
        u64::from(self.cid).to_le_bytes().to_vec()
    }

    fn queues(&self) -> u16 {
        queue::COUNT
    }

    /// What it may do is what its guest and programs of the host do to each other.
    fn can_be_limited(&self) -> bool {
        false
    }

    fn reset(&self) -> bool {
        self.reset_is_due.store(false, Relaxed);
        self.switch().clear();
        let inherited = self.inherited.swap(false, Relaxed);
        self.driven.swap(false, Relaxed) || inherited
    }

    fn started(&self) -> bool {
        if self.driven.swap(true, Relaxed) {
            return false;
        }
        let inherited = self.inherited.load(Relaxed);
        if inherited {
            self.switch().hold();
            self.reset_is_due.store(true, Relaxed);
        }
        !inherited
    }

    fn kept(&self) -> Option<Kept> {
        Some(Kept { version: KEPT_VERSION, state: vec![self.driven.load(Relaxed).into()] })
    }

    /// What is not understood is taken for a driver: one that has no connections loses none.
    fn restore(&self, kept: &Kept) -> bool {
        let understood = match (kept.version, kept.state.as_slice()) {
            (KEPT_VERSION, [0]) => Some(false),
            (KEPT_VERSION, [1]) => Some(true),
            _ => None,
        };
        self.inherited.store(understood.unwrap_or(true), Relaxed);
        understood.is_some()
    }

    fn service(self: &Arc<Self>, index: u16) -> Service {
        let device = Arc::clone(self);
        match index {
            queue::RX => Service::Arrivals(Box::new(Receive(device))),
            queue::TX => Service::Requests(Box::new(Transmit(device))),
            _ => Service::Arrivals(Box::new(Events(device))),
        }
    }
}

/// To the driver.
struct Receive(Arc<Vsock>);

impl Receiver for Receive {
    fn source(&self) -> BorrowedFd<'_> {
        self.0.host.source()
    }

    /// A packet has a buffer of its own.
    fn needs(&self, _features: u64) -> Needs {
        Needs { bytes: Header::SIZE, spread: false }
    }

    fn receive(&mut self, _features: u64, room: &Room<'_, '_>) -> Result<Arrival, &'static str> {
        self.0.switch().next(room)
    }
}

/// Of the driver.
struct Transmit(Arc<Vsock>);

impl Handler for Transmit {
    /// What is shorter than a header is no packet, and of nobody that could be answered.
    fn handle(
        &mut self,
        _features: u64,
        mut reader: Reader<'_, '_>,
        _writer: Writer<'_, '_>,
    ) -> Result<u32, &'static str> {
        let mut bytes = [0; Header::SIZE];
        if reader.read_exact(&mut bytes).is_ok() {
            self.0.switch().packet(Header::parse(&bytes), reader);
        }
        Ok(0)
    }

    fn refuse(&mut self, _writer: Writer<'_, '_>) -> Result<u32, &'static str> {
        Ok(0)
    }

    /// Of what an application sends without a copy (MSG_ZEROCOPY) parts may lie in persistent memory: its connection ends,
    /// for a stream has no gaps, and no other.
    fn refuse_outside(&mut self, request: Outside<'_, '_>) -> Result<u32, &'static str> {
        let (mut bytes, mut reader) = ([0; Header::SIZE], request.reader);
        if reader.read_exact(&mut bytes).is_ok() {
            self.0.switch().lose(Header::parse(&bytes));
        }
        Ok(0)
    }
}

/// The event queue: of its one event.
struct Events(Arc<Vsock>);

impl Receiver for Events {
    fn source(&self) -> BorrowedFd<'_> {
        self.0.never.as_fd()
    }

    fn needs(&self, _features: u64) -> Needs {
        Needs { bytes: TRANSPORT_RESET.len(), spread: false }
    }

    fn receive(&mut self, _features: u64, room: &Room<'_, '_>) -> Result<Arrival, &'static str> {
        if !self.0.reset_is_due.swap(false, Relaxed) {
            return Ok(Arrival::None);
        }
        room.writer().write_all(&TRANSPORT_RESET).map_err(|_| "a buffer for an event has no room for one")?;
        self.0.switch().release();
        Ok(Arrival::Received(TRANSPORT_RESET.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn vsock() -> (Vsock, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("vm")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let options = VsockOptions { cid: 0x1_0203, name: "vm".to_owned() };
        (Vsock::new(&options, listener.into()).unwrap(), folder)
    }

    #[test]
    fn a_driver_that_another_process_served_is_told_once() {
        let (first, _folder) = vsock();
        assert!(first.started() && !first.started(), "kept once");
        assert!(!first.reset_is_due.load(Relaxed), "it has nothing from before");
        let kept = first.kept().unwrap();
        let (second, _folder) = vsock();
        assert!(second.restore(&kept) && second.restore(&kept));
        assert!(!second.started() && second.reset_is_due.load(Relaxed));
        assert_eq!(second.kept(), Some(kept));
        assert!(second.reset(), "the driver is gone, and that is kept");
        assert!(!second.reset() && !second.reset_is_due.load(Relaxed));
        let (third, _folder) = vsock();
        assert!(third.restore(&second.kept().unwrap()) && third.started());
        assert!(!third.reset_is_due.load(Relaxed), "a new driver");
    }

    #[test]
    fn what_is_not_understood_is_a_driver() {
        for (version, state) in [(0, vec![0]), (2, vec![0]), (1, vec![]), (1, vec![2]), (1, vec![0; 2000])] {
            let (device, _folder) = vsock();
            assert!(!device.restore(&Kept { version, state }));
            assert!(!device.started() && device.reset_is_due.load(Relaxed));
        }
    }

    #[test]
    fn the_configuration_is_the_guests_identifier() {
        let (device, _folder) = vsock();
        assert_eq!(device.config(), [3, 2, 1, 0, 0, 0, 0, 0]);
        assert!(!device.write_config(0, &[1; 8]));
    }

    #[test]
    fn a_resource_that_does_not_listen_is_refused() {
        let options = VsockOptions { cid: 3, name: String::new() };
        let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let said = Vsock::new(&options, stream.into()).unwrap_err().to_string();
        assert!(said.contains("listens"), "{said}");
        let folder = tempfile::tempdir().unwrap();
        let blocking = UnixListener::bind(folder.path().join("vm")).unwrap();
        let said = Vsock::new(&options, blocking.into()).unwrap_err().to_string();
        assert!(said.contains("does not block"), "{said}");
    }
}
