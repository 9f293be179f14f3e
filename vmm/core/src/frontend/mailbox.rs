//! What vCPUs leave for the thread of a front end. Leaving something takes a mutex for a few instructions and wakes the
//! thread; nobody waits for an answer. Whatever a guest does, the size of it is bounded.

use crate::Error;
use crate::interrupts::SharedEventFd;
use crate::virtio_pci::Activation;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Configuration writes that may wait; a guest that writes faster than its back end takes them loses the rest.
pub const MAX_CONFIG_WRITES: usize = 64;

/// Work for the thread.
#[derive(Debug, Default)]
pub struct Work {
    /// Start the back end.
    pub activate: Option<Activation>,
    /// Stop the back end. What was to be done before is not.
    pub reset: bool,
    /// Offset and bytes of configuration writes.
    pub config_writes: Vec<(u16, Vec<u8>)>,
    /// Bit `n`: kick queue `n`.
    pub kicks: u64,
    /// What comes after a back end that was lost.
    pub succession: Option<Succession>,
    /// There will be no more.
    pub closed: bool,
}

/// What the launcher decided about the back end of a device.
#[derive(Debug)]
pub enum Succession {
    /// Another one, at the other end of this socket. The one before is dead.
    Successor(OwnedFd),
    /// Another one, at the other end of this socket, for one that serves.
    Replacement(OwnedFd),
    /// None: the device has failed.
    Abandoned,
}

/// See above.
#[derive(Debug)]
pub struct Mailbox {
    work: Mutex<Work>,
    // Never given to a back end, so nothing that is said of shared eventfds can happen to it.
    wake: SharedEventFd,
}

impl Mailbox {
    /// Empty.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { work: Mutex::default(), wake: SharedEventFd::new()? })
    }

    /// Readable when there is work.
    #[must_use]
    pub fn wake(&self) -> &SharedEventFd {
        &self.wake
    }

    /// Takes all the work there is.
    #[must_use]
    pub fn take(&self) -> Work {
        // Drained first: what is left meanwhile wakes again.
        let _ = self.wake.as_eventfd().read();
        let mut work = self.lock();
        let closed = work.closed;
        std::mem::replace(&mut work, Work { closed, ..Work::default() })
    }

    /// Start the back end.
    pub fn activate(&self, activation: Activation) {
        self.leave(|work| work.activate = Some(activation));
    }

    /// Stop the back end, then call [`crate::virtio_pci::Shared::reset_done`].
    pub fn reset(&self) {
        self.leave(|work| {
            let (succession, closed) = (work.succession.take(), work.closed);
            *work = Work { reset: true, succession, closed, ..Work::default() };
        });
    }

    /// A queue has work.
    pub fn kick(&self, queue: u16) {
        self.leave(|work| work.kicks |= 1_u64.checked_shl(queue.into()).unwrap_or(0));
    }

    /// The guest wrote its device's configuration.
    pub fn write_config(&self, offset: u16, data: Vec<u8>) {
        self.leave(|work| {
            if work.config_writes.len() < MAX_CONFIG_WRITES {
                work.config_writes.push((offset, data));
            }
        });
    }

    /// Whether there are configuration writes that the thread has not taken.
    #[must_use]
    pub fn has_config_writes(&self) -> bool {
        !self.lock().config_writes.is_empty()
    }

    /// The launcher has decided about a back end that is lost. Its last word counts.
    pub fn succeed(&self, succession: Succession) {
        self.leave(|work| work.succession = Some(succession));
    }

    /// End the thread.
    pub fn close(&self) {
        self.leave(|work| work.closed = true);
    }

    fn leave(&self, change: impl FnOnce(&mut Work)) {
        change(&mut self.lock());
        self.wake.signal_unshared();
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_empty(work: &Work) -> bool {
        work.activate.is_none()
            && !work.reset
            && work.config_writes.is_empty()
            && work.kicks == 0
            && work.succession.is_none()
            && !work.closed
    }

    #[test]
    fn a_reset_overtakes_and_writes_are_bounded() {
        let mailbox = Mailbox::new().unwrap();
        assert!(is_empty(&mailbox.take()));
        mailbox.activate(Activation { features: 1, rings: vec![] });
        for _ in 0..1000 {
            mailbox.write_config(0, vec![1]);
        }
        for queue in [0, 63, 64, 0xFFFF] {
            mailbox.kick(queue);
        }
        assert!(mailbox.wake().is_pending());
        let work = mailbox.take();
        assert_eq!((work.config_writes.len(), work.kicks), (64, 1 | 1 << 63));
        assert!(work.activate.is_some());
        assert!(!mailbox.wake().is_pending());

        mailbox.activate(Activation { features: 1, rings: vec![] });
        mailbox.succeed(Succession::Abandoned);
        mailbox.reset();
        let work = mailbox.take();
        assert!(work.reset && work.activate.is_none());
        assert!(matches!(work.succession, Some(Succession::Abandoned)), "it is not the guest's to undo");
        assert!(is_empty(&mailbox.take()));
    }
}
