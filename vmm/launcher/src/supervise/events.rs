//! The epoll of the supervisor: which descriptor became ready, in words.

use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::Signals;
use crate::error::Error;
use crate::handover::Processes;
use crate::spawn::Process;

/// Something is ready; the numbers are those of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A signal has come.
    Signal,
    /// The spawner answers or is gone.
    Spawner,
    /// A client of the control socket connects.
    Listener,
    /// That one asks something or is gone.
    Client(u64),
    /// A control channel has a frame or is closed.
    Control(usize),
    /// A log has bytes or is closed.
    Log(usize),
    /// A process has ended.
    Ended(usize),
    /// The program of a user's network says something, or has ended.
    UserNetwork(usize),
}

/// Events that are taken at once.
const AT_ONCE: usize = 32;
/// Of each process: control, log, end. In this order within one wait: words before the end.
const KINDS: u64 = 3;
/// Beyond the numbers of all processes that there can be.
const SPAWNER: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;
const CLIENTS: u64 = 1 << 32;
const USER_NETWORKS: u64 = 1 << 31;

/// All sources of events.
#[derive(Debug)]
pub struct Events(Epoll);

impl Events {
    /// Watches the signals, the spawner and, of each process, its end, its control channel and its log.
    pub fn new(signals: &Signals, processes: &Processes) -> Result<Events, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(Error::system("make an epoll"))?;
        let events = Events(epoll);
        events.watch(signals, Event::Signal)?;
        if let Some(spawner) = &processes.spawner {
            events.watch(spawner, Event::Spawner)?;
        }
        for (index, process) in processes.all.iter().enumerate() {
            events.watch_process(index, process)?;
        }
        for (index, network) in processes.user_networks.iter().enumerate() {
            events.watch(&network.log, Event::UserNetwork(index))?;
            events.watch(&network.child, Event::UserNetwork(index))?;
        }
        Ok(events)
    }

    /// Watches a process that has this number now.
    pub fn watch_process(&self, index: usize, process: &Process) -> Result<(), Error> {
        if let Some(control) = process.control.as_ref() {
            self.watch(control, Event::Control(index))?;
        }
        self.watch(&process.log, Event::Log(index))?;
        self.watch(&process.child, Event::Ended(index))
    }

    /// Watches what is no process.
    pub fn watch(&self, source: &impl AsFd, event: Event) -> Result<(), Error> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, event.to_number());
        self.0.add(source, event).map_err(Error::system("add to the epoll"))
    }

    /// No more events of this source.
    pub fn forget(&self, source: &impl AsFd) {
        // That it was forgotten already is the one way to fail.
        let _ = self.0.delete(source);
    }

    /// What is ready, at most until `deadline`; nothing when that has passed.
    pub fn wait(&self, deadline: Option<Instant>) -> Result<Vec<Event>, Error> {
        let mut ready = [EpollEvent::empty(); AT_ONCE];
        loop {
            match self.0.wait(&mut ready, timeout(deadline)) {
                Ok(0) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => return Ok(Vec::new()),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(count) => {
                    let numbers = ready.iter().take(count).map(EpollEvent::data);
                    let mut events: Vec<Event> = numbers.map(Event::from_number).collect();
                    events.sort_by_key(Event::turn);
                    return Ok(events);
                }
                Err(errno) => return Err(Error::System { what: "wait for events", errno }),
            }
        }
    }
}

impl Event {
    /// Words come before the end, and a client that is gone makes room for one that comes.
    fn turn(&self) -> u8 {
        match self {
            Event::Ended(_) => 2,
            Event::Listener => 1,
            _ => 0,
        }
    }

    fn to_number(self) -> u64 {
        let number = |index: usize, kind: u64| {
            u64::try_from(index).unwrap_or(u64::MAX).saturating_mul(KINDS).saturating_add(kind)
        };
        match self {
            Event::Signal => 0,
            Event::Spawner => SPAWNER,
            Event::Listener => LISTENER,
            Event::Client(client) => CLIENTS.saturating_add(client),
            Event::Control(index) => number(index, 1),
            Event::Log(index) => number(index, 2),
            Event::Ended(index) => number(index, 3),
            Event::UserNetwork(index) => {
                USER_NETWORKS.saturating_add(u64::try_from(index).unwrap_or(u64::MAX))
            }
        }
    }

    fn from_number(number: u64) -> Event {
        match number {
            SPAWNER => return Event::Spawner,
            LISTENER => return Event::Listener,
            CLIENTS.. => return Event::Client(number.saturating_sub(CLIENTS)),
            USER_NETWORKS.. => {
                let index = number.saturating_sub(USER_NETWORKS);
                return Event::UserNetwork(usize::try_from(index).unwrap_or(usize::MAX));
            }
            _ => {}
        }
        let Some(number) = number.checked_sub(1) else { return Event::Signal };
        let index = usize::try_from(number / KINDS).unwrap_or(usize::MAX);
        match number % KINDS {
            0 => Event::Control(index),
            1 => Event::Log(index),
            _ => Event::Ended(index),
        }
    }
}

/// Milliseconds until then, rounded up so that the wait does not end just before.
fn timeout(deadline: Option<Instant>) -> EpollTimeout {
    let Some(deadline) = deadline else { return EpollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now());
    let milliseconds = left.as_micros().div_ceil(1000);
    EpollTimeout::try_from(i32::try_from(milliseconds).unwrap_or(i32::MAX)).unwrap_or(EpollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stands_for_one_event() {
        let mut events = vec![Event::Signal, Event::Spawner];
        for index in 0..40 {
            events.extend([Event::Control(index), Event::Log(index), Event::Ended(index)]);
            events.push(Event::UserNetwork(index));
        }
        let numbers: std::collections::BTreeSet<u64> = events.iter().map(|event| event.to_number()).collect();
        assert_eq!(numbers.len(), events.len());
        assert!(events.into_iter().all(|event| Event::from_number(event.to_number()) == event));
    }
}
