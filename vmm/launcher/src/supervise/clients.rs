//! The clients of the control socket: `vmm ctl`, of the launcher's own user.
//!
//! They have a table of four requests and may be a few at once. A client that says anything else, or does not take its
//! answer, is hung up on; none is ever waited for.

use std::os::fd::OwnedFd;

use protocol::{
    Channel, DeviceStatus, Failure, FailureKind, FromLauncher, Phase, ProcessStatus, ReplaceDevice,
    ToLauncher, limits,
};
use sandbox_policies::{Program, refusals_are_logged};

use super::events::Event;
use super::{Asker, Events, State, Supervisor};
use crate::control_socket::ControlSocket;
use crate::error::Error;
use crate::user_network;

/// What the spawner is called among the processes.
const SPAWNER: &str = "vmm-spawner";
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
    /// Our own pid: the list of a confined launcher has no call that asks for it.
    pid: i32,
}

impl Clients {
    /// None yet; of this socket, if the machine has one.
    pub fn new(socket: Option<ControlSocket>) -> Clients {
        let pid = nix::unistd::getpid().as_raw();
        Clients { socket, all: Vec::new(), next: 0, waiting: Vec::new(), pid }
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
            Ok(Some((ToLauncher::Processes, _))) => {
                let processes = self.process_statuses();
                self.answer(client, &FromLauncher::Processes(processes));
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

    /// Those that live, ourselves first.
    fn process_statuses(&self) -> Vec<ProcessStatus> {
        // A state has 32 bytes; in more words it is a difference from what is promised.
        let logged = if refusals_are_logged() { ", only logged" } else { "" };
        let own = |name: &str, state: &str, pid| ProcessStatus {
            name: name.to_owned(),
            program: Program::Launcher.name().to_owned(),
            state: format!("{state}{logged}"),
            pid,
            // The spawner is confined before it hears anything, ourselves when all are ready.
            ready: name == SPAWNER || self.state != State::Starting,
            landlock_abi: if name == SPAWNER { 0 } else { self.landlock_abi },
        };
        let spawner = self.processes.spawner.as_ref().map(|spawner| own(SPAWNER, "spawner", spawner.pid()));
        let launcher = own(Program::Launcher.name(), "launcher", self.clients.pid);
        let living = self.processes.all.iter().enumerate().filter(|(_, process)| process.ended.is_none());
        let living = living.map(|(index, process)| ProcessStatus {
            name: process.name.clone(),
            program: process.program.name().to_owned(),
            state: format!("{}{logged}", self.state_of(index)),
            pid: process.child.pid(),
            ready: process.ready.is_some(),
            landlock_abi: process.ready.as_ref().map_or(0, |ready| ready.landlock_abi),
        });
        let networks = self.processes.user_networks.iter().filter(|network| !network.is_over());
        let networks = networks.map(|network| ProcessStatus {
            name: network.device.clone(),
            program: user_network::NAME.to_owned(),
            state: "its network".to_owned(),
            pid: network.child.pid(),
            ready: self.state != State::Starting,
            landlock_abi: 0,
        });
        [launcher]
            .into_iter()
            .chain(spawner)
            .chain(living)
            .chain(networks)
            .take(limits::MAX_PROCESSES)
            .collect()
    }

    fn state_of(&self, index: usize) -> &'static str {
        let Some(process) = self.processes.all.get(index) else { return "" };
        let device = self.devices.iter().find(|device| device.process == Some(index));
        match device {
            _ if process.dismissed.is_some() => "ending",
            _ if process.ready.is_none() => "starting",
            Some(device) => device.state(),
            None if process.program == Program::Core => "serving",
            None => "second",
        }
    }
}
