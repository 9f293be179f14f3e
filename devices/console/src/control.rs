//! What all queues of a console share of what driver and device have told each other, and the two control queues.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use device_backend::{
    Arrival, Error, Handler, Keeper, Kept, Needs, Reader, Receiver, Room, Writer, log_line, take_event,
};
use nix::sys::eventfd::{EfdFlags, EventFd};
use protocol::ConsoleSize;

use crate::ports::{Description, Ports};
use crate::wire::Control;

/// Of [`Ports::kept`].
const KEPT_VERSION: u16 = 1;

/// See above.
#[derive(Debug)]
pub struct Shared {
    ports: Mutex<Ports>,
    /// Readable when the driver is to be told something, if it has control queues.
    news: Arc<EventFd>,
    /// By port: written when the driver has opened it.
    opened: Vec<Arc<EventFd>>,
    keeper: Keep,
}

/// Where what has changed is kept, if it is.
#[derive(Default)]
struct Keep(OnceLock<Keeper>);

impl std::fmt::Debug for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keep({})", self.0.get().is_some())
    }
}

impl Shared {
    /// Of ports as `described`.
    ///
    /// # Errors
    /// No descriptor is to be had.
    pub fn new(described: Vec<Description>, size: Option<ConsoleSize>) -> Result<Self, Error> {
        let opened = described.iter().map(|_| event()).collect::<Result<_, _>>()?;
        let ports = Mutex::new(Ports::new(described, size));
        Ok(Self { ports, news: event()?, opened, keeper: Keep::default() })
    }

    /// The console's size.
    pub fn size(&self) -> Option<ConsoleSize> {
        self.ports().size()
    }

    /// Whether one of the ports is a console.
    pub fn has_console(&self) -> bool {
        self.ports().has_console()
    }

    /// Whether what comes for a port is to be the driver's now.
    pub fn takes_input(&self, port: usize) -> bool {
        self.ports().takes_input(port)
    }

    /// How many ports there are.
    pub fn count(&self) -> usize {
        self.opened.len()
    }

    /// Readable when the driver has opened the port since it was taken.
    pub fn opened(&self, port: usize) -> Option<Arc<EventFd>> {
        self.opened.get(port).cloned()
    }

    /// See [`Ports::set_host_open`].
    pub fn set_host_open(&self, port: usize, open: bool) {
        self.change(|ports| ports.set_host_open(port, open));
    }

    /// See [`Ports::resize`].
    pub fn resize(&self, size: ConsoleSize) {
        self.change(|ports| ports.resize(size));
    }

    /// See [`Ports::reset`].
    pub fn reset(&self) {
        self.change(|ports| {
            ports.reset();
            true
        });
    }

    /// Where changes are kept from now on.
    pub fn keep_with(&self, keeper: Keeper) {
        // It is said once.
        let _ = self.keeper.0.set(keeper);
    }

    /// What outlives the process.
    pub fn kept(&self) -> Kept {
        Self::kept_of(&self.ports())
    }

    /// See [`Ports::restore`].
    pub fn restore(&self, kept: &Kept) -> bool {
        kept.version == KEPT_VERSION && self.ports().restore(&kept.state)
    }

    fn kept_of(ports: &Ports) -> Kept {
        Kept { version: KEPT_VERSION, state: ports.kept() }
    }

    /// A change by whatever thread is kept before anybody hears of it, and changes are kept in the order in which they are
    /// made: that is why it is not left to the library, which keeps what one thread changes.
    fn change(&self, change: impl FnOnce(&mut Ports) -> bool) {
        let mut ports = self.ports();
        if change(&mut ports) {
            self.note(&ports);
            drop(ports);
            self.tell();
        }
    }

    fn note(&self, ports: &Ports) {
        if let Some(Err(error)) = self.keeper.0.get().map(|keeper| keeper.keep(&Self::kept_of(ports))) {
            log_line(format_args!("what the driver was told cannot be kept: {error}"));
        }
    }

    fn tell(&self) {
        // A full counter has not been read yet.
        let _ = self.news.write(1);
    }

    fn heard(&self, control: Control) {
        self.change(|ports| ports.heard(control));
        let port = usize::try_from(control.id).unwrap_or(usize::MAX);
        if let Some(opened) = self.opened.get(port).filter(|_| self.takes_input(port)) {
            let _ = opened.write(1);
        }
    }

    fn next(&self, index: u16) -> Option<Vec<u8>> {
        let mut ports = self.ports();
        let message = ports.next(index)?;
        self.note(&ports);
        Some(message)
    }

    /// A panic ends the process, so a poisoned lock is never seen.
    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn event() -> Result<Arc<EventFd>, Error> {
    EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map(Arc::new)
        .map_err(|errno| Error::System { action: "create an eventfd", errno })
}

/// The control transmitq: what the driver says.
pub struct Hearing(pub Arc<Shared>);

impl Handler for Hearing {
    /// A message that is too short says nothing, and what is behind a message neither.
    fn handle(
        &mut self,
        _features: u64,
        mut reader: Reader<'_, '_>,
        _writer: Writer<'_, '_>,
    ) -> Result<u32, &'static str> {
        let mut bytes = [0; Control::SIZE];
        if reader.read_exact(&mut bytes).is_ok() {
            self.0.heard(Control::parse(bytes));
        }
        Ok(0)
    }

    fn refuse(&mut self, _writer: Writer<'_, '_>) -> Result<u32, &'static str> {
        Ok(0)
    }
}

/// The control receiveq: what the driver is told, a message at a time.
pub struct Telling {
    shared: Arc<Shared>,
    /// The last look gave a message, which becomes the driver's when nothing more comes: what is on its way is one message,
    /// so that a successor can tell whether it has arrived.
    told: bool,
}

impl Telling {
    /// Of the ports that `shared` has.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, told: false }
    }
}

impl Receiver for Telling {
    fn source(&self) -> BorrowedFd<'_> {
        self.shared.news.as_fd()
    }

    /// One byte is a message, and each has a buffer of its own.
    fn needs(&self, _features: u64) -> Needs {
        Needs { bytes: 1, spread: false }
    }

    fn receive(&mut self, _features: u64, room: &Room<'_, '_>) -> Result<Arrival, &'static str> {
        if std::mem::take(&mut self.told) {
            return Ok(Arrival::None);
        }
        // Before the look: news that come after it wake us again.
        take_event(&self.shared.news);
        let Some(message) = self.shared.next(room.index()) else { return Ok(Arrival::None) };
        if room.writer().write_all(&message).is_err() {
            return Err("a buffer is too small for a control message");
        }
        self.told = true;
        self.shared.tell();
        Ok(Arrival::Received(message.len()))
    }
}
