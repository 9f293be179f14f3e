//! The clients of the control socket: `vmm ctl`, of the launcher's own user.
//!
//! They have a table of four requests and may be a few at once. A client that says anything else, or does not take its
//! answer, is hung up on; none is ever waited for.

use std::os::fd::OwnedFd;

use protocol::{Channel, DeviceStatus, Failure, FailureKind, FromLauncher, Phase, ReplaceDevice, ToLauncher};

use super::events::Event;
use super::{Asker, Events, Supervisor};
use crate::control_socket::ControlSocket;
use crate::error::Error;

/// At once; more are hung up on.
const MOST: usize = 4;

/// See above.
#[derive(Debug)]
pub struct Clients {
    socket: Option<ControlSocket>,
    all: Vec<(u64, Channel)>,
    next: u64,
    /// Those who wait to hear how the devices are.
    waiting: Vec<u64>,
}

impl Clients {
    /// None yet; of this socket, if the machine has one.
    pub fn new(socket: Option<ControlSocket>) -> Clients {
        Clients { socket, all: Vec::new(), next: 0, waiting: Vec::new() }
    }

    /// Of those who are there.
    pub(super) fn numbers(&self) -> Vec<u64> {
        self.all.iter().map(|(number, _)| *number).collect()
    }

    /// Takes note of one who waits to hear how the devices are. Returns whether it did so before: there are never more than
    /// there are clients.
    pub(super) fn waits_already(&mut self, client: u64) -> bool {
        let waits = self.waiting.contains(&client);
        if !waits {
            self.waiting.push(client);
        }
        waits
    }

    pub(super) fn take_waiting(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.waiting)
    }

    /// Has new clients seen.
    pub fn watch(&self, events: &Events) -> Result<(), Error> {
        self.socket.as_ref().map_or(Ok(()), |socket| events.watch(socket, Event::Listener))
    }
}

impl Supervisor {
    /// Somebody connects.
    pub(super) fn on_client(&mut self) {
        let Some(channel) = self.clients.socket.as_ref().and_then(ControlSocket::accept) else { return };
        let number = self.clients.next;
        if self.clients.all.len() < MOST && self.events.watch(&channel, Event::Client(number)).is_ok() {
            self.clients.next = number.saturating_add(1);
            self.clients.all.push((number, channel));
        }
    }

    /// A client asks something or is gone.
    pub(super) fn on_request(&mut self, client: u64) {
        let Some((_, channel)) = self.clients.all.iter().find(|(number, _)| *number == client) else {
            return;
        };
        match channel.receive(Phase::Serving) {
            Ok(Some((ToLauncher::Devices, _))) => self.on_devices(client),
            Ok(Some((ToLauncher::Statistics(ask), _))) => {
                if let Err(why) = self.ask(client, &ask) {
                    self.answer(client, &FromLauncher::Failed(Failure::new(FailureKind::Device, &why)));
                }
            }
            Ok(Some((ToLauncher::Replace(replace), fds))) => self.on_replace(client, &replace, fds),
            Ok(Some((ToLauncher::Set(set), _))) => {
                if let Err(why) = self.set(Asker::Client(client), &set) {
                    self.answer(client, &FromLauncher::Failed(Failure::new(FailureKind::Device, &why)));
                }
            }
            Err(protocol::Error::WouldBlock) => {}
            Ok(None) | Err(_) => self.hang_up_on(client),
        }
    }

    fn on_replace(&mut self, client: u64, replace: &ReplaceDevice, fds: Vec<OwnedFd>) {
        if let Err(why) = self.replace(client, &replace.device, fds.into_iter().next()) {
            self.answer(client, &FromLauncher::Failed(Failure::new(FailureKind::Device, &why)));
        }
    }

    /// Answers a client, if it is still there.
    pub(super) fn answer(&mut self, client: u64, answer: &FromLauncher) {
        let Some((_, channel)) = self.clients.all.iter().find(|(number, _)| *number == client) else {
            return;
        };
        if channel.send(answer, &[]).is_err() {
            self.hang_up_on(client);
        }
    }

    pub(super) fn hang_up_on(&mut self, client: u64) {
        // Closing takes it out of the epoll: nobody else has a copy.
        self.clients.all.retain(|(number, _)| *number != client);
        self.clients.waiting.retain(|number| *number != client);
    }

    pub(super) fn device_statuses(&self) -> Vec<DeviceStatus> {
        let status = |device: &super::Recovery| {
            let process = device.process.and_then(|index| self.processes.all.get(index));
            let process = process.filter(|process| process.ended.is_none());
            DeviceStatus {
                name: device.name.clone(),
                state: device.state().to_owned(),
                pid: process.map_or(0, |process| process.child.pid()),
                deaths: device.tally.deaths(),
                restarts: device.tally.restarts(),
                longest_pause_ms: device.tally.longest_pause_ms(),
                balloon: process.and_then(|process| process.amount.known),
            }
        };
        self.devices.iter().map(status).collect()
    }
}
