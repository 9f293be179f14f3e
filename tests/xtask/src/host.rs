//! The host's own programs (`apt-get`, `dpkg-deb`, `xz`, `sha256sum`, …): run, checked, their last
//! words passed on when they fail.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::failure::{Failure, Outcome, Tried};

/// Runs `command` quietly and returns what it wrote on its standard output.
pub fn output_of(command: &mut Command) -> Outcome<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().tried(|| format!("cannot run {name}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(Failure::new(format!("{name} failed ({}): {last}", output.status)))
}

/// As [`output_of`], for programs that write text.
pub fn text_of(command: &mut Command) -> Outcome<String> {
    output_of(command).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The SHA-256 of a file, in lower-case hexadecimal.
pub fn sha256(file: &Path) -> Outcome<String> {
    let line = text_of(Command::new("sha256sum").arg("--binary").arg(file))?;
    // A name with a backslash or newline makes sha256sum put a backslash first; ours have neither.
    line.split_whitespace()
        .next()
        .filter(|sum| sum.len() == 64)
        .map(str::to_owned)
        .ok_or_else(|| Failure::new(format!("sha256sum said nothing about {}", file.display())))
}

/// Whether a program of this name is on the search path, or where those of administrators are.
pub fn has(program: &str) -> bool {
    std::env::split_paths(&administrators_path()).any(|folder| folder.join(program).is_file())
}

/// A program that may be one of administrators, which are not on the search path of everybody though everybody may use
/// them.
pub fn administrators(program: &str) -> Command {
    let mut command = Command::new(program);
    // Where a command has a path of its own, it is looked for there.
    command.env("PATH", administrators_path());
    command
}

fn administrators_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

/// Makes sure that the Debian packages behind `programs` (pairs of program and package) are there:
/// installs them when we are root, else says what to install.
pub fn need_programs(programs: &[(&str, &str)]) -> Outcome<()> {
    let missing: Vec<&str> =
        programs.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !has("apt-get") || !nix::unistd::geteuid().is_root() {
        return Err(Failure::new(format!(
            "missing on this host: {list}; install them (as root: apt-get install --no-install-recommends {list})"
        )));
    }
    crate::progress::step(&format!("installing {list}"));
    crate::artifacts::apt::Apt::host().refresh()?;
    output_of(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "--yes", "--quiet", "--no-install-recommends"])
            .args(&missing),
    )
    .map(drop)
}
