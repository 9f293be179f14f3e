//! The virtio console device (virtio 1.2, §5.3) with one port, which is the console: what it offers, and its two queues.
//!
//! Bytes go between the host's descriptor and guest memory without a copy here. What was acknowledged to the driver the
//! host has. A request in hand when a process of this device ends is written again from its beginning by the next one:
//! twice rather than not at all. Input that was read and is not the driver's yet is lost then, as a terminal may lose
//! it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use device_backend::{
    Arrival, Device, Error, Handler, Needs, Reader, Receiver, Room, Service, Writer, log_line,
};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use protocol::{ConsoleOptions, ConsoleSize};

use crate::host::{Host, Peer};
use crate::output::Output;
use crate::wire::{Config, feature, queue};

/// A console.
#[derive(Debug)]
pub struct Console {
    host: Arc<Host>,
    options: ConsoleOptions,
    /// Never to be read: what is waited for where no input can come.
    never: Arc<EventFd>,
}

impl Console {
    /// Serves `host` as `options` say.
    ///
    /// # Errors
    /// No descriptor is to be had.
    pub fn new(host: Host, options: ConsoleOptions) -> Result<Self, Error> {
        let never = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Error::System { action: "create an eventfd", errno })?;
        Ok(Self { host: Arc::new(host), options, never: Arc::new(never) })
    }
}

impl Device for Console {
    fn features(&self) -> u64 {
        if self.options.size.is_some() { feature::SIZE } else { 0 }
    }

    fn config(&self) -> Vec<u8> {
        let (cols, rows) = self.options.size.map_or((0, 0), |ConsoleSize { columns, rows }| (columns, rows));
        Config { cols, rows }.bytes()
    }

    fn queues(&self) -> u16 {
        queue::COUNT
    }

    fn service(self: &Arc<Self>, index: u16) -> Service {
        let host = Arc::clone(&self.host);
        if index == queue::RECEIVEQ {
            let never = Arc::clone(&self.never);
            Service::Arrivals(Box::new(Receive { host, peer: None, ended: false, never }))
        } else {
            Service::Requests(Box::new(Transmit(Output::new(host, self.options.file_limit))))
        }
    }
}

/// `receiveq`.
struct Receive {
    host: Arc<Host>,
    /// Who is waited for.
    peer: Option<Peer>,
    /// No input will come any more.
    ended: bool,
    never: Arc<EventFd>,
}

impl Receiver for Receive {
    fn source(&self) -> BorrowedFd<'_> {
        match (&self.peer, self.host.listener()) {
            (Some(peer), _) => peer.as_fd(),
            (None, Some(listener)) => listener,
            (None, None) => self.never.as_fd(),
        }
    }

    /// One byte is an arrival, and each has a buffer of its own.
    fn needs(&self, _features: u64) -> Needs {
        Needs { bytes: 1, spread: false }
    }

    /// Without end of input: a guest goes on writing when the host has nothing more to say.
    fn receive(&mut self, _features: u64, room: &Room<'_, '_>) -> Result<Arrival, &'static str> {
        if self.ended {
            return Ok(Arrival::None);
        }
        self.peer = self.host.writer();
        let Some(peer) = &self.peer else { return Ok(Arrival::None) };
        match room.writer().read_stream(peer) {
            Err(Errno::EAGAIN) => Ok(Arrival::None),
            Err(Errno::EINTR) => Ok(Arrival::Dropped),
            Ok(bytes) if bytes > 0 => Ok(Arrival::Received(bytes)),
            _ if self.host.hung_up(peer) => {
                self.peer = None;
                Ok(Arrival::Dropped)
            }
            ended => {
                self.ended = true;
                self.peer = None;
                let why = ended.err().map_or("its end", |errno: Errno| errno.desc());
                log_line(format_args!("no more input for the guest: {why}"));
                Ok(Arrival::None)
            }
        }
    }
}

/// `transmitq`.
struct Transmit(Output);

impl Handler for Transmit {
    fn begin_batch(&mut self) {
        self.0.begin_batch();
    }

    /// Passes it on or drops it: there is no answer that says which.
    fn handle(
        &mut self,
        _features: u64,
        reader: Reader<'_, '_>,
        _writer: Writer<'_, '_>,
    ) -> Result<u32, &'static str> {
        self.0.write(reader);
        Ok(0)
    }

    fn refuse(&mut self, _writer: Writer<'_, '_>) -> Result<u32, &'static str> {
        Ok(0)
    }
}
