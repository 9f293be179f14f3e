//! How a device's program comes to serve its device: spawned, told once what it serves, connected to the core.
//!
//! The same for the first one and for each of its successors, so that a successor has the same resource and the same
//! confinement. A vhost-user socket pair has one end in the device and one in the core; nobody else keeps either, so
//! that the death of one is seen by the other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use protocol::{Channel, DeviceOptions, DeviceSetup, Message, Rates, ToDevice, take_no_descriptors};

use crate::error::Error;
use crate::spawn::{Parent, Spawned, Spawning};

/// What it takes to have a device served.
#[derive(Debug)]
pub struct DeviceProcess<'a> {
    /// The program.
    pub spawning: Spawning<'a>,
    /// What it is told.
    pub options: DeviceOptions,
    /// How much it may do in a second.
    pub rates: Rates,
    /// What it serves.
    pub resource: BorrowedFd<'a>,
    /// The rest of that, if it is more than one descriptor.
    pub more: Vec<BorrowedFd<'a>>,
}

impl DeviceProcess<'_> {
    /// The process, and the core's end of its vhost-user connection. `blamed`: one of the guest's requests may be why
    /// there is no predecessor any more.
    /// `program`: what to execute instead of the device's own.
    pub fn spawn(
        &self,
        parent: &mut impl Parent,
        blamed: bool,
        program: Option<BorrowedFd<'_>>,
    ) -> Result<(Spawned, OwnedFd), Error> {
        let name = self.spawning.name;
        let (front_end, back_end) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
                .map_err(Error::system("make a vhost-user socket pair"))?;
        // The core asks a back end for nothing that has any.
        take_no_descriptors(&front_end);
        let spawned = self.spawning.spawn(parent, program)?;
        let (own, options, rates) = (name.to_owned(), self.options.clone(), self.rates);
        let more = options.more();
        let setup = DeviceSetup { name: own, options, blamed, keep: true, rates };
        let fds = [back_end.as_fd(), self.resource];
        let mut told = tell(name, &spawned.1, &ToDevice::Setup(setup), &fds);
        // What does not know of it, an older program, says that it is ready before it stumbles over this.
        if told.is_ok() && more > 0 {
            told = tell(name, &spawned.1, &ToDevice::More(more), &self.more);
        }
        if let Err(error) = told {
            let _ = spawned.0.kill();
            parent.bury(spawned.0);
            return Err(error);
        }
        Ok((spawned, front_end))
    }
}

/// Sends one message. A peer that is dead already is no error here: how it died is seen and said by the supervisor.
pub fn tell<M: Message>(name: &str, to: &Channel, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
    match to.send(message, fds) {
        Err(protocol::Error::System {
            errno: nix::errno::Errno::EPIPE | nix::errno::Errno::ECONNRESET,
            ..
        }) => Ok(()),
        Err(error) => Err(Error::HandOver { name: name.to_owned(), error }),
        Ok(()) => Ok(()),
    }
}
