//! Each of the three programs killed, again and again, at random moments of start and of run: nothing stays
//! behind, and where the launcher survives, it says who died.

use std::time::Duration;

use nix::sys::signal::Signal;
use system_tests::{Ended, Result};

use crate::guest::Guest;
use crate::house::{House, Who};
use crate::moments::{Random, Step, Victim};
use crate::terminal::Terminal;

/// How often each program is killed.
const ROUNDS: u32 = 60;

/// What a start takes on a quick host; moments spread over it.
const START: Duration = Duration::from_millis(30);

/// Kills one program of one machine at one moment.
fn round(victim: Victim, house: &House, random: &mut Random) -> Result<()> {
    let step = random.choice(&Step::ALL);
    let guest = random.choice(&[Guest::Halts, Guest::Polls, Guest::KeepsDriving]);
    let terminal = (random.below(2) == 0).then(Terminal::new);
    let running = house.start_with(guest, terminal.as_ref(), options(victim))?;
    let pid = victim.at(step, &running)?;
    random.pause(START);
    victim.signal(pid, Signal::SIGKILL);
    let ended = running.wait()?;
    check(victim, step, &ended);
    // A launcher that is killed cannot put its terminal back: nobody can for it.
    if let Some(terminal) = terminal.filter(|_| victim != Victim::Launcher) {
        terminal.check_restored();
    }
    house.check_left()
}

/// A machine whose device dies would go on; and its spawner is a copy of the launcher as a program is before its exec,
/// which is not to be taken for one.
fn options(victim: Victim) -> &'static str {
    if victim == Victim::Launcher { "" } else { ",on-failure=stop" }
}

fn check(victim: Victim, step: Step, ended: &Ended) {
    let expected = match victim {
        Victim::Launcher => None,
        Victim::Core => Some(8),
        Victim::Device => Some(7),
    };
    assert_eq!(ended.code(), expected, "{victim:?} killed after {step:?}: {}", ended.everything());
    if victim != Victim::Launcher {
        let word = if victim == Victim::Core { "core" } else { "blk" };
        let named = ended.log.lines().any(|line| line.starts_with("vmm: ") && line.contains(word));
        assert!(named, "{victim:?} killed after {step:?}: {}", ended.everything());
    }
}

fn rounds(victim: Victim, who: Who) -> Result<()> {
    let house = House::new(who)?;
    let mut random = Random::announced();
    (0..ROUNDS).try_for_each(|_| round(victim, &house, &mut random))
}

#[test]
fn nothing_stays_when_the_launcher_is_killed() -> Result<()> {
    rounds(Victim::Launcher, Who::Caller)
}

#[test]
fn nothing_stays_when_the_core_is_killed() -> Result<()> {
    rounds(Victim::Core, Who::Caller)
}

#[test]
fn nothing_stays_when_a_device_is_killed() -> Result<()> {
    rounds(Victim::Device, Who::Caller)
}

#[test]
fn nothing_stays_of_an_ordinary_users_machine() -> Result<()> {
    let house = House::new(Who::OrdinaryUser)?;
    let mut random = Random::announced();
    for _ in 0..ROUNDS / 3 {
        for victim in Victim::ALL {
            // The node of a terminal is its owner's, who is not this user.
            let running = house.start_with(Guest::KeepsDriving, None, options(victim))?;
            let step = random.choice(&Step::ALL);
            let pid = victim.at(step, &running)?;
            random.pause(START);
            victim.signal(pid, Signal::SIGKILL);
            check(victim, step, &running.wait()?);
            house.check_left()?;
        }
    }
    Ok(())
}
