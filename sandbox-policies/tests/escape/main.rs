//! Escapes, tried from inside the real confinement, and the posture of processes that stand in it.
//!
//! This program is driver and probe in one: it spawns itself, by [`sandbox_policies::spawn`] and with the
//! hand-over of a real program, once for each attempt. Run by root it does all of it twice, the second time
//! as an ordinary user. It has its own `main` because a probe must not run a test harness's.
#![expect(clippy::arithmetic_side_effects, reason = "it counts its own cases")]

mod arguments;
mod attempts;
mod directory;
mod driver;
mod expectations;
mod layers;
mod logging;
mod orphan;
mod posture;
mod probe;
mod raw;
mod spawning;

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use nix::unistd::geteuid;
// Where the library's own files, compiled into this program, look for what they use.
use sandbox_policies::{Error, Program, Report, end_process};

use layers::system_calls;

/// Argument 1 of this program when it runs itself as an ordinary user.
const AS_USER: &str = "--as-user";

/// Who that is: nobody.
const USER: u32 = 65534;

/// Argument 0 of a process that does nothing until its standard input ends.
const BYSTANDER: &str = "bystander";

/// How this program ends when an attempt has executed it.
const EXECUTED: u8 = 42;

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
    match arguments.first().map(String::as_str) {
        None | Some("") => return ExitCode::from(EXECUTED),
        Some(BYSTANDER) => {
            std::io::stdin().read_to_end(&mut Vec::new()).ok();
            return ExitCode::SUCCESS;
        }
        Some(_) => {}
    }
    if arguments.first().is_some_and(|name| name == probe::NAME) {
        probe::run(&arguments);
    }
    if arguments.first().is_some_and(|name| name == directory::NAME) {
        return if directory::probe(&arguments) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Some(outcome) = errand(&arguments) {
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
    // Once: a filter does the same to everybody.
    match arguments::run(who) {
        Ok(more) => count = count.join(more),
        Err(error) => count.add("arguments", Err(error)),
    }
    count = count.join(logging::run());
    // Once: it is an ordinary user's in either case.
    match layers::run(who) {
        Ok(more) => count = count.join(more),
        Err(error) => count.add("matrix", Err(error)),
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

/// What this program is to do when it runs itself, and how that went.
fn errand(arguments: &[String]) -> Option<Result<(), String>> {
    match arguments {
        [_, option, kinds] if option == spawning::LACKING => Some(spawning::here(kinds)),
        [_, option] if option == orphan::SPAWNER => Some(orphan::here()),
        [_, option] if option == directory::COVERED => Some(directory::covered()),
        [_, option, folder] if option == directory::POWERLESS => Some(directory::powerless(folder)),
        [_, option] if option == layers::JAIL => Some(layers::enter()),
        [_, option] if option == layers::MATRIX => Some(layers::inside()),
        [_, option, rest @ ..] if option == layers::WITHIN => Some(layers::within(rest)),
        [_, option, rest @ ..] if option == layers::ATTEMPT => Some(layers::attempt(rest).map(|code| {
            if code != 0 {
                end_process(code)
            }
        })),
        _ => None,
    }
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
