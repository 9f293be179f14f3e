//! Escapes, tried from inside the real confinement, and the posture of processes that stand in it.
//!
//! This program is driver and probe in one: it spawns itself, by [`sandbox_policies::spawn`] and with the
//! hand-over of a real program, once for each attempt. Run by root it does all of it twice, the second time
//! as an ordinary user. It has its own `main` because a probe must not run a test harness's.
#![expect(clippy::arithmetic_side_effects, reason = "it counts its own cases")]

mod attempts;
mod directory;
mod driver;
mod expectations;
mod orphan;
mod posture;
mod probe;
mod raw;
mod spawning;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use nix::unistd::geteuid;

/// Argument 1 of this program when it runs itself as an ordinary user.
const AS_USER: &str = "--as-user";

/// Who that is: nobody.
const USER: u32 = 65534;

/// Passed and failed.
#[derive(Clone, Copy, Default)]
pub struct Count {
    passed: usize,
    failed: usize,
}

impl Count {
    /// Counts one result and prints it when it failed.
    pub fn add(&mut self, name: &str, result: Result<(), String>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(why) => {
                self.failed += 1;
                println!("FAILED {name}: {why}");
            }
        }
    }

    fn join(self, other: Self) -> Self {
        Self { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.first().is_some_and(|name| name == probe::NAME) {
        probe::run(&arguments);
    }
    if arguments.first().is_some_and(|name| name == directory::NAME) {
        return if directory::probe(&arguments) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let errand = match arguments.as_slice() {
        [_, option, kinds] if option == spawning::LACKING => Some(spawning::here(kinds)),
        [_, option] if option == orphan::SPAWNER => Some(orphan::here()),
        [_, option] if option == directory::COVERED => Some(directory::covered()),
        [_, option, folder] if option == directory::POWERLESS => Some(directory::powerless(folder)),
        _ => None,
    };
    if let Some(outcome) = errand {
        if let Err(why) = &outcome {
            println!("{why}");
        }
        return if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let who = if geteuid().is_root() { "root" } else { "user" };
    let mut count = Count::default();
    for group in [directory::run, spawning::run, orphan::run, posture::run, driver::run] {
        match group(who) {
            Ok(more) => count = count.join(more),
            Err(error) => count.add(who, Err(error)),
        }
    }
    if arguments.get(1).is_some_and(|argument| argument == AS_USER) {
        println!("{} {}", count.passed, count.failed);
        return ExitCode::SUCCESS;
    }
    if geteuid().is_root() {
        match as_user() {
            Ok(more) => count = count.join(more),
            Err(error) => count.add("as an ordinary user", Err(error)),
        }
    }
    println!("escape: {} passed, {} failed", count.passed, count.failed);
    if count.failed == 0 && count.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A condition, and what to show when it does not hold.
pub fn checked<T: std::fmt::Debug + ?Sized>(holds: bool, found: &T) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("found {found:?}")) }
}

/// Everything once more without root's rights: the last line of that run is its count.
fn as_user() -> Result<Count, String> {
    // By its link in /proc: the folder it lies in may be closed to that user.
    let output = Command::new("/proc/self/exe")
        .arg0("escape")
        .arg(AS_USER)
        .uid(USER)
        .gid(USER)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (rows, last) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    println!("{rows}");
    let mut numbers = last.split(' ').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(passed)), Some(Ok(failed))) => Ok(Count { passed, failed }),
        _ => Err(format!("no count at the end, {}", output.status)),
    }
}
