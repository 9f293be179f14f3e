//! A device program that stops or dies while it is being handed what it serves.

use nix::sys::signal::Signal;
use system_tests::{Ended, Result, Running};

use crate::guest::{Guest, UP};
use crate::house::{House, Who};
use crate::moments::{Step, Victim};

/// How often a machine may be quicker than we are.
const ATTEMPTS: u32 = 20;

/// What becomes of a machine whose device got `signal` as soon as it was its program; `None` if the guest ran
/// already, so that the hand-over was over.
fn struck(house: &House, signal: Signal) -> Result<Option<Ended>> {
    let running: Running = house.start(Guest::Halts, None)?;
    let device = Victim::Device.at(Step::Executed, &running)?;
    Victim::Device.signal(device, signal);
    // Either comes: the guest's line, or the end of its console.
    if running.wait_for(UP).is_ok() {
        drop(running);
        house.check_left()?;
        return Ok(None);
    }
    let ended = running.wait()?;
    house.check_left()?;
    Ok(Some(ended))
}

fn in_the_hand_over(signal: Signal) -> Result<Ended> {
    let house = House::new(Who::Caller)?;
    for _ in 0..ATTEMPTS {
        if let Some(ended) = struck(&house, signal)? {
            return Ok(ended);
        }
    }
    panic!("{ATTEMPTS} times the guest ran before its device was struck");
}

#[test]
fn a_device_that_stops_in_the_hand_over_ends_the_machine() -> Result<()> {
    let ended = in_the_hand_over(Signal::SIGSTOP)?;
    assert_eq!(ended.code(), Some(7), "{}", ended.everything());
    assert!(ended.log.lines().any(|line| line.starts_with("vmm: ") && line.contains("blk0")));
    Ok(())
}

#[test]
fn a_device_that_dies_in_the_hand_over_ends_the_machine() -> Result<()> {
    let ended = in_the_hand_over(Signal::SIGKILL)?;
    assert_eq!(ended.code(), Some(7), "{}", ended.everything());
    let told = "vmm: device blk0 is lost: killed by SIGKILL";
    assert!(ended.log.lines().any(|line| line == told), "{}", ended.everything());
    Ok(())
}
