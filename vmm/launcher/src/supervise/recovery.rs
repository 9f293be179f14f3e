//! What becomes of a device whose back end is gone: the decisions, apart from the processes so that they can be tested.
//!
//! ```text
//! Serving ──death──▶ Waiting ──its time──▶ Spawning ──spawned──▶ Starting ──ready, loss told──▶ Offered ──▶ Serving
//!                       ▲                                            │ death                        │
//!                       └────────────────────────────────────────────┴──────────────────────────────┘
//! ```
//!
//! The core tells of each connection that it takes up and of each that it loses, once. A successor is offered to it only
//! when it has told of the predecessor's loss, so that each word of the core is about one connection and no other, and
//! only when the predecessor is reaped, so that nobody but the successor writes to guest memory for the device. A
//! successor may die before the word that the core took it up arrives: that word is then late, and no news.
//!
//! A back end that somebody else runs is connected to again instead, over and over until somebody listens at its socket,
//! and what takes the connection is ready. That its predecessor is dead nobody can tell; that it serves no more is what
//! taking another connection means for a back end, and the core closes the old one before it speaks on the new one.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::cause::Cause;
use super::device_event::Tally;
use super::second::Second;
use super::words::Words;
use crate::device::{Device, GiveUp, OnFailure};

/// A process that served for so long does not count among deaths in a row.
const SETTLED: Duration = Duration::from_secs(1);
/// So many deaths in a row are not survived.
const MOST: u32 = 10;
/// The second in a row waits so long, each later one twice as long as the one before.
const DELAY: Duration = Duration::from_millis(10);
const LONGEST_DELAY: Duration = Duration::from_secs(2);
/// The longest that somebody who listens again may have to wait for us.
const LONGEST_ABSENCE: Duration = Duration::from_secs(1);
/// From the spawn until a program is ready.
const START: Duration = Duration::from_secs(10);

/// One device, and where its recovery stands.
#[derive(Debug)]
pub struct Recovery {
    /// Its name.
    pub name: String,
    /// Its PCI device number.
    pub slot: u8,
    /// The number of its process, if it is one of ours.
    pub process: Option<usize>,
    /// The spawner's number of it, if it is one of ours.
    number: Option<u8>,
    /// What its process executes, if not what it was started with.
    pub program: Option<OwnedFd>,
    /// The newest of the words that its program has to know for what was asked of the device.
    pub words: Option<Words>,
    /// Whether it has the terminal on standard input.
    pub on_terminal: bool,
    /// Where its processes keep what outlives them, if they are ours.
    pub keep: Option<OwnedFd>,
    /// The process that is to replace the one that serves.
    pub second: Option<Second>,
    /// What its last process that was ready lacks, as it is said.
    pub lacking: Vec<String>,
    /// What has happened to it.
    pub tally: Tally,
    /// Whether a spare is to be there while it serves.
    spare: bool,
    on_failure: OnFailure,
    give_up: GiveUp,
    /// How long a back end of somebody else may be away.
    patience: Option<Duration>,
    step: Step,
    /// Deaths in a row.
    deaths: u32,
    /// How often nobody listened since somebody did.
    attempts: u32,
    /// When the machine lost it.
    lost: Option<Instant>,
    /// Whether the core has told of the loss.
    told: bool,
    /// Whether the core owes a word about the connection that it was offered.
    answer_due: bool,
    /// Whether it owes one about a second process that is not followed any more.
    choice_due: bool,
    /// The core's end of the successor's connection.
    front_end: Option<OwnedFd>,
    /// Why its process is being ended.
    reason: Option<Reason>,
    /// Whether a request may have ended the last process that the rings were given to.
    blamed: bool,
}

/// Why we end a process.
#[derive(Debug, PartialEq, Eq)]
pub struct Reason {
    /// One line.
    pub text: String,
    /// Whether it is that the process made no progress.
    pub hung: bool,
}

impl From<&str> for Reason {
    fn from(text: &str) -> Reason {
        Reason { text: text.to_owned(), hung: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Since then.
    Serving(Instant),
    /// To be spawned, or connected to, then.
    Waiting(Instant),
    /// The spawner was asked.
    Spawning,
    /// Not ready yet; it has until then.
    Starting(Instant),
    /// Ready; the core has yet to tell of the predecessor's loss.
    Ready,
    /// The core is setting it up.
    Offered,
    /// Given up.
    Over,
}

/// What a death means.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Another process will be spawned.
    Restart,
    /// The device has failed and the machine goes on; with why, where it is more than the death.
    Fail(String),
    /// The machine ends; with why, where it is more than the death.
    Stop(String),
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// Ask for a process of the spawner's number so and so, after a death for which a request may be to blame, or one for which none is.
    Spawn(u8, bool),
    /// Ask for a connection to the back end of the device in this slot.
    Connect(u8),
    /// End process number so and so, which is not ready in time.
    Kill(usize),
}

/// What the core's word means that it goes on with a successor.
#[derive(Debug, PartialEq, Eq)]
pub enum TakenUp {
    /// The device serves again, after so long.
    Serves(Duration),
    /// The successor has died meanwhile, which is known.
    TooLate,
    /// None was offered.
    Unasked,
}

impl Recovery {
    /// Of each device, in order of their PCI device numbers.
    pub fn of(devices: &[Device]) -> Vec<Recovery> {
        let mut processes = 0..;
        let recovery = |device: &Device, process: Option<usize>| Recovery {
            name: device.name.clone(),
            slot: device.slot,
            process,
            number: process.and_then(|process| u8::try_from(process).ok()),
            program: None,
            words: Words::of(device),
            on_terminal: device.is_on_stdio(),
            keep: None,
            second: None,
            lacking: Vec::new(),
            tally: Tally::default(),
            spare: device.spare,
            on_failure: device.on_failure,
            give_up: device.give_up,
            patience: device.patience,
            step: Step::Serving(Instant::now()),
            deaths: 0,
            attempts: 0,
            lost: None,
            told: false,
            answer_due: false,
            choice_due: false,
            front_end: None,
            reason: None,
            blamed: false,
        };
        let process = |device: &Device| device.back_end.program().and_then(|_| processes.next());
        let numbers: Vec<Option<usize>> = devices.iter().map(process).collect();
        devices.iter().zip(numbers).map(|(device, process)| recovery(device, process)).collect()
    }

    /// Whether its end is not that of the machine.
    pub fn is_survivable(&self) -> bool {
        self.on_failure != OnFailure::Stop
    }

    /// Whether a request may have ended the last process that had the rings.
    pub fn is_blamed(&self) -> bool {
        self.blamed
    }

    /// Its process is ended for this reason.
    pub fn give_up_on_process(&mut self, reason: Reason) {
        self.reason.get_or_insert(reason);
    }

    /// Why its process was to be ended, if it was.
    pub fn take_reason(&mut self) -> Option<Reason> {
        self.reason.take()
    }

    /// Its process has died, or could not be spawned.
    pub fn on_death(&mut self, cause: Cause, now: Instant) -> Decision {
        // One that never had the rings says nothing about the requests in them, and what its predecessor said still
        // holds.
        if matches!(self.step, Step::Serving(_) | Step::Offered) {
            self.blamed = cause.may_be_a_requests();
        }
        if let Step::Serving(since) = self.step {
            self.lost = Some(now);
            if now.saturating_duration_since(since) >= SETTLED {
                self.deaths = 0;
            }
        }
        self.front_end = None;
        self.deaths = self.deaths.saturating_add(1);
        match self.on_failure {
            OnFailure::Fail => {
                self.step = Step::Over;
                Decision::Fail(String::new())
            }
            OnFailure::Stop => Decision::Stop(String::new()),
            OnFailure::Restart if self.process.is_none() => self.reconnect(delay(self.deaths), now),
            OnFailure::Restart if self.deaths > MOST => {
                self.give_up(format!(", after {MOST} others that served for less than a second"))
            }
            // Not for the second in a row: a spare was started before it could be told whom a request may have ended.
            OnFailure::Restart
                if self.deaths == 1 && self.second.as_ref().is_some_and(Second::can_take_over) =>
            {
                if let Some(spare) = self.second.take() {
                    (self.process, self.front_end) = spare.take_over();
                }
                self.step = Step::Ready;
                Decision::Restart
            }
            OnFailure::Restart => {
                self.step = Step::Waiting(now.checked_add(delay(self.deaths)).unwrap_or(now));
                Decision::Restart
            }
        }
    }

    /// Nobody listens at the socket of its back end.
    pub fn on_not_connected(&mut self, now: Instant) -> Option<Decision> {
        if self.step != Step::Spawning {
            return None;
        }
        self.attempts = self.attempts.saturating_add(1);
        // The first has been at once.
        match self.reconnect(delay(self.attempts.saturating_add(1)), now) {
            Decision::Restart => None,
            over => Some(over),
        }
    }

    /// Connects after this time, or when there is no more patience after that if it comes before.
    fn reconnect(&mut self, delay: Duration, now: Instant) -> Decision {
        let last = self.patience.and_then(|patience| self.lost?.checked_add(patience));
        // One attempt at least, whatever the user's patience.
        let tried = self.attempts > 0 || self.lost != Some(now);
        if last.is_some_and(|last| last <= now) && tried {
            let seconds = self.patience.unwrap_or_default().as_secs();
            return self.give_up(format!("; it has not come back within {seconds} s"));
        }
        let next = now.checked_add(delay.min(LONGEST_ABSENCE)).unwrap_or(now);
        self.step = Step::Waiting(last.map_or(next, |last| next.min(last)));
        Decision::Restart
    }

    fn give_up(&mut self, why: String) -> Decision {
        self.step = Step::Over;
        match self.give_up {
            GiveUp::Fail => Decision::Fail(why),
            GiveUp::Stop => Decision::Stop(why),
        }
    }

    /// The core has lost a connection. Whether that is news: a process that lives must be ended then, for nothing is
    /// said to it any more.
    pub fn on_lost(&mut self, now: Instant) -> bool {
        self.told = true;
        self.answer_due = false;
        if matches!(self.step, Step::Serving(_)) {
            self.lost.get_or_insert(now);
        }
        matches!(self.step, Step::Serving(_) | Step::Offered)
    }

    /// A successor was spawned.
    pub fn on_spawned(&mut self, front_end: OwnedFd, now: Instant) {
        self.front_end = Some(front_end);
        self.step = Step::Starting(now.checked_add(START).unwrap_or(now));
    }

    /// Somebody took a connection.
    pub fn on_connected(&mut self, front_end: OwnedFd) {
        if self.step == Step::Spawning {
            self.attempts = 0;
            self.front_end = Some(front_end);
            self.step = Step::Ready;
        }
    }

    /// The successor is ready.
    pub fn on_ready(&mut self) {
        if matches!(self.step, Step::Starting(_)) {
            self.step = Step::Ready;
        }
    }

    /// The connection to offer to the core, when it is time.
    pub fn offer(&mut self) -> Option<OwnedFd> {
        if self.step != Step::Ready || !self.told || self.owes_a_choice() {
            return None;
        }
        let front_end = self.front_end.take()?;
        self.step = Step::Offered;
        self.told = false;
        self.answer_due = true;
        Some(front_end)
    }

    /// The core says that it goes on with the successor.
    pub fn on_reconnected(&mut self, now: Instant) -> TakenUp {
        if !std::mem::take(&mut self.answer_due) {
            return TakenUp::Unasked;
        }
        if self.step != Step::Offered {
            return TakenUp::TooLate;
        }
        self.step = Step::Serving(now);
        let lost = self.lost.take();
        TakenUp::Serves(lost.map_or(Duration::ZERO, |lost| now.saturating_duration_since(lost)))
    }

    /// Whether this is the spawner's number of it.
    pub fn is_number(&self, number: u8) -> bool {
        self.number == Some(number)
    }

    /// Whether the spawner was asked and its answer is still wanted.
    pub fn expects(&self) -> bool {
        self.step == Step::Spawning
    }

    /// Whether this is the number of one of its processes.
    pub fn has(&self, process: usize) -> bool {
        let second = self.second.as_ref().and_then(|second| second.process);
        self.process == Some(process) || second == Some(process)
    }

    /// The spawner's number of it, if its process can be replaced now.
    pub fn replaceable(&self) -> Result<u8, String> {
        let name = &self.name;
        match (self.number, self.step, self.replacement()) {
            (None, ..) => {
                Err(format!("device {name} is served by somebody else's back end; restart that one"))
            }
            (_, _, Some(_)) => Err(format!("device {name} is being replaced already")),
            (Some(number), Step::Serving(_), None) => Ok(number),
            _ => Err(format!("device {name} has no process that serves it now: it is {}", self.state())),
        }
    }

    /// The second process, if it is no spare.
    pub fn replacement(&self) -> Option<&Second> {
        self.second.as_ref().filter(|second| second.client.is_some())
    }

    /// Whether a spare is to be spawned now.
    pub fn wants_spare(&self) -> bool {
        self.spare && self.second.is_none() && matches!(self.step, Step::Serving(_))
    }

    /// The last spare is no more, for no good reason: there will be no other, for one that dies would be followed by the
    /// next for ever.
    pub fn renounce_spare(&mut self) {
        self.spare = false;
    }

    /// Whether the core was offered another process for the one that serves, and has yet to say which it has.
    pub fn owes_a_choice(&self) -> bool {
        self.second.as_ref().is_some_and(|second| second.offered().is_some())
    }

    /// Its second process is not to be followed any more. If the core has it to choose, its word will be no news.
    pub fn let_go_of_second(&mut self) -> Option<Second> {
        self.choice_due |= self.owes_a_choice();
        self.second.take()
    }

    /// The core has chosen. Whether that is about one that was let go of.
    pub fn has_chosen_too_late(&mut self) -> bool {
        std::mem::take(&mut self.choice_due)
    }

    /// The core has the second process: the device's from now on. Answers the old one, the second, and how long it took.
    pub fn on_replaced(&mut self, now: Instant) -> Option<(Option<usize>, Second, Duration)> {
        let mut second = self.second.take()?;
        let old = std::mem::replace(&mut self.process, second.process);
        self.program = second.program.take();
        self.step = Step::Serving(now);
        self.deaths = 0;
        // Of the old one nothing more is to be heard.
        (self.lost, self.told, self.reason, self.front_end) = (None, false, None, None);
        let since = second.offered().unwrap_or(now);
        Some((old, second, now.saturating_duration_since(since)))
    }

    /// How it does, in a word or two.
    pub fn state(&self) -> &'static str {
        match self.step {
            Step::Serving(_) if self.replacement().is_some() => "being replaced",
            Step::Serving(_) => "serving",
            Step::Over => "failed",
            _ if self.number.is_none() => "disconnected",
            _ => "being restarted",
        }
    }

    /// Whether it cannot go on without another process.
    pub fn is_waiting(&self) -> bool {
        matches!(self.step, Step::Waiting(_) | Step::Spawning)
    }

    /// When there is something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self.step {
            _ if self.owes_a_choice() => None,
            Step::Waiting(at) | Step::Starting(at) => Some(at),
            _ => self.second.as_ref().and_then(Second::deadline),
        }
    }

    /// What there is to do at `now`.
    pub fn due(&mut self, now: Instant) -> Option<Due> {
        match (self.step, self.process) {
            // Who serves is not known yet.
            _ if self.owes_a_choice() => None,
            (Step::Waiting(at), _) if at <= now => {
                self.step = Step::Spawning;
                Some(self.number.map_or(Due::Connect(self.slot), |number| Due::Spawn(number, self.blamed)))
            }
            (Step::Starting(at), Some(process)) if at <= now => {
                // Its end is a death as any other.
                self.step = Step::Spawning;
                Some(Due::Kill(process))
            }
            _ => None,
        }
    }
}

/// Before the successor of the death that is number `deaths` in a row.
fn delay(deaths: u32) -> Duration {
    let doublings = match deaths.checked_sub(2) {
        None => return Duration::ZERO,
        Some(doublings) => doublings,
    };
    DELAY.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests;
