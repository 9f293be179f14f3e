//! The device's own state between its front end, which has it changed and read, and its keep, where it outlives this
//! process.
//!
//! While a predecessor may still serve, this process only looks: it answers a front end that asks for the configuration
//! with what the predecessor has kept, and what the resource has become. From its first ring, or the first change, the state is its own, and the keep is
//! written and read no more.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use protocol::Setting;

use crate::keep::Keeper;
use crate::{Device, Error, Inquiry, log};

/// See above.
pub(crate) struct DeviceState {
    device: Arc<dyn Device>,
    keep: Option<Keeper>,
    /// No predecessor changes it any more.
    own: bool,
    /// The front end has asked for the configuration.
    asked: bool,
    /// That what was kept is not understood has been said.
    complained: bool,
}

impl DeviceState {
    /// Of a device that has this keep, or none.
    pub(crate) fn new(device: Arc<dyn Device>, keep: Option<Keeper>) -> Self {
        Self { device, keep, own: false, asked: false, complained: false }
    }

    /// What the device offers.
    pub(crate) fn features(&self) -> u64 {
        self.device.features()
    }

    /// The configuration space as it is now.
    pub(crate) fn config(&mut self) -> Vec<u8> {
        self.look();
        if !self.own {
            self.asked = true;
            self.device.look_again();
        }
        self.device.config()
    }

    /// Whether there is a configuration.
    pub(crate) fn is_configurable(&self) -> bool {
        !self.device.config().is_empty()
    }

    /// From here on it is this process's. A front end that has asked for the configuration knows it as it was then, and one
    /// that never did builds on what the resource is now.
    pub(crate) fn take_over(&mut self) {
        self.look();
        if !self.own && !self.asked {
            self.device.look_again();
        }
        self.own = true;
    }

    /// A ring is about to be served. When this returns, what came of it is kept.
    pub(crate) fn started(&mut self) -> Result<(), Error> {
        self.take_over();
        let changed = self.device.started();
        self.store(changed)
    }

    /// The driver writes `data` at `offset`. When this returns, the change is kept.
    pub(crate) fn write_config(&mut self, offset: usize, data: &[u8]) -> Result<(), Error> {
        self.take_over();
        let size = self.device.config().len();
        if offset.checked_add(data.len()).is_some_and(|end| end <= size) {
            let changed = self.device.write_config(offset, data);
            self.store(changed)?;
        }
        Ok(())
    }

    /// Back to the state of a device that no driver has touched.
    pub(crate) fn reset(&mut self) -> Result<(), Error> {
        self.take_over();
        let changed = self.device.reset();
        self.store(changed)
    }

    /// The front end lets a ring be served, or no more.
    pub(crate) fn ring_enabled(&self, queue: u16, enabled: bool, features: u64) {
        self.device.ring_enabled(queue, enabled, features);
    }

    /// The user sets something. When this returns, what came of it is kept. The inner `Err` is why it was refused.
    pub(crate) fn set(&mut self, setting: Setting) -> Result<Result<(), String>, Error> {
        self.take_over();
        match self.device.set(setting) {
            Ok(changed) => self.store(changed).map(Ok),
            Err(refused) => Ok(Err(refused)),
        }
    }

    pub(crate) fn changes(&self) -> Option<BorrowedFd<'_>> {
        self.device.changes()
    }

    pub(crate) fn inquiry(&self) -> Option<&Inquiry> {
        self.device.inquiry()
    }

    /// The device's own, as they are now.
    pub(crate) fn numbers(&mut self) -> Vec<(&'static str, u64)> {
        self.look();
        self.device.numbers()
    }

    fn look(&mut self) {
        if self.own {
            return;
        }
        let Some(kept) = self.keep.as_ref().and_then(Keeper::read) else { return };
        if !self.device.restore(&kept) && !std::mem::replace(&mut self.complained, true) {
            log::line(format_args!(
                "what the process before this one kept (version {}, {} bytes) is not understood: the device's state \
                 begins anew",
                kept.version,
                kept.state.len()
            ));
        }
    }

    fn store(&self, changed: bool) -> Result<(), Error> {
        match (&self.keep, self.device.kept()) {
            (Some(keep), Some(kept)) if changed => keep.keep(&kept),
            _ => Ok(()),
        }
    }
}
