//! A device program of minor version 1 to 4 under today's launcher.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::old_peers::MINORS;
use system_tests::stand_ins::StandIns;
use system_tests::{Result, Running};

const STAND_IN: &str = env!("CARGO_BIN_EXE_stand-in");

/// The minor version that brought the words for limits.
const LIMITS_SINCE: u8 = 4;

fn launch(minor: u8, options: &str) -> Result<(StandIns, Running)> {
    let stand_ins = StandIns::of(Path::new(STAND_IN), &["vmm-core", "device-blk"])?;
    let running = stand_ins.start("idle", 1 << 20, &format!(",serial=minor-{minor},queues=2{options}"))?;
    Ok((stand_ins, running))
}

fn start(minor: u8) -> Result<(StandIns, Running)> {
    let (stand_ins, running) = launch(minor, "")?;
    running.wait_for_log("the machine", |log| log.contains("vmm: confined: ").then_some(()))?;
    Ok((stand_ins, running))
}

#[test]
fn a_device_of_an_older_minor_version_serves_under_todays_launcher_and_is_followed() -> Result<()> {
    MINORS.into_iter().try_for_each(serves)
}

fn serves(minor: u8) -> Result<()> {
    let (_stand_ins, running) = start(minor)?;
    let pid = running.process("device-blk")?;
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it lives");
    running.wait_for_log("the successor", |log| log.contains("blk0 serves again").then_some(()))?;
    running.signal(Signal::SIGUSR1)?;
    running.signal(Signal::SIGTERM)?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    // One that is told what it does not understand says so and ends, and that is another death.
    assert_eq!(ended.log.matches("device blk0 died: ").count(), 1, "{}", ended.log);
    assert!(!ended.log.contains("stand-in for"), "{}", ended.log);
    Ok(())
}

/// It would skip the words that it does not know, and serve without a limit.
#[test]
fn a_device_of_an_older_minor_version_is_given_no_limits_to_keep() -> Result<()> {
    for minor in MINORS.into_iter().filter(|minor| *minor < LIMITS_SINCE) {
        let (_stand_ins, running) = launch(minor, ",bandwidth=1M")?;
        let ended = running.wait()?;
        assert_eq!(ended.code(), Some(7), "{}", ended.everything());
        let said =
            format!("blk0: its program speaks version 1.{minor} of the hand-over, and limits need 1.4");
        assert!(ended.log.contains(&said), "{}", ended.log);
    }
    Ok(())
}

/// Nor in the place of one that keeps them, which goes on.
#[test]
fn a_device_of_an_older_minor_version_does_not_replace_one_that_has_limits() -> Result<()> {
    let stand_ins = StandIns::of(Path::new(STAND_IN), &["vmm-core"])?;
    let control = stand_ins.file("control");
    let arguments = [format!("--control-socket={}", control.display())];
    let running = stand_ins.start_with("idle", 1 << 20, ",serial=minor-3,bandwidth=1M", &arguments)?;
    running.wait_for_log("the machine", |log| log.contains("vmm: confined: ").then_some(()))?;
    let before = running.process("device-blk")?;
    let mut command = std::process::Command::new(stand_ins.file("vmm"));
    command.arg("ctl").arg(&control).args(["replace-device", "blk0", "--program", STAND_IN]);
    let refused = Running::start(command)?.wait()?;
    assert_eq!(refused.code(), Some(7), "{}", refused.everything());
    assert!(refused.log.contains("version 1.3 of the hand-over, and limits need 1.4"), "{}", refused.log);
    assert_eq!(running.process("device-blk")?, before);
    running.signal(Signal::SIGTERM)?;
    assert_eq!(running.wait()?.code(), Some(0));
    Ok(())
}

/// Nor what is older than `--sandbox-log` in a machine that has it, and whoever asked is told why.
#[test]
fn a_device_that_does_not_know_of_logging_does_not_replace_one_that_does() -> Result<()> {
    let stand_ins = StandIns::of(Path::new(STAND_IN), &["vmm-core"])?;
    let control = stand_ins.file("control");
    let arguments = [format!("--control-socket={}", control.display()), "--sandbox-log".to_owned()];
    let running = stand_ins.start_with("idle", 1 << 20, ",serial=minor-4", &arguments)?;
    running.wait_for_log("the machine", |log| log.contains("vmm: confined, but ").then_some(()))?;
    let mut command = std::process::Command::new(stand_ins.file("vmm"));
    command.arg("ctl").arg(&control).args(["replace-device", "blk0", "--program", STAND_IN]);
    let refused = Running::start(command)?.wait()?;
    assert_eq!(refused.code(), Some(7), "{}", refused.everything());
    assert!(refused.log.contains("older than --sandbox-log"), "{}", refused.log);
    assert_eq!(refused.log.lines().count(), 1, "{}", refused.log);
    running.signal(Signal::SIGTERM)?;
    let ended = running.wait()?;
    assert!(ended.log.contains("invalid option '--sandbox-log'"), "{}", ended.log);
    Ok(())
}
