//! Attempt by layer: what stops each, with one layer alone and with one left out, compared with what is written down.
//!
//! `expected.txt` has a line for each attempt: its kind, its name, and the letters of what stops it alone. Besides the
//! layers' letters: `e`, that it is answered by an error even where nothing confines, for it is made without what it would
//! need there; `u`, that this error is EPERM, for want of a capability over the host, which nobody in a user namespace
//! has. A layer counts as stopping what it refuses otherwise than that.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, shutdown, socketpair};
use sandbox_policies::{Program, Stage};

use super::jail::{self, ATTEMPT};
use super::{Layer, Layers, filters};
use crate::attempts::{self, Attempt};
use crate::driver;
use crate::probe::word;
use crate::{Count, checked};

/// Whose filter and limits the matrix is made with. Every program's filters are tried as well ([`filters`]), and with
/// all layers on every program ([`driver`]).
const PROGRAM: Program = Program::DeviceBlk;

/// The stage.
const STAGE: Stage = Stage::Serve;

/// What is expected.
const EXPECTED: &str = include_str!("expected.txt");

/// The landlock ABI that it is written for: an older one may stop less.
const LANDLOCK: u8 = 7;

/// The kernel that it is written for: another knows other calls and families.
const KERNEL: &str = "6.18.";

/// How many attempts the filters alone stop, as written. It may only go down.
const SECCOMP_ALONE: usize = 106;

/// `SIGSYS`.
const SIGSYS: i32 = 31;

/// Before each line that the matrix's process says to whoever runs it.
const PASSED: &str = "passed ";

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It got through, or ended its process by itself.
    Open,
    /// Its process was killed for it.
    Killed,
    /// It was answered by this error.
    Answered(Errno),
}

/// One attempt's row.
pub struct Row {
    pub attempt: &'static Attempt,
    /// What stops it, in the letters of the matrix.
    pub stops: String,
    /// What becomes of it without any layer.
    pub bare: Outcome,
}

/// Runs the matrix in a jail.
pub fn each_escape_is_stopped_by_the_layers_of_the_matrix(who: &str) -> Result<Count, String> {
    let mut count = Count::default();
    for line in jail::jailed()?.lines() {
        match (line.strip_prefix(PASSED), line.strip_prefix("FAILED ")) {
            (Some(_), _) => count.add(line, Ok(())),
            (None, Some(why)) => count.add(&format!("{who} matrix"), Err(why.to_owned())),
            (None, None) => println!("{line}"),
        }
    }
    checked(count.passed > 0, &"the matrix printed nothing").map(|()| count)
}

/// The matrix itself, as pid 1 of the jail.
pub fn inside() -> Result<(), String> {
    jail::furnish()?;
    // To be signalled and traced by attempts: pid 2, which ends with this process's end of its standard input.
    let mut bystander = Command::new("/proc/self/exe")
        .arg0(crate::BYSTANDER)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    checked(bystander.id() == 2, &bystander.id())?;
    let expected = expected()?;
    let mut rows = Vec::new();
    let mut abi = 0;
    for (index, attempt) in attempts::all().enumerate() {
        let (row, found) = row(attempt, index)?;
        abi = found;
        println!("matrix | {} | {} | {}", attempt.row, attempt.name, row.stops);
        let name = format!("{}: {}", attempt.row, attempt.name);
        let wanted = expected.get(&(attempt.row, attempt.name)).copied();
        verdict(&format!("{name}: as written"), as_written(wanted, &row.stops, abi));
        // Without a layer that does not stop it, it meets the same as with that.
        let stopping =
            Layer::ALL.into_iter().filter(|it| row.stops.len() > 1 && row.stops.contains(it.letter()));
        for left_out in stopping.map(Some).chain([None]) {
            verdict(&format!("{name}: without {left_out:?}"), still_stopped(index, left_out));
        }
        rows.push(row);
    }
    bystander.kill().ok();
    bystander.wait().map_err(|error| error.to_string())?;
    verdict("no row of nothing", checked(rows.len() == expected.len(), &(rows.len(), expected.len())));
    summary(&rows, abi);
    filters::compare(&rows, abi)
}

pub fn verdict(name: &str, outcome: Result<(), String>) {
    match outcome {
        Ok(()) => println!("{PASSED}{name}"),
        Err(why) => println!("FAILED {name}: {why}"),
    }
}

fn expected() -> Result<BTreeMap<(&'static str, &'static str), &'static str>, String> {
    EXPECTED
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| match line.split(" | ").map(str::trim).collect::<Vec<_>>().as_slice() {
            [row, name, stops] => Ok(((*row, *name), *stops)),
            _ => Err(format!("expected.txt: what is {line}?")),
        })
        .collect()
}

/// Exactly what is written; on another kernel than that is for at least that, of the layers that every kernel has. Where
/// this host answers otherwise without any layer (by its sysctls, or a part that it lacks), at least the filter.
fn as_written(wanted: Option<&str>, found: &str, abi: u8) -> Result<(), String> {
    let exact = is_written_for(abi)?;
    let unconfined = |stops: &str| ['e', 'u'].map(|letter| stops.contains(letter));
    let same = match wanted {
        Some(wanted) if unconfined(wanted) != unconfined(found) => found.contains('s'),
        Some(wanted) if exact => wanted == found,
        Some(wanted) => wanted.chars().filter(|it| "sncrm".contains(*it)).all(|it| found.contains(it)),
        None => false,
    };
    if same { Ok(()) } else { Err(format!("stopped by {found}, written is {wanted:?}; landlock ABI {abi}")) }
}

/// Whether this is the kernel, with the landlock, that what is written must be exact for.
pub fn is_written_for(abi: u8) -> Result<bool, String> {
    let release = nix::sys::utsname::uname().map_err(|errno| errno.to_string())?;
    Ok(abi == LANDLOCK && release.release().to_string_lossy().starts_with(KERNEL))
}

/// Tries it without any layer and with each alone. Also answers the landlock ABI.
fn row(attempt: &'static Attempt, index: usize) -> Result<(Row, u8), String> {
    let (bare, _) = outcome(PROGRAM, STAGE, &Layers::that(|_| false), index)?;
    let mut stops = String::new();
    let mut abi = 0;
    for layer in Layer::ALL {
        let (alone, found) = outcome(PROGRAM, STAGE, &Layers::that(|it| it == layer), index)?;
        abi = abi.max(found);
        if alone != Outcome::Open && alone != bare {
            stops.push(layer.letter());
        }
    }
    match bare {
        Outcome::Answered(Errno::EPERM) => stops.push('u'),
        Outcome::Answered(_) | Outcome::Killed => stops.push('e'),
        Outcome::Open => {}
    }
    Ok((Row { attempt, stops, bare }, abi))
}

/// It is, with all layers but this one; with all of them.
fn still_stopped(index: usize, left_out: Option<Layer>) -> Result<(), String> {
    let (found, _) = outcome(PROGRAM, STAGE, &Layers::that(|it| Some(it) != left_out), index)?;
    checked(found != Outcome::Open, &found)
}

/// One attempt under these layers; and the landlock ABI among them.
pub fn outcome(
    program: Program,
    stage: Stage,
    layers: &Layers,
    index: usize,
) -> Result<(Outcome, u8), String> {
    let (control, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|errno| errno.to_string())?;
    driver::hand_memory(&control, layers.has(Layer::Memory)).map_err(|errno| errno.to_string())?;
    // Whoever reads on, as some attempts do where nothing confines them, finds the end.
    shutdown(control.as_raw_fd(), Shutdown::Write).map_err(|errno| errno.to_string())?;
    let ended = Command::new("/proc/self/exe")
        .arg0("escape")
        .args([ATTEMPT, &layers.argument(), program.name(), stage.key(), &index.to_string()])
        .stdin(theirs)
        .output()
        .map_err(|error| error.to_string())?;
    let abi = match hear(&control).split_first() {
        Some((&word::CONFINED, [abi])) => *abi,
        other => return Err(format!("{layers:?}, attempt {index}: not confined: {other:?}, {ended:?}")),
    };
    let outcome = match hear(&control).split_first() {
        Some((&word::REFUSED, number)) => {
            Outcome::Answered(Errno::from_raw(number.try_into().map(i32::from_le_bytes).unwrap_or(0)))
        }
        None if jail::signal_of(ended.status) == Some(SIGSYS) => Outcome::Killed,
        _ => Outcome::Open,
    };
    Ok((outcome, abi))
}

/// The next packet that is there: whoever could send another has ended.
fn hear(control: &OwnedFd) -> Vec<u8> {
    driver::hear(control)
}

/// The table in the run's output: a line for each kind, and the sums that may not grow.
fn summary(rows: &[Row], abi: u8) {
    println!("measured: attempt × layer, {} attempts, landlock ABI {abi}", rows.len());
    let mut kinds: Vec<&str> = Vec::new();
    for row in rows {
        if !kinds.contains(&row.attempt.row) {
            kinds.push(row.attempt.row);
        }
    }
    for kind in kinds {
        let of_kind: Vec<_> = rows.iter().filter(|row| row.attempt.row == kind).collect();
        println!("measured: {kind:<30} {}", counted(&of_kind));
    }
    let all: Vec<_> = rows.iter().collect();
    println!("measured: {:<30} {}", "all", counted(&all));
    for row in rows.iter().filter(|row| row.stops == "s") {
        println!("measured: by seccomp alone: {}: {}", row.attempt.row, row.attempt.name);
    }
    let alone = EXPECTED.lines().filter(|line| line.ends_with(" | s")).count();
    verdict("seccomp alone", checked(alone <= SECCOMP_ALONE, &alone));
    let open: Vec<_> = rows.iter().filter(|row| row.stops.is_empty()).map(|row| row.attempt.name).collect();
    verdict("each is stopped by something", checked(open.is_empty(), &open));
}

/// How many of these each layer stops alone, how many two do, how many the filters only.
fn counted(rows: &[&Row]) -> String {
    let number = |holds: &dyn Fn(&str) -> bool| rows.iter().filter(|row| holds(&row.stops)).count();
    let mut line = format!("{:>3}:", rows.len());
    for letter in Layer::ALL.map(Layer::letter).into_iter().chain(['u', 'e']) {
        line.push_str(&format!(" {letter} {:>3}", number(&|stops| stops.contains(letter))));
    }
    let two = number(&|stops| stops.chars().filter(|letter| *letter != 'e').count() > 1);
    format!("{line}, two or more {two:>3}, s alone {:>3}", number(&|stops| stops == "s"))
}
