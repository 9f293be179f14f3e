//! What becomes of a program whose spawner is killed: it must not outlive it.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sandbox_policies::{Program, Requirement, Stage};

use crate::driver::Probe;
use crate::probe::POSE;
use crate::raw::{call, own};
use crate::{Count, checked};

/// Argument 1 of this program when it runs itself as a spawner that is about to be killed.
pub const SPAWNER: &str = "--spawner";

/// Far longer than the kernel needs: only a failure waits this long. Milliseconds.
const PATIENCE: u16 = 20_000;

/// The only case of this module.
pub fn a_killed_spawner_takes_its_child_along(who: &str) -> Result<Count, String> {
    let mut count = Count::default();
    count.add(&format!("{who} a killed spawner takes its child along"), killed());
    Ok(count)
}

fn killed() -> Result<(), String> {
    let mut spawner = Command::new("/proc/self/exe")
        .arg0("escape")
        .arg(SPAWNER)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut line = String::new();
    let stdout = spawner.stdout.take().ok_or("no stdout")?;
    BufReader::new(stdout).read_line(&mut line).map_err(|error| error.to_string())?;
    let child: u64 = line.trim().parse().map_err(|_| format!("no pid but {line}"))?;
    let child = process(child)?;

    spawner.kill().and_then(|()| spawner.wait()).map_err(|error| error.to_string())?;
    let mut ends = [PollFd::new(child.as_fd(), PollFlags::POLLIN)];
    let ended = poll(&mut ends, PollTimeout::from(PATIENCE));
    checked(ended == Ok(1), &ended)
}

/// A pidfd, taken while the process surely lives, so that its number cannot have become another's.
fn process(pid: u64) -> Result<OwnedFd, String> {
    let pidfd = call(libc::SYS_pidfd_open, [pid, 0]).map_err(|errno| format!("pidfd_open: {errno}"))?;
    i32::try_from(pidfd).map(own).map_err(|error| error.to_string())
}

/// The spawner: says its child's pid, then waits to be killed.
pub fn here() -> Result<(), String> {
    let mut probe = Probe::start(Program::DeviceBlk, Stage::Serve, POSE, Requirement::Required)?;
    probe.confined()?;
    writeln!(std::io::stdout(), "{}", probe.child.pid()).map_err(|error| error.to_string())?;
    loop {
        thread::park();
    }
}
