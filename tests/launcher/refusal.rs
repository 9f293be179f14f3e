//! `vmm` refusing to run.

use std::ffi::OsStr;
use std::process::Command;

use system_tests::{Ended, Result, Running, program};

/// Exit codes as the launcher's table has them.
pub const USAGE: i32 = 2;
pub const RESOURCE: i32 = 3;
pub const KERNEL: i32 = 4;
pub const KVM: i32 = 5;

/// Runs `vmm` with `arguments` and asserts that it ends with `code`, one line on its standard error and
/// nothing on its standard output; returns the line.
pub fn refused(code: i32, arguments: &[impl AsRef<OsStr>]) -> Result<String> {
    let mut command = Command::new(program("vmm")?);
    command.args(arguments);
    refused_by(code, command)
}

/// The same for a prepared command.
pub fn refused_by(code: i32, command: Command) -> Result<String> {
    // The end of the pipes is waited for, too: a program left behind would hold them.
    let ended: Ended = Running::start(command)?.wait()?;
    assert_eq!(ended.code(), Some(code), "{}", ended.everything());
    assert_eq!(ended.console, "", "{}", ended.everything());
    let lines: Vec<&str> = ended.log.lines().collect();
    let [line] = lines.as_slice() else { panic!("not one line: {}", ended.everything()) };
    assert!(line.starts_with("vmm: "), "{line}");
    Ok((*line).to_owned())
}

/// Asserts that `line` says all of `parts`.
pub fn says(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "no {part:?} in: {line}");
    }
}
