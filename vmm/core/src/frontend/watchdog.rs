//! Whether a back end still moves: a process that is stopped, spins or waits for ever keeps its connection, and only its
//! rings tell.
//!
//! A ring stands still while it holds requests and none is given back. That is looked at now and then, whatever the
//! load, so nothing is done for a request. It is no more than a hint: driver and back end write these indices as they
//! like, and all that a lie brings about is another process for the liar's own device, a bounded number of times.

use std::time::{Duration, Instant};

/// So long a ring may stand still. Disks of the host, remote ones too, have their own time limits below this.
pub const LIMIT: Duration = Duration::from_secs(30);
/// Time between two looks.
pub const TICK: Duration = Duration::from_secs(1);
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
pub struct Watchdog(Vec<Watched>);

#[derive(Debug)]
struct Watched {
    used: u16,
    since: Instant,
    hung: u8,
}

impl Watchdog {
    /// The rings are those of another driver.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// Another back end serves the same rings, from `now` on.
    pub fn restart(&mut self, now: Instant) {
        for ring in &mut self.0 {
            ring.since = now;
        }
    }

    /// Looks at all rings.
    pub fn look(&mut self, now: Instant, rings: impl Iterator<Item = Indices>) -> Look {
        let mut worst = Look::Well;
        for (place, (available, used)) in rings.enumerate() {
            if place >= self.0.len() {
                self.0.push(Watched { used, since: now, hung: 0 });
            }
            let Some(ring) = self.0.get_mut(place) else { continue };
            if available == used || used != ring.used {
                *ring = Watched { used, since: now, hung: 0 };
            } else if now.saturating_duration_since(ring.since) >= LIMIT {
                ring.since = now;
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

    fn after(from: Instant, limits: u32) -> Instant {
        from + LIMIT * limits
    }

    #[test]
    fn a_ring_without_requests_and_one_that_moves_are_well() {
        let start = Instant::now();
        let mut watchdog = Watchdog::default();
        for round in 0..10 {
            let used = u16::MAX.wrapping_add(u16::try_from(round).unwrap());
            let rings = [(7, 7), (used.wrapping_add(3), used)];
            assert_eq!(watchdog.look(after(start, round), rings.into_iter()), Look::Well);
        }
    }

    #[test]
    fn a_ring_that_stands_still_is_told_when_its_time_is_over() {
        let start = Instant::now();
        let mut watchdog = Watchdog::default();
        let rings = || [(7, 7), (5, 4)].into_iter();
        assert_eq!(watchdog.look(start, rings()), Look::Well);
        assert_eq!(watchdog.look(after(start, 1) - TICK, rings()), Look::Well);
        assert_eq!(watchdog.look(after(start, 1), rings()), Look::Hung);
    }

    #[test]
    fn another_back_end_has_its_own_time_and_not_for_ever() {
        let start = Instant::now();
        let mut watchdog = Watchdog::default();
        let stands = || [(5, 4)].into_iter();
        watchdog.look(start, stands());
        assert_eq!(watchdog.look(after(start, 1), stands()), Look::Hung);
        watchdog.restart(after(start, 5));
        assert_eq!(watchdog.look(after(start, 6) - TICK, stands()), Look::Well);
        assert_eq!(watchdog.look(after(start, 6), stands()), Look::Hung);
        watchdog.restart(after(start, 7));
        assert_eq!(watchdog.look(after(start, 8), stands()), Look::Hopeless);
        assert_eq!(watchdog.look(after(start, 9), stands()), Look::Well, "it is said once");
        // One request given back, and all is forgiven.
        assert_eq!(watchdog.look(after(start, 9), [(6, 5)].into_iter()), Look::Well);
        assert_eq!(watchdog.look(after(start, 10), [(6, 5)].into_iter()), Look::Hung);
        watchdog.forget();
        assert_eq!(watchdog.look(after(start, 20), stands()), Look::Well);
    }
}
