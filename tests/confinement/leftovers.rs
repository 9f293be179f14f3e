//! What a machine that is gone could have left behind.
//!
//! The test's process is a subreaper: every process that a machine ever made is its child once the machine's
//! launcher is gone. When it has no child any more, none is left, however short-lived or well hidden.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use system_tests::{Result, within};

use crate::house::{House, Who};

/// Waits until every process is gone, and reaps it.
pub fn no_process() -> Result<()> {
    within("the end of every process of the machine", || {
        (waitpid(None, Some(WaitPidFlag::WNOHANG)) == Err(Errno::ECHILD)).then_some(())
    })
}

/// Asserts that the disk can be claimed as `vmm` claims it, for writing and at once.
pub fn no_lock(disk: &Path) {
    let file = File::options().read(true).write(true).open(disk).expect("the disk");
    let lock = libc::flock {
        l_type: i16::try_from(libc::F_WRLCK).expect("a small number"),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).expect("nobody has the disk any more");
}

/// Asserts that nothing but `known` names is in the folder: no socket, no temporary file.
pub fn no_file(folder: &Path, known: &[&str]) {
    let names = fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").file_name());
    let names: BTreeSet<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    let strange: Vec<&String> = names.iter().filter(|name| !known.contains(&name.as_str())).collect();
    assert!(strange.is_empty(), "left behind: {strange:?}");
}

#[test]
fn an_orphan_is_seen_until_it_is_gone() -> Result<()> {
    let house = House::new(Who::Caller)?;
    let output =
        Command::new("sh").args(["-c", "sleep 3600 < /dev/null > /dev/null 2>&1 & echo $!"]).output();
    let text = String::from_utf8(output.expect("a shell").stdout).expect("a number");
    let orphan = Pid::from_raw(text.trim().parse().expect("a number"));
    assert_eq!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive));
    kill(orphan, Signal::SIGKILL).expect("it is ours");
    house.check_left()
}
