//! Who dies when, and of what: decided by a seed, so that a run can be had again.

use std::time::Duration;

use system_tests::pattern::Seeded;

use crate::causes::Cause;

/// One in so many deaths is the generator's.
const GENERATORS: usize = 10;
/// One in so many deaths is a standstill, the first among them: each takes the watchdog's half minute.
const STANDSTILLS: usize = 100;
/// Deaths between two words of how far it is.
const TOLD: usize = 20;
/// The longest that is waited from the moment when a device may die to its death.
const LONGEST_WAIT: usize = 400;

/// See above.
pub struct Plan {
    pub seed: u64,
    pub kills: usize,
    pub random: Seeded,
    /// Deaths of devices that are watched.
    watched: usize,
}

impl Plan {
    /// As the environment says, with `usual` deaths if it says nothing of them.
    pub fn of_environment(usual: usize) -> Self {
        let seed = variable("VMM_SEED").unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            u64::from(now.expect("a clock after 1970").subsec_nanos())
        });
        let kills = variable("VMM_KILLS").map_or(usual, |kills| usize::try_from(kills).expect("a number"));
        Self { seed, kills, random: Seeded::new(seed), watched: 0 }
    }

    /// Tells whoever watches how many there have been.
    pub fn tell(&self, death: usize) {
        if death.is_multiple_of(TOLD) {
            system_tests::progress(&format!("{death} of {} deaths (VMM_SEED={})", self.kills, self.seed));
        }
    }

    /// Whether the death of this number, from 1, is the generator's; the disks share the others.
    pub fn is_of_generator(&self, death: usize) -> bool {
        death.is_multiple_of(GENERATORS)
    }

    /// Of what the next one dies. One that is not watched, since nobody knows whether it has something to do, is never
    /// brought to a standstill.
    pub fn cause(&mut self, is_watched: bool) -> Cause {
        self.watched += usize::from(is_watched);
        if is_watched && self.watched % STANDSTILLS == 1 {
            return Cause::Standstill;
        }
        [Cause::Killed, Cause::Killed, Cause::Crash, Cause::Violation][self.random.below(4)]
    }

    /// How long after it could die.
    pub fn moment(&mut self) -> Duration {
        // Half of them strike at once, where the work of the start is not done yet.
        let milliseconds = self.random.below(LONGEST_WAIT) * self.random.below(2);
        Duration::from_millis(u64::try_from(milliseconds).expect("small"))
    }
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value}: it is a number")))
}
