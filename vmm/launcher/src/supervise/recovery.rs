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

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::device::{Device, OnFailure};

/// A process that served for so long does not count among deaths in a row.
const SETTLED: Duration = Duration::from_secs(1);
/// So many deaths in a row are not survived.
const MOST: u32 = 10;
/// The second in a row waits so long, each later one twice as long as the one before.
const DELAY: Duration = Duration::from_millis(10);
const LONGEST_DELAY: Duration = Duration::from_secs(2);
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
    on_failure: OnFailure,
    step: Step,
    /// Deaths in a row.
    deaths: u32,
    /// When the machine lost it.
    lost: Option<Instant>,
    /// Whether the core has told of the loss.
    told: bool,
    /// Whether the core owes a word about the connection that it was offered.
    answer_due: bool,
    /// The core's end of the successor's connection.
    front_end: Option<OwnedFd>,
    /// Why its process is being ended.
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Since then.
    Serving(Instant),
    /// To be spawned then.
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
    /// The device has failed and the machine goes on.
    Fail,
    /// The machine ends; with why, where it is more than the death.
    Stop(String),
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// Ask for process number so and so.
    Spawn(usize),
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
        let recovery = |device: &Device| Recovery {
            name: device.name.clone(),
            slot: device.slot,
            process: device.back_end.program().and_then(|_| processes.next()),
            on_failure: device.on_failure,
            step: Step::Serving(Instant::now()),
            deaths: 0,
            lost: None,
            told: false,
            answer_due: false,
            front_end: None,
            reason: None,
        };
        devices.iter().map(recovery).collect()
    }

    /// Whether its end is not that of the machine.
    pub fn is_survivable(&self) -> bool {
        self.on_failure != OnFailure::Stop
    }

    /// Its process is ended for this reason.
    pub fn give_up_on_process(&mut self, reason: &str) {
        self.reason.get_or_insert_with(|| reason.to_owned());
    }

    /// How its process ended, and why if that is known.
    pub fn explain(&mut self, how: &str) -> String {
        match self.reason.take() {
            Some(reason) => format!("{how} ({reason})"),
            None => how.to_owned(),
        }
    }

    /// Its process has died, or could not be spawned.
    pub fn on_death(&mut self, now: Instant) -> Decision {
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
                Decision::Fail
            }
            OnFailure::Stop => Decision::Stop(String::new()),
            OnFailure::Restart if self.deaths > MOST => {
                self.step = Step::Over;
                Decision::Stop(format!(", after {MOST} others that served for less than a second"))
            }
            OnFailure::Restart => {
                self.step = Step::Waiting(now.checked_add(delay(self.deaths)).unwrap_or(now));
                Decision::Restart
            }
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

    /// The successor is ready.
    pub fn on_ready(&mut self) {
        if matches!(self.step, Step::Starting(_)) {
            self.step = Step::Ready;
        }
    }

    /// The connection to offer to the core, when it is time.
    pub fn offer(&mut self) -> Option<OwnedFd> {
        if self.step != Step::Ready || !self.told {
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

    /// Whether it cannot go on without another process.
    pub fn is_waiting(&self) -> bool {
        matches!(self.step, Step::Waiting(_) | Step::Spawning)
    }

    /// When there is something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self.step {
            Step::Waiting(at) | Step::Starting(at) => Some(at),
            _ => None,
        }
    }

    /// What there is to do at `now`.
    pub fn due(&mut self, now: Instant) -> Option<Due> {
        let process = self.process?;
        match self.step {
            Step::Waiting(at) if at <= now => {
                self.step = Step::Spawning;
                Some(Due::Spawn(process))
            }
            Step::Starting(at) if at <= now => {
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
mod tests {
    use super::*;

    fn disk(options: &str) -> Recovery {
        let words = [format!("blk,path=d{options}").parse().unwrap()];
        Recovery::of(&crate::device::devices(&words).unwrap()).remove(0)
    }

    fn connection() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn after(from: Instant, milliseconds: u64) -> Instant {
        from.checked_add(Duration::from_millis(milliseconds)).unwrap()
    }

    /// A whole recovery from a death at `now`.
    fn recover(recovery: &mut Recovery, now: Instant) {
        recovery.on_lost(now);
        assert_eq!(recovery.due(after(now, 10_000)), Some(Due::Spawn(0)));
        recovery.on_spawned(connection(), now);
        recovery.on_ready();
        assert!(recovery.offer().is_some());
        assert!(matches!(recovery.on_reconnected(now), TakenUp::Serves(_)));
    }

    #[test]
    fn processes_are_numbered_without_those_of_others() {
        let words = ["rng,socket=/r", "blk,path=a", "blk,socket=/s", "blk,path=b"];
        let words: Vec<_> = words.iter().map(|word| word.parse().unwrap()).collect();
        let all = Recovery::of(&crate::device::devices(&words).unwrap());
        assert_eq!(all.iter().map(|one| one.process).collect::<Vec<_>>(), [None, Some(0), None, Some(1)]);
        assert!(!all[0].is_survivable() && all[1].is_survivable());
    }

    #[test]
    fn a_successor_is_offered_once_the_loss_is_told_and_it_is_ready() {
        let start = Instant::now();
        for told_first in [true, false] {
            let mut disk = disk("");
            if told_first {
                assert!(disk.on_lost(start), "its process may live");
            }
            assert_eq!(disk.on_death(start), Decision::Restart);
            assert_eq!(disk.due(start), Some(Due::Spawn(0)), "the first at once");
            assert_eq!(disk.due(start), None);
            disk.on_spawned(connection(), start);
            assert!(disk.offer().is_none());
            disk.on_ready();
            if !told_first {
                assert!(disk.offer().is_none());
                assert!(!disk.on_lost(start), "that is the dead one, not its successor");
            }
            assert!(disk.offer().is_some());
            assert!(disk.offer().is_none());
            assert_eq!(disk.on_reconnected(after(start, 7)), TakenUp::Serves(Duration::from_millis(7)));
            assert_eq!(disk.on_reconnected(start), TakenUp::Unasked);
        }
    }

    #[test]
    fn a_successor_that_the_core_loses_is_ended_and_followed() {
        let start = Instant::now();
        let mut disk = disk("");
        disk.on_death(start);
        disk.on_lost(start);
        disk.due(start);
        disk.on_spawned(connection(), start);
        disk.on_ready();
        disk.offer();
        assert!(disk.on_lost(start));
        assert_eq!(disk.on_death(start), Decision::Restart);
        assert_eq!(disk.due(start), None, "the second in a row waits");
        recover(&mut disk, start);
    }

    #[test]
    fn a_successor_may_be_known_dead_before_the_core_says_that_it_took_it_up() {
        let start = Instant::now();
        for took_up in [true, false] {
            let mut disk = disk("");
            disk.on_death(start);
            disk.on_lost(start);
            disk.due(start);
            disk.on_spawned(connection(), start);
            disk.on_ready();
            assert!(disk.offer().is_some());
            assert_eq!(disk.on_death(start), Decision::Restart);
            if took_up {
                assert_eq!(disk.on_reconnected(start), TakenUp::TooLate);
            }
            assert!(!disk.on_lost(start), "its death is known");
            assert_eq!(disk.on_reconnected(start), TakenUp::Unasked);
            assert_eq!(disk.due(after(start, 10)), Some(Due::Spawn(0)));
            disk.on_spawned(connection(), start);
            disk.on_ready();
            assert!(disk.offer().is_some());
            assert_eq!(disk.on_reconnected(after(start, 9)), TakenUp::Serves(Duration::from_millis(9)));
        }
    }

    #[test]
    fn deaths_in_a_row_are_ever_slower_followed_and_then_not_at_all() {
        let start = Instant::now();
        let mut disk = disk("");
        let mut waits = Vec::new();
        while disk.on_death(start) == Decision::Restart {
            waits.push(disk.deadline().unwrap().duration_since(start).as_millis());
            recover(&mut disk, start);
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 320, 640, 1280, 2000]);
    }

    #[test]
    fn deaths_far_apart_are_not_in_a_row() {
        let mut now = Instant::now();
        let mut disk = disk("");
        for _ in 0..100 {
            now = after(now, 1000);
            assert_eq!(disk.on_death(now), Decision::Restart);
            assert_eq!(disk.deadline(), Some(now));
            recover(&mut disk, now);
        }
    }

    #[test]
    fn one_that_is_never_ready_is_ended() {
        let start = Instant::now();
        let mut disk = disk("");
        disk.on_death(start);
        disk.due(start);
        disk.on_spawned(connection(), start);
        assert_eq!(disk.due(after(start, 9_999)), None);
        assert_eq!(disk.due(after(start, 10_000)), Some(Due::Kill(0)));
        assert_eq!(disk.on_death(after(start, 10_001)), Decision::Restart);
    }

    #[test]
    fn what_the_user_said_is_what_a_death_means() {
        let now = Instant::now();
        assert_eq!(disk(",on-failure=fail").on_death(now), Decision::Fail);
        assert_eq!(disk(",on-failure=stop").on_death(now), Decision::Stop(String::new()));
    }
}
