//! `--sandbox-log`: what the policies refuse is listed and done, whoever runs the machine, and nothing else is.
//!
//! That something is missing is arranged by taking rules out of the filters in copies of the programs: they do what
//! they always do, and that is refused.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandbox_policies::{Program, Stage};
use serde_json::Value;
use system_tests::{Ended, Result, Running, children, within};

use crate::driver::{COUNT, DONE};
use crate::guest::{Guest, UP};
use crate::house::{House, Who};
use crate::moments::program_among;

/// Of each program and stage of a machine with a disk one call that it makes in every run; of the spawner one that it makes
/// when a device is started again.
const MISSING: [(Program, Stage, &str); 7] = [
    (Program::DeviceBlk, Stage::Setup, "ftruncate"),
    (Program::DeviceBlk, Stage::Serve, "fdatasync"),
    (Program::Core, Stage::Setup, "eventfd2"),
    (Program::Core, Stage::Control, "epoll_wait"),
    (Program::Core, Stage::Vcpu, "ioctl"),
    (Program::Launcher, Stage::Serve, "epoll_wait"),
    (Program::Launcher, Stage::Spawner, "socketpair"),
];

/// What is said when nothing is found.
const NOTHING: &str = "vmm: --sandbox-log: no policy would have refused anything";
/// What is said first.
const LOUD: &str = "vmm: --sandbox-log: SECCOMP REFUSES NOTHING";

/// The launcher, which the process that was started traces.
fn launcher(running: &Running) -> i32 {
    let launcher = children(running.pid()).into_iter().next();
    launcher.expect("a launcher beneath its tracer").pid
}

/// Kills the disk's program and waits for the next.
fn have_disk_started_again(running: &Running) -> Result<()> {
    let device = program_among(launcher(running), "device-blk").expect("a live device-blk");
    kill(Pid::from_raw(device), Signal::SIGKILL).expect("it is ours");
    running.wait_for_log("the successor", |log| log.contains("vmm: device blk0 serves again").then_some(()))
}

/// The lines on a call of `name` in this stage: when it was first made, and of the summary.
fn lines<'a>(
    ended: &'a Ended,
    name: &str,
    (program, stage, call): (Program, Stage, &str),
) -> [Vec<&'a str>; 2] {
    let (program, stage) = (program.name(), stage.key());
    let first = (
        format!("would be refused: the system call {call}("),
        format!(" of {name} ({program}, {stage}) has made"),
    );
    let rule = format!(
        "times by {name}; in sandbox-policies/policies/x86_64/{program}.json, {stage}: {{\"syscall\": \"{call}\","
    );
    let lines = || ended.log.lines();
    [
        lines().filter(|line| line.contains(&first.0) && line.contains(&first.1)).collect(),
        lines().filter(|line| line.contains(&rule)).collect(),
    ]
}

fn list_all(who: Who) -> Result<()> {
    let house = House::without_rules(who, &MISSING)?;
    let running = house.start_logged(Guest::KeepsDriving, &[], &[])?;
    running.wait_for(DONE)?;
    have_disk_started_again(&running)?;
    running.signal(Signal::SIGQUIT)?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(131), "{}", ended.everything());
    assert_eq!(ended.said(DONE)?, "0".repeat(COUNT), "{}", ended.everything());
    for missing in MISSING {
        let name = match missing {
            (Program::DeviceBlk, ..) => "blk0",
            (_, Stage::Spawner, _) => "vmm-spawner",
            (program, ..) => program.name(),
        };
        let [first, rules] = lines(&ended, name, missing);
        // Of these one for each code, and for each set of flags.
        assert_eq!(first.len(), rules.len(), "{missing:?}: {}", ended.everything());
        assert!(!first.is_empty(), "{missing:?}: {}", ended.everything());
        assert!(["ioctl", "socketpair"].contains(&missing.2) || first.len() == 1, "{missing:?}: {first:?}");
    }
    let listed = ended.log.lines().filter(|line| line.contains("would be refused: ")).count();
    let expected: usize = MISSING.iter().map(|missing| count(&ended, *missing)).sum();
    assert_eq!(listed, expected, "{}", ended.everything());
    assert!(!ended.log.contains(NOTHING) && ended.log.starts_with(LOUD), "{}", ended.everything());
    house.check_left()
}

/// How many kinds of this call were listed.
fn count(ended: &Ended, (program, stage, call): (Program, Stage, &str)) -> usize {
    let end = format!("({}, {}) has made", program.name(), stage.key());
    let begin = format!("would be refused: the system call {call}(");
    ended.log.lines().filter(|line| line.contains(&begin) && line.contains(&end)).count()
}

#[test]
fn what_the_policies_lack_is_listed_and_done() -> Result<()> {
    list_all(Who::Caller)
}

#[test]
fn what_the_policies_of_an_ordinary_users_machine_lack_is_listed_and_done() -> Result<()> {
    list_all(Who::OrdinaryUser)
}

#[test]
fn a_machine_that_ends_well_says_by_its_code_that_something_was_listed() -> Result<()> {
    let flush = (Program::DeviceBlk, Stage::Serve, "fdatasync");
    let house = House::without_rules(Who::Caller, &[flush])?;
    let ended = house.start_logged(Guest::DrivesAndPowersOff, &[], &[])?.wait()?;
    assert_eq!(ended.code(), Some(11), "{}", ended.everything());
    assert_eq!(ended.said(DONE)?, "0".repeat(COUNT), "{}", ended.everything());
    assert_eq!(count(&ended, flush), 1, "{}", ended.everything());
    house.check_left()?;
    drop(house);
    // Without it the same call is the end of the same program.
    let house = House::without_rules(Who::Caller, &[flush])?;
    let ended = house.start_with(Guest::DrivesAndPowersOff, None, ",on-failure=stop")?.wait()?;
    assert_eq!(ended.code(), Some(7), "{}", ended.everything());
    assert!(
        ended.log.contains("killed by SIGSYS: it made the system call fdatasync(75)"),
        "{}",
        ended.everything()
    );
    house.check_left()
}

fn list_nothing(who: Who) -> Result<()> {
    let house = House::new(who)?;
    let ended = house.start_logged(Guest::DrivesAndPowersOff, &["console,pty=on", "rng"], &[])?.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert!(
        ended.log.starts_with(LOUD) && ended.log.ends_with(&format!("{NOTHING}\n")),
        "{}",
        ended.everything()
    );
    for name in ["blk0", "console0", "rng0", "vmm-core"] {
        let line = format!("vmm: lacking: {name}: seccomp: refuses nothing");
        assert!(ended.log.lines().any(|found| found.starts_with(&line)), "{line}: {}", ended.everything());
    }
    assert!(
        ended.log.contains("vmm: confined, but seccomp refuses nothing (--sandbox-log): "),
        "{}",
        ended.everything()
    );
    house.check_left()
}

#[test]
fn a_machine_whose_policies_lack_nothing_lists_nothing() -> Result<()> {
    list_nothing(Who::Caller)
}

#[test]
fn an_ordinary_users_machine_whose_policies_lack_nothing_lists_nothing() -> Result<()> {
    list_nothing(Who::OrdinaryUser)
}

fn inspect(who: Who) -> Result<()> {
    let house = House::new(who)?;
    house.make_place_for_socket();
    let control = house.control();
    let socket = format!("--control-socket={}", control.display());
    let running = house.start_logged(Guest::Halts, &[], &[&socket])?;
    running.wait_for(UP)?;
    let inspected = house.vmm().arg("inspect").arg(&control).arg("--json").output().expect("vmm runs");
    let said = String::from_utf8_lossy(&inspected.stderr);
    let json: Value = serde_json::from_slice(&inspected.stdout).unwrap_or_else(|_| panic!("no JSON: {said}"));
    assert_eq!((inspected.status.code(), &json["different"]), (Some(6), &true.into()));
    let processes = json["processes"].as_array().expect("processes");
    assert_eq!(processes.len(), 4, "{json}");
    for process in processes {
        let state = process["state"].as_str().expect("a state");
        assert!(state.ends_with(", only logged"), "{process}");
        let differences = process["differences"].as_array().expect("differences");
        let traced = format!(": traced: process {} sees and changes it", running.pid());
        let is_that = |line: &Value| line.as_str().is_some_and(|line| line.contains(&traced));
        // That, of each thread, and nothing else: every other layer is what it always is.
        assert!(!differences.is_empty() && differences.iter().all(is_that), "{process}");
    }
    // Nobody can hide in the shadow of a tracer that was killed.
    running.signal(Signal::SIGKILL)?;
    drop(running);
    house.check_left()
}

#[test]
fn each_process_is_inspected_and_different_in_that_alone() -> Result<()> {
    inspect(Who::Caller)
}

#[test]
fn an_ordinary_user_is_told_the_same_of_each_process() -> Result<()> {
    inspect(Who::OrdinaryUser)
}

/// What the kernel says of each thread: R, S, t …
fn states(pid: i32) -> Vec<char> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a live process");
    let state = |task: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        text.rsplit_once(") ")?.1.chars().next()
    };
    tasks.filter_map(state).collect()
}

/// A stop by job control stays one under the tracer, of each thread, and ends as one.
#[test]
fn who_is_stopped_stays_so_until_he_is_continued() -> Result<()> {
    let house = House::new(Who::Caller)?;
    let running = house.start_logged(Guest::KeepsDriving, &[], &[])?;
    running.wait_for(DONE)?;
    let launcher = launcher(&running);
    let program = |name| program_among(launcher, name).expect("a live process");
    let pids = [launcher, program("vmm-core"), program("device-blk")];
    let stopped = |state: &char| matches!(state, 't' | 'T');
    // Not by SIGTSTP: the first process of a namespace ignores it.
    for _ in 0..3 {
        for pid in pids {
            kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("it is ours");
            within("a stop of each thread", || states(pid).iter().all(stopped).then_some(()))?;
        }
        // Whoever was let go on at once has done so by the time that all others have stopped.
        for pid in pids {
            assert!(states(pid).iter().all(stopped), "{pid} has gone on");
        }
        for pid in pids {
            kill(Pid::from_raw(pid), Signal::SIGCONT).expect("it is ours");
            within("a thread that goes on", || (!states(pid).iter().all(stopped)).then_some(()))?;
        }
    }
    // Each of them has its part in this answer.
    running.signal(Signal::SIGUSR1)?;
    running.wait_for_log("the counters", |log| log.contains("vmm: counters ").then_some(()))?;
    running.signal(Signal::SIGQUIT)?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(131), "{}", ended.everything());
    house.check_left()
}
