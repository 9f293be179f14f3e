//! What the other threads have to tell the control loop: that the guest has ended the machine, that a back
//! end is lost or has a successor.

use crate::Error;
use crate::frontend::Connection;
use nix::sys::eventfd::{EfdFlags, EventFd};
use protocol::{Exit, Failure, FromCore};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How a vCPU came to its end.
#[derive(Debug)]
pub enum End {
    /// The guest has ended the machine.
    Guest(Exit),
    /// It can go on no more, and that is not the guest's doing.
    Failed(Error),
}

/// Notices that wait for the control loop. Bounded by what there is: one exit, and for each device one loss and one
/// more for each successor that the launcher sent.
#[derive(Debug)]
pub struct Notices {
    waiting: Mutex<Waiting>,
    event: EventFd,
}

/// What has been posted and not yet taken.
#[derive(Debug, Default)]
pub struct Waiting {
    /// How the machine ended: the first end of any vCPU, for later ones are of a machine that is no more.
    pub end: Option<FromCore>,
    /// What front ends say to the launcher, in order, each with a connection that is to be closed once it was said.
    pub of_devices: Vec<(FromCore, Option<Connection>)>,
}

impl Notices {
    /// None yet.
    ///
    /// # Errors
    /// No eventfd to be had.
    pub fn new() -> Result<Self, Error> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(Error::system("eventfd2"))?;
        Ok(Self { waiting: Mutex::default(), event })
    }

    /// A vCPU has come to its end, and the machine with it.
    pub fn end(&self, end: End) {
        let word = match end {
            End::Guest(exit) => FromCore::Exited(exit),
            End::Failed(error) => FromCore::Failed(Failure::new(error.kind(), &error.to_string())),
        };
        self.lock().end.get_or_insert(word);
        self.wake();
    }

    /// A front end has lost its back end, or has another in the place of that with this connection.
    pub fn of_device(&self, message: FromCore, closed_then: Option<Connection>) {
        self.lock().of_devices.push((message, closed_then));
        self.wake();
    }

    /// Readable when there is something to take.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// All that waits.
    pub fn take(&self) -> Waiting {
        // Before the lock: what is posted in between is taken now and found gone later.
        let _none = self.event.read();
        std::mem::take(&mut *self.lock())
    }

    fn wake(&self) {
        // An eventfd whose counter is full is as readable as one whose is not.
        let _full = self.event.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{DeviceLost, Reconnected};

    #[test]
    fn the_first_exit_counts_and_every_word_of_a_device() {
        let notices = Notices::new().unwrap();
        assert!(notices.event().read().is_err());
        notices.end(End::Guest(Exit::PowerOff));
        notices.end(End::Failed(Error::HandOver("later")));
        let words = [
            FromCore::DeviceLost(DeviceLost::new(1, "gone")),
            FromCore::Reconnected(Reconnected { slot: 1 }),
            FromCore::DeviceLost(DeviceLost::new(1, "gone again")),
        ];
        words.iter().cloned().for_each(|word| notices.of_device(word, None));
        let waiting = notices.take();
        assert_eq!(waiting.end, Some(FromCore::Exited(Exit::PowerOff)));
        assert!(waiting.of_devices.iter().map(|(word, _)| word).eq(&words));
        assert!(notices.event().read().is_err(), "taken");
        let none = notices.take();
        assert!(none.end.is_none() && none.of_devices.is_empty());
    }
}
