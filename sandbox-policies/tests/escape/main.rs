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

/// A test: what it tried as whom, or why it could not go on.
type Test = fn(&str) -> Result<Count, String>;

/// Those that are done by an ordinary user as well, by name.
const AS_EACH: [(&str, Test); 5] = [
    (
        "a_directory_is_the_root_and_nothing_else_is_reached",
        directory::a_directory_is_the_root_and_nothing_else_is_reached,
    ),
    ("what_cannot_be_confined_is_not_spawned", spawning::what_cannot_be_confined_is_not_spawned),
    ("a_killed_spawner_takes_its_child_along", orphan::a_killed_spawner_takes_its_child_along),
    ("each_probe_is_confined_as_written", posture::each_probe_is_confined_as_written),
    ("each_escape_is_refused_in_each_confinement", driver::each_escape_is_refused_in_each_confinement),
];

/// Those that are done once: a filter does the same to everybody, and the matrix is an ordinary user's in either case.
const ONCE: [(&str, Test); 3] = [
    ("each_condition_is_tried_with_wrong_values", arguments::each_condition_is_tried_with_wrong_values),
    ("a_filter_that_logs_has_a_tracer_or_refuses", logging::a_filter_that_logs_has_a_tracer_or_refuses),
    (
        "each_escape_is_stopped_by_the_layers_of_the_matrix",
        layers::each_escape_is_stopped_by_the_layers_of_the_matrix,
    ),
];

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
    let mut count = all(&AS_EACH, who);
    if arguments.get(1).is_some_and(|argument| argument == AS_USER) {
        println!("{} {}", count.passed, count.failed);
        return ExitCode::SUCCESS;
    }
    count = count.join(all(&ONCE, who));
    if geteuid().is_root() {
        match as_user() {
            Ok(more) => count = count.join(more),
            Err(error) => count.add("as an ordinary user", Err(error)),
        }
    }
    println!("escape: {} passed, {} failed", count.passed, count.failed);
    if count.failed == 0 && count.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn all(tests: &[(&str, Test)], who: &str) -> Count {
    let mut count = Count::default();
    for (name, test) in tests {
        match test(who) {
            Ok(more) => count = count.join(more),
            Err(error) => count.add(&format!("{who} {name}"), Err(error)),
        }
    }
    count
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
