//! How a guest ends its machine, and how the user does: the exit code, and nothing left.

use nix::sys::signal::Signal;
use system_tests::{Ended, Result, within};

use crate::guest::{Guest, UP};
use crate::house::{House, Who};
use crate::moments::{Step, Victim};
use crate::terminal::Terminal;

/// Runs a machine to its end; asserts that its guest ran and that nothing is left.
fn run(who: Who, guest: Guest) -> Result<Ended> {
    let house = House::new(who)?;
    let ended = house.start(guest, None)?.wait()?;
    house.check_left()?;
    assert!(ended.console.contains(&format!("@@{UP}\n")), "{}", ended.everything());
    Ok(ended)
}

#[test]
fn a_guest_that_powers_off_ends_well() -> Result<()> {
    let ended = run(Who::Caller, Guest::PowersOff)?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    Ok(())
}

#[test]
fn an_ordinary_user_runs_a_machine_with_every_layer() -> Result<()> {
    let ended = run(Who::OrdinaryUser, Guest::PowersOff)?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert!(!ended.log.contains("lacking"), "{}", ended.everything());
    Ok(())
}

#[test]
fn a_guest_that_resets_ends_with_the_code_for_it() -> Result<()> {
    let ended = run(Who::Caller, Guest::Resets)?;
    assert_eq!(ended.code(), Some(9), "{}", ended.everything());
    Ok(())
}

#[test]
fn a_triple_fault_ends_with_the_code_for_it_and_a_line() -> Result<()> {
    let ended = run(Who::Caller, Guest::Faults)?;
    assert_eq!(ended.code(), Some(10), "{}", ended.everything());
    assert!(
        ended.log.lines().any(|line| line.starts_with("vmm: the guest crashed")),
        "{}",
        ended.everything()
    );
    Ok(())
}

#[test]
fn the_terminal_is_raw_while_the_guest_runs_and_then_as_before() -> Result<()> {
    let house = House::new(Who::Caller)?;
    for guest in [Guest::PowersOff, Guest::Resets, Guest::Faults] {
        let terminal = Terminal::new();
        house.start(guest, Some(&terminal))?.wait()?;
        terminal.check_restored();
    }
    let terminal = Terminal::new();
    let running = house.start(Guest::Halts, Some(&terminal))?;
    running.wait_for(UP)?;
    assert!(terminal.is_raw());
    drop(running);
    house.check_left()
}

#[test]
fn a_signal_that_comes_twice_ends_a_machine_that_does_not_listen() -> Result<()> {
    let house = House::new(Who::Caller)?;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let terminal = Terminal::new();
        let running = house.start(Guest::Polls, Some(&terminal))?;
        Victim::Launcher.at(Step::Confined, &running)?;
        // One that comes before the first was read is the first: until it has had its effect, again.
        within("the end of vmm", || {
            running.signal(signal).ok();
            ended(running.pid()).then_some(())
        })?;
        let ended = running.wait()?;
        assert_eq!(ended.code(), Some(128 + signal as i32), "{}", ended.everything());
        terminal.check_restored();
        house.check_left()?;
    }
    Ok(())
}

/// Whether the child with this id has ended (it may wait for us to reap it).
fn ended(pid: i32) -> bool {
    let own = i32::try_from(std::process::id()).expect("a process id");
    !system_tests::children(own).iter().any(|child| child.pid == pid)
}
