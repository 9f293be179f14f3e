//! The two data queues of one port.
//!
//! Bytes go between the host's descriptor and guest memory without a copy here. What was acknowledged to the driver the
//! host has. A request in hand when a process of this device ends is written again from its beginning by the next one:
//! twice rather than not at all. Input that was read and is not the driver's yet is lost then, as a terminal may lose
//! it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use device_backend::{Arrival, Error, Handler, Needs, Reader, Receiver, Room, Writer, log_line, take_event};
use nix::errno::Errno;
use nix::sys::eventfd::EventFd;

use crate::control::Shared;
use crate::host::{Host, Peer};
use crate::output::Output;
use crate::wire::feature;

/// What the two have in common.
#[derive(Debug, Clone)]
pub struct Port {
    /// Its number.
    pub number: usize,
    /// The host's side.
    pub host: Arc<Host>,
    /// What the driver said of it, and is told.
    pub shared: Arc<Shared>,
    /// Readable when the driver has opened it.
    pub opened: Arc<EventFd>,
}

impl Port {
    /// Port `number` on `resource`.
    ///
    /// # Errors
    /// It cannot be used, or no descriptor is to be had.
    pub fn new(number: usize, resource: OwnedFd, shared: &Arc<Shared>) -> Result<Self, Error> {
        let (host, shared) = (Arc::new(Host::new(resource)?), Arc::clone(shared));
        let opened = shared.opened(number).ok_or(Error::DeviceType)?;
        let port = Self { number, host, shared, opened };
        port.note_host();
        Ok(port)
    }

    /// The driver is to know whether there is somebody to speak to.
    fn note_host(&self) {
        self.shared.set_host_open(self.number, self.host.reader().is_some());
    }
}

/// What is waited for.
enum Awaited {
    /// The driver, to open the port, or nothing: where no input can come nobody looks at what it opened.
    Opening,
    /// Whoever connects.
    Client,
    /// What this one says.
    Input(Peer),
}

/// The receiveq.
pub struct Receive {
    port: Port,
    awaited: Awaited,
    /// No input will come any more.
    ended: bool,
}

impl Receive {
    /// For the driver of `port`.
    pub fn new(port: Port) -> Self {
        Self { port, awaited: Awaited::Opening, ended: false }
    }

    /// Waits for the driver to open the port. What it opened before this look is looked at no more.
    fn wait_for_opening(&mut self) {
        self.awaited = Awaited::Opening;
        take_event(&self.port.opened);
    }

    fn takes_input(&self) -> bool {
        self.port.shared.takes_input(self.port.number)
    }

    /// Whose input is to be read now; if nobody's, what is to be waited for is noted.
    fn speaker(&mut self, features: u64) -> Option<Peer> {
        let peer = self.port.host.writer().filter(|_| !self.ended);
        self.port.note_host();
        let Some(peer) = peer else {
            if self.port.host.listener().is_some() {
                self.awaited = Awaited::Client;
            } else {
                self.wait_for_opening();
            }
            return None;
        };
        if features & feature::MULTIPORT != 0 && !self.takes_input() {
            self.wait_for_opening();
            // It may have opened it between the two looks.
            if !self.takes_input() {
                return None;
            }
        }
        self.awaited = Awaited::Input(Arc::clone(&peer));
        Some(peer)
    }
}

impl Receiver for Receive {
    fn source(&self) -> BorrowedFd<'_> {
        match (&self.awaited, self.port.host.listener()) {
            (Awaited::Input(peer), _) => peer.as_fd(),
            (Awaited::Client, Some(listener)) => listener,
            (Awaited::Client | Awaited::Opening, _) => self.port.opened.as_fd(),
        }
    }

    /// One byte is an arrival, and each has a buffer of its own.
    fn needs(&self, _features: u64) -> Needs {
        Needs { bytes: 1, spread: false }
    }

    /// Without end of input: a guest goes on writing when the host has nothing more to say.
    fn receive(&mut self, features: u64, room: &Room<'_, '_>) -> Result<Arrival, &'static str> {
        let Some(peer) = self.speaker(features) else { return Ok(Arrival::None) };
        match room.writer().read_stream(&peer) {
            Err(Errno::EAGAIN) => Ok(Arrival::None),
            Err(Errno::EINTR) => Ok(Arrival::Dropped),
            Ok(bytes) if bytes > 0 => Ok(Arrival::Received(bytes)),
            _ if self.port.host.hung_up(&peer) => Ok(Arrival::Dropped),
            ended => {
                self.ended = true;
                let why = ended.err().map_or("its end", |errno: Errno| errno.desc());
                log_line(format_args!("no more input for the guest: {why}"));
                // What is to be waited for from now on.
                Ok(Arrival::Dropped)
            }
        }
    }
}

/// The transmitq.
pub struct Transmit {
    port: Port,
    output: Output,
}

impl Transmit {
    /// Of `port`, whose file may grow to `file_limit` bytes.
    pub fn new(port: Port, file_limit: Option<u64>) -> Self {
        let output = Output::new(Arc::clone(&port.host), file_limit);
        Self { port, output }
    }
}

impl Handler for Transmit {
    fn begin_batch(&mut self) {
        self.output.begin_batch();
    }

    /// Passes it on or drops it: there is no answer that says which.
    fn handle(
        &mut self,
        _features: u64,
        reader: Reader<'_, '_>,
        _writer: Writer<'_, '_>,
    ) -> Result<u32, &'static str> {
        self.output.write(reader);
        self.port.note_host();
        Ok(0)
    }

    fn refuse(&mut self, _writer: Writer<'_, '_>) -> Result<u32, &'static str> {
        Ok(0)
    }
}
