//! Each of the three programs killed, while the machine starts and while it runs: nothing stays behind.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::{Disk, Ended, Machine, Process, Result, Running, children, of_ours, within};

/// How often each program is killed during a start.
const ROUNDS: u64 = 6;

/// How `vmm` ends when one of the programs was killed.
const ENDS: [(&str, Option<i32>); 3] = [("vmm", None), ("vmm-core", Some(8)), ("device-blk", Some(7))];

/// A machine with this option of its disk does not survive it.
const ENDS_WITH_ITS_DISK: &str = ",on-failure=stop";

/// The process of `program` in this machine, as soon as there is one.
fn find(running: &Running, program: &str) -> Result<i32> {
    if program == "vmm" {
        return Ok(running.pid());
    }
    within(&format!("a process {program}"), || {
        // A child, or a child of a child that made its namespaces.
        let near = children(running.pid());
        let far: Vec<Process> = near.iter().flat_map(|process| children(process.pid)).collect();
        near.into_iter().chain(far).find(|process| process.name == program).map(|process| process.pid)
    })
}

fn strike(running: &Running, program: &str) -> Result<()> {
    // It may have ended in this very moment.
    let _ = kill(Pid::from_raw(find(running, program)?), Signal::SIGKILL);
    Ok(())
}

/// Waits until no process is left that was not there before.
fn nothing_is_left(before: &BTreeSet<Process>) -> Result<()> {
    within("the end of every process", || of_ours().is_subset(before).then_some(()))
}

fn check(program: &str, ended: &Ended) {
    let expected = ENDS.iter().find(|(name, _)| *name == program).and_then(|(_, code)| *code);
    assert_eq!(ended.code(), expected, "{program} was killed: {}", ended.everything());
}

/// The disk can be had again, so no lock was left, and a whole guest runs on it.
fn boots_again(disk: &Disk) -> Result<()> {
    let ended = Machine::new("hello").disk(disk.path(), "").run()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    Ok(())
}

#[test]
fn killed_at_any_moment_of_its_start_nothing_stays() -> Result<()> {
    let before = of_ours();
    let disk = Disk::empty(4 << 20)?;
    for (program, _) in ENDS {
        for round in 0..ROUNDS {
            let running = Machine::new("busy").disk(disk.path(), ENDS_WITH_ITS_DISK).start()?;
            find(&running, program)?;
            // Moments spread over a start, the first at once; a Weyl sequence is random enough.
            std::thread::sleep(Duration::from_millis((round * 619) % 1000 * u64::from(round > 0)));
            strike(&running, program)?;
            check(program, &running.wait()?);
            nothing_is_left(&before)?;
        }
    }
    boots_again(&disk)
}

#[test]
fn killed_while_the_guest_writes_nothing_stays() -> Result<()> {
    let before = of_ours();
    let disk = Disk::empty(4 << 20)?;
    for (program, _) in ENDS {
        let running = Machine::new("busy").disk(disk.path(), ENDS_WITH_ITS_DISK).start()?;
        running.wait_for("busy")?;
        strike(&running, program)?;
        check(program, &running.wait()?);
        nothing_is_left(&before)?;
    }
    boots_again(&disk)
}
