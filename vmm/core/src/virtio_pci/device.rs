//! A virtio-pci function with its descriptors: the pure [`Machine`] behind a mutex, and what its events move.
//!
//! The mutex is held for register accesses and the KVM calls they cause, never across a message to the back end.

use super::connections::Connections;
use super::doorbells::Doorbells;
use super::layout::{self, Area};
use super::machine::Machine;
use super::transport::Event;
use crate::frontend::{Mailbox, Succession, Worker};
use crate::pci::Touched;
use crate::pluggable_memory::PluggedSize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

struct Inner {
    machine: Machine,
    doorbells: Doorbells,
    connections: Connections,
    /// Of a device with memory to be plugged in.
    plugged: Option<PluggedSize>,
}

/// What vCPUs and the front end's thread share of one device.
pub struct Shared(Mutex<Inner>);

impl Shared {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        machine: Machine,
        doorbells: Doorbells,
        connections: Connections,
        plugged: Option<PluggedSize>,
    ) -> Self {
        Self(Mutex::new(Inner { machine, doorbells, connections, plugged }))
    }

    /// The back end has stopped: the guest's reset is done.
    pub fn reset_done(&self) {
        self.lock().machine.transport_mut().reset_done();
    }

    /// The device cannot go on, and its driver is told.
    pub fn fail(&self) {
        self.lock().fail();
    }

    /// The back end's configuration is this now. Not while the driver's writes wait in `mailbox` for their turn: what
    /// comes of those is shown when they have had it. They are put there with the lock held that is held here.
    pub fn set_config(&self, config: Vec<u8>, mailbox: &Mailbox) {
        let mut inner = self.lock();
        if !mailbox.has_config_writes() && inner.machine.transport_mut().set_config(config) {
            inner.connections.signal_config();
        }
    }

    /// From its next reset on the driver is offered no more than this.
    pub fn narrow_features(&self, features: u64) {
        self.lock().machine.transport_mut().narrow_features(features);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn fail(&mut self) {
        if self.machine.transport_mut().fail() {
            self.connections.signal_config();
        }
    }

    fn follow(&mut self) {
        if self.connections.follow(self.machine.transport()).is_err() {
            // KVM would not have it: an interrupt may be missing from here on.
            self.fail();
        }
    }

    fn apply(&mut self, event: Option<Event>, mailbox: &Mailbox) {
        match event {
            None => {}
            Some(Event::Activate(activation)) => mailbox.activate(activation),
            Some(Event::Reset) => {
                self.follow();
                mailbox.reset();
            }
            Some(Event::Notify(queue)) => mailbox.kick(queue),
            Some(Event::ConfigWrite { offset, data }) => mailbox.write_config(offset, data),
            Some(Event::Interrupts) => self.follow(),
            Some(Event::NeedsReset) => self.connections.signal_config(),
            Some(Event::Decode) => self.doorbells.move_to(self.machine.decoded().map(|bar| bar.start)),
        }
    }
}

/// One device on the PCI bus. Made by [`crate::frontend::attach`].
pub struct VirtioPciDevice {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    worker: Option<Worker>,
}

impl VirtioPciDevice {
    pub(crate) fn new(shared: Arc<Shared>, mailbox: Arc<Mailbox>, worker: Worker) -> Self {
        Self { shared, mailbox, worker: Some(worker) }
    }

    pub(crate) fn set_bar(&self, address: u64) {
        self.shared.lock().machine.set_bar(address);
    }

    pub(crate) fn take_worker(&mut self) -> Option<Worker> {
        self.worker.take()
    }

    /// What the launcher decided about its lost back end.
    pub(crate) fn succeed(&self, succession: Succession) {
        self.mailbox.succeed(succession);
    }

    pub(crate) fn config_read(&self, offset: usize, data: &mut [u8]) {
        let mut inner = self.shared.lock();
        // Which may read the device's configuration through the window.
        inner.show_plugged();
        inner.machine.config_read(offset, data);
    }

    pub(crate) fn config_write(&self, offset: usize, data: &[u8]) {
        let mut inner = self.shared.lock();
        let event = inner.machine.config_write(offset, data);
        inner.apply(event, &self.mailbox);
    }

    /// `None`: the BAR is not there.
    pub(crate) fn mmio_read(&self, address: u64, data: &mut [u8]) -> Option<Touched> {
        let mut inner = self.shared.lock();
        let offset = inner.offset(address)?;
        let (area, _) = layout::area(offset);
        if area == Area::MsixPba {
            let pending = inner.connections.pending();
            inner.machine.transport_mut().set_pending(pending);
        }
        if area == Area::DeviceConfig {
            inner.show_plugged();
        }
        inner.machine.bar_read(offset, data);
        Some(area.into())
    }

    /// `None`: the BAR is not there.
    pub(crate) fn mmio_write(&self, address: u64, data: &[u8]) -> Option<Touched> {
        let mut inner = self.shared.lock();
        let offset = inner.offset(address)?;
        let event = inner.machine.bar_write(offset, data);
        inner.apply(event, &self.mailbox);
        let (area, _) = layout::area(offset);
        Some(area.into())
    }
}

impl Inner {
    /// The configuration says what is plugged now.
    fn show_plugged(&mut self) {
        if let Some(plugged) = &self.plugged {
            self.machine.transport_mut().show_plugged(plugged.load());
        }
    }

    fn offset(&self, address: u64) -> Option<u64> {
        let bar = self.machine.decoded()?;
        bar.contains(&address).then(|| address.saturating_sub(bar.start))
    }
}

impl Drop for VirtioPciDevice {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

impl From<Area> for Touched {
    fn from(area: Area) -> Self {
        match area {
            Area::Common => Self::Common,
            Area::Isr => Self::Isr,
            Area::DeviceConfig => Self::DeviceConfig,
            Area::Notify => Self::Notify,
            Area::MsixTable | Area::MsixPba => Self::Msix,
            Area::Gap => Self::Gap,
        }
    }
}
