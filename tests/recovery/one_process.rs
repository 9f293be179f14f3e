//! The one process of a device, killed over and over, each time a whole one.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::{Result, Running};

/// Longer than a process must have served for its death not to be counted with the one before, of which `vmm` takes ten in a
/// row: a second of its clock, which nothing tells of. A shorter wait ends the machine and with it the test.
pub const SETTLED: Duration = Duration::from_millis(1100);

/// Kills the process of `device`, which runs `program`, `moment` after it may die, and waits until its successor serves.
/// `death` is its number, from 1.
pub fn dies(running: &Running, program: &str, device: &str, death: usize, moment: Duration) -> Result<()> {
    std::thread::sleep(SETTLED.saturating_add(moment));
    killed(running, program, device, death)
}

/// Kills it at once, which has served for a while, and waits until its successor serves.
pub fn killed(running: &Running, program: &str, device: &str, death: usize) -> Result<()> {
    let pid = running.process(program)?;
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it lives");
    running.wait_for_log("the successor", |log| {
        (log.matches(&format!("vmm: device {device} serves again")).count() >= death).then_some(())
    })?;
    assert_ne!(running.process(program)?, pid);
    Ok(())
}
