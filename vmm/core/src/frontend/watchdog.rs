//! Whether a back end still moves: a process that is stopped, spins or waits for ever keeps its connection, and only its
//! rings tell.
//!
//! A ring stands still while it holds requests and none is given back. That is looked at now and then, whatever the
//! load, so nothing is done for a request. It is no more than a hint: driver and back end write these indices as they
//! like, and all that a lie brings about is another process for the liar's own device, a bounded number of times.
//!
//! Time counts only while somebody looks. When a look comes late the host was busy, the machine was frozen or its whole
//! control group was: the back end may have stood still with us, and had no more time than we.

use std::time::{Duration, Instant};

/// So long a ring may stand still. Disks of the host, remote ones too, have their own time limits below this.
pub const LIMIT: Duration = Duration::from_secs(30);
/// Time between two looks.
pub const TICK: Duration = Duration::from_secs(1);
/// The most that the time between two looks counts.
const MOST_OF_A_LOOK: Duration = TICK.saturating_mul(2);
/// So many back ends in a row may be ended without one having given back a request of the ring.
const MOST: u8 = 3;

/// Available and used index of a ring.
pub type Indices = (u16, u16);

/// What a look shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The rings move or have nothing to do.
    Well,
    /// One stands still: this back end will not do.
    Hung,
    /// No back end will do: what the driver asks for brings each of them to a stand. Said once.
    Hopeless,
}

/// See above.
#[derive(Debug, Default)]
pub struct Watchdog {
    rings: Vec<Watched>,
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Watched {
    used: u16,
    /// For so long, of the time that counts.
    still: Duration,
    hung: u8,
}

impl Watchdog {
    /// The rings are those of another driver.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Another back end serves the same rings, from `now` on.
    pub fn restart(&mut self, now: Instant) {
        self.looked = Some(now);
        for ring in &mut self.rings {
            ring.still = Duration::ZERO;
        }
    }

    /// Looks at all rings.
    pub fn look(&mut self, now: Instant, rings: impl Iterator<Item = Indices>) -> Look {
        let before = self.looked.replace(now).unwrap_or(now);
        let passed = now.saturating_duration_since(before).min(MOST_OF_A_LOOK);
        let mut worst = Look::Well;
        for (place, (available, used)) in rings.enumerate() {
            if place >= self.rings.len() {
                self.rings.push(Watched { used, still: Duration::ZERO, hung: 0 });
                continue;
            }
            let Some(ring) = self.rings.get_mut(place) else { continue };
            if available == used || used != ring.used {
                *ring = Watched { used, still: Duration::ZERO, hung: 0 };
                continue;
            }
            ring.still = ring.still.saturating_add(passed);
            if ring.still >= LIMIT {
                ring.still = Duration::ZERO;
                ring.hung = ring.hung.saturating_add(1);
                worst = match ring.hung {
                    hung if hung < MOST => Look::Hung,
                    MOST => return Look::Hopeless,
                    _ => worst,
                };
            }
        }
        worst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A watchdog that looks each second.
    struct Clock {
        watchdog: Watchdog,
        now: Instant,
    }

    impl Clock {
        fn new() -> Self {
            Self { watchdog: Watchdog::default(), now: Instant::now() }
        }

        fn look(&mut self, rings: &[Indices]) -> Look {
            self.now += TICK;
            self.watchdog.look(self.now, rings.iter().copied())
        }

        /// The first look that shows something, and how many it took; at most as many as fill the limit and one.
        fn watch(&mut self, rings: &[Indices]) -> (u64, Look) {
            let most = LIMIT.as_secs() + 1;
            let mut looks = (1..=most).map(|count| (count, self.look(rings)));
            looks.find(|(_, look)| *look != Look::Well).unwrap_or((most, Look::Well))
        }
    }

    const STANDS: [Indices; 2] = [(7, 7), (5, 4)];

    #[test]
    fn a_ring_without_requests_and_one_that_moves_are_well() {
        let mut clock = Clock::new();
        for round in 0..100 {
            let used = u16::MAX.wrapping_add(round);
            assert_eq!(clock.look(&[(7, 7), (used.wrapping_add(3), used)]), Look::Well);
        }
    }

    #[test]
    fn a_ring_that_stands_still_is_told_when_its_time_is_over() {
        let mut clock = Clock::new();
        // The first look is where its time begins.
        assert_eq!(clock.watch(&STANDS), (LIMIT.as_secs() + 1, Look::Hung));
    }

    #[test]
    fn time_in_which_nobody_looked_is_not_held_against_it() {
        let mut clock = Clock::new();
        clock.look(&STANDS);
        // Frozen for an hour, again and again, with nothing in between.
        for _ in 0..LIMIT.as_secs() / MOST_OF_A_LOOK.as_secs() - 1 {
            clock.now += LIMIT * 120;
            assert_eq!(clock.look(&STANDS), Look::Well);
        }
        clock.now += LIMIT * 120;
        assert_eq!(clock.look(&STANDS), Look::Hung, "it does count");
    }

    #[test]
    fn another_back_end_has_its_own_time_and_not_for_ever() {
        let mut clock = Clock::new();
        assert_eq!(clock.watch(&STANDS).1, Look::Hung);
        clock.look(&STANDS);
        clock.watchdog.restart(clock.now);
        assert_eq!(clock.watch(&STANDS), (LIMIT.as_secs(), Look::Hung));
        clock.watchdog.restart(clock.now);
        assert_eq!(clock.watch(&STANDS), (LIMIT.as_secs(), Look::Hopeless));
        assert_eq!(clock.watch(&STANDS).1, Look::Well, "it is said once");
        // One request given back, and all is forgiven.
        assert_eq!(clock.look(&[(7, 7), (6, 5)]), Look::Well);
        assert_eq!(clock.watch(&[(7, 7), (6, 5)]), (LIMIT.as_secs(), Look::Hung));
        clock.watchdog.forget();
        assert_eq!(clock.watch(&STANDS), (LIMIT.as_secs() + 1, Look::Hung));
    }
}
