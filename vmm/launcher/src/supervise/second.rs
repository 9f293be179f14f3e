//! A second process of a device, beside the one that serves it: it is to replace that one on purpose, or is a spare that
//! takes over when that one dies.
//!
//! ```text
//! Asked ──spawned──▶ Starting ──ready──▶ Offered ──the core took it up──▶ it is the device's process
//!                        └──ready, a spare──▶ Spare ──a death──▶ the same, offered as any successor
//! ```
//!
//! Until it is offered, whatever goes wrong with it ends it and nothing else. Once it is, the core owes one word, refused
//! or taken up, and only that says which of the two processes serves: it is awaited even if either has died meanwhile, and
//! no successor is offered before it.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::cause::End;

/// From the spawn until it is ready.
const START: Duration = Duration::from_secs(10);

/// See above.
#[derive(Debug)]
pub struct Second {
    /// The client who waits for the outcome; none, if it is a spare.
    pub client: Option<u64>,
    /// What it executes, if not the device's own program.
    pub program: Option<OwnedFd>,
    /// Its number among the processes, once it was spawned.
    pub process: Option<usize>,
    /// Why it is being ended.
    pub reason: Option<String>,
    /// How it ended, if that was before the core's word.
    pub ended: Option<End>,
    /// The number of the request that the spawner was sent for it.
    request: u64,
    step: Step,
    front_end: Option<OwnedFd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Of the spawner.
    Asked,
    /// It has until then to be ready.
    Starting(Instant),
    /// Ready, and nobody's yet.
    Spare,
    /// To the core, since then.
    Offered(Instant),
}

impl Second {
    /// One that the spawner was asked for.
    pub fn new(client: Option<u64>, program: Option<OwnedFd>, request: u64) -> Second {
        Second {
            client,
            program,
            process: None,
            reason: None,
            ended: None,
            request,
            step: Step::Asked,
            front_end: None,
        }
    }

    /// Whether the spawner owes it.
    pub fn is_awaited(&self) -> bool {
        self.step == Step::Asked
    }

    /// Whether it is what the spawner owes for this request, and not one that came to nothing before it was spawned.
    pub fn is_answer_to(&self, request: u64) -> bool {
        self.is_awaited() && self.request == request
    }

    /// It runs, as this process.
    pub fn on_spawned(&mut self, process: usize, front_end: OwnedFd, now: Instant) {
        self.process = Some(process);
        self.front_end = Some(front_end);
        self.step = Step::Starting(now.checked_add(START).unwrap_or(now));
    }

    /// It is ready: the connection to offer to the core.
    pub fn offer(&mut self, now: Instant) -> Option<OwnedFd> {
        let front_end = self.front_end.take()?;
        self.step = Step::Offered(now);
        Some(front_end)
    }

    /// A spare is ready.
    pub fn keep(&mut self) {
        if matches!(self.step, Step::Starting(_)) {
            self.step = Step::Spare;
        }
    }

    /// Whether it is a spare that is ready.
    pub fn can_take_over(&self) -> bool {
        self.step == Step::Spare && self.front_end.is_some()
    }

    /// The spare's process, and the connection to offer to the core.
    pub fn take_over(mut self) -> (Option<usize>, Option<OwnedFd>) {
        (self.process, self.front_end.take())
    }

    /// Since when the core owes its word.
    pub fn offered(&self) -> Option<Instant> {
        if let Step::Offered(since) = self.step { Some(since) } else { None }
    }

    /// When it is late.
    pub fn deadline(&self) -> Option<Instant> {
        if let Step::Starting(until) = self.step { Some(until) } else { None }
    }
}
