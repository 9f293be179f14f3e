//! Spawns that must fail, say why and leave nothing behind; and hosts that lack namespaces, made out of one
//! that does not by limits of a user namespace.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid, pipe2};
use sandbox_policies::spawn::{Child, Ended, Identity, Plan, spawn};
use sandbox_policies::{Error, Program, Requirement, Stage};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::driver::Probe;
use crate::probe::{self, INFLIGHT, PANIC, POSE, word};
use crate::{Count, checked};

/// Argument 1 of this program when it runs itself on a host that lacks the namespaces named by argument 2.
pub const LACKING: &str = "--lacking";

/// A host that makes namespaces and grants no right in them.
const RIGHTLESS: &str = "rights in";

const KINDS: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// All cases of this module.
pub fn what_cannot_be_confined_is_not_spawned(who: &str) -> Result<Count, String> {
    let mut count = Count::default();
    count.add(&format!("{who} spawn of what is no program"), no_program());
    count.add(&format!("{who} spawn with a zero byte"), zero_byte());
    count.add(&format!("{who} stage one of a process that nobody spawned"), not_spawned());
    for (program, stage) in [
        (Program::Launcher, Stage::Serve),
        (Program::Core, Stage::Control),
        (Program::Core, Stage::Vcpu),
        (Program::DeviceBlk, Stage::Serve),
        (Program::DeviceBlkQcow2, Stage::Serve),
        (Program::DeviceRng, Stage::Serve),
        (Program::DeviceNet, Stage::Serve),
        (Program::DeviceConsole, Stage::Serve),
        (Program::DevicePmem, Stage::Serve),
        (Program::DeviceBalloon, Stage::Serve),
        (Program::DeviceFs, Stage::Serve),
        (Program::DeviceVsock, Stage::Serve),
        (Program::DeviceMem, Stage::Serve),
    ] {
        count.add(&format!("{who} panic in {} {}", program.name(), stage.key()), panics(program, stage));
    }
    for program in Program::ALL.into_iter().filter(|program| *program != Program::Launcher) {
        count.add(&format!("{who} in-flight region of {}", program.name()), makes_in_flight_region(program));
    }
    for kinds in ["user", "user,mnt,pid,net,ipc,uts,cgroup", "net,cgroup", RIGHTLESS] {
        count.add(&format!("{who} host without {kinds} namespaces"), elsewhere(kinds));
    }
    Ok(count)
}

fn attempt(program: &File, argument: &str) -> Result<Child, Error> {
    let null = File::open("/dev/null").map_err(|_| unready())?;
    let (_, log) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|_| unready())?;
    spawn(&Plan {
        program: program.as_fd(),
        name: "nothing",
        arguments: &[argument],
        log: log.as_fd(),
        control: null.as_fd(),
        null: null.as_fd(),
        identity: Identity::for_child(0),
        requirement: Requirement::Required,
        directory: None,
        group: None,
    })
}

/// An error that no case expects.
fn unready() -> Error {
    Error::DiedBeforeExec { name: "the test's own preparation".to_owned() }
}

fn no_program() -> Result<(), String> {
    let file = File::open("/dev/null").map_err(|error| error.to_string())?;
    let refused = attempt(&file, "a");
    let line = refused.as_ref().err().map(ToString::to_string).unwrap_or_default();
    checked(matches!(refused, Err(Error::Child { step: "exec", errno: Errno::EACCES, .. })), &refused)?;
    checked(line.contains("executable by all") && !line.contains('\n'), &line)?;
    let left = nix::sys::wait::wait();
    checked(left == Err(Errno::ECHILD), &left)
}

fn zero_byte() -> Result<(), String> {
    let file = File::open("/proc/self/exe").map_err(|error| error.to_string())?;
    let refused = attempt(&file, "a\0b");
    checked(matches!(refused, Err(Error::Argument { .. })), &refused)
}

/// A probe started as any program starts another: its log is in place, its control channel is not.
fn not_spawned() -> Result<(), String> {
    let output = Command::new("/proc/self/exe")
        .arg0(probe::NAME)
        .args([Program::DeviceBlk.name(), Stage::Serve.key(), POSE])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| error.to_string())?;
    checked(output.status.code() == Some(1), &output.status)?;
    let line = String::from_utf8_lossy(&output.stderr);
    checked(line.starts_with("file descriptor "), &line)
}

/// A panic is said in the log and ends the process with the code of an internal error, and not by a forbidden
/// call.
fn panics(program: Program, stage: Stage) -> Result<(), String> {
    let mut probe = Probe::start(program, stage, PANIC, Requirement::Required)?;
    probe.confined()?;
    let ended = probe.child.wait().map_err(|error| error.to_string())?;
    checked(ended == Ended::Exited(1), &ended)?;
    let mut line = [0; 64];
    let length = nix::unistd::read(&probe.log, &mut line).map_err(|errno| errno.to_string())?;
    let line = String::from_utf8_lossy(line.get(..length).unwrap_or(&[])).into_owned();
    checked(line.starts_with("internal error: "), &line)
}

/// What is needed while setting up is not refused, by limits on file size either: the other cases only see
/// refusals.
fn makes_in_flight_region(program: Program) -> Result<(), String> {
    let mut probe = Probe::start(program, Stage::Setup, INFLIGHT, Requirement::Required)?;
    probe.confined()?;
    let said = probe.hear();
    let ended = probe.child.wait().map_err(|error| error.to_string())?;
    checked(said == [word::ESCAPED] && ended == Ended::Exited(0), &(said, ended))
}

/// Runs [`here`] in a process of its own: it never comes back from what it does to itself.
fn elsewhere(kinds: &str) -> Result<(), String> {
    let output = Command::new("/proc/self/exe")
        .arg0("escape")
        .args([LACKING, kinds])
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    checked(output.status.success(), &format!("{} {said}", output.status))
}

/// On a host that lacks `kinds`: what is required is refused, what is available is had, the rest is reported.
pub fn here(kinds: &str) -> Result<(), String> {
    let (wanted, reason) = if kinds == RIGHTLESS {
        refuse_rights()?;
        (KINDS.len(), "host name: EPERM")
    } else {
        lack(kinds)?;
        (kinds.split(',').count(), "namespaces: ENOSPC")
    };

    let refused = Probe::start(Program::DeviceBlk, Stage::Serve, POSE, Requirement::Required).map(|_| ());
    checked(refused.as_ref().is_err_and(|line| line.contains(reason)), &refused)?;
    checked(refused.as_ref().is_err_and(|line| line.contains("--sandbox=available")), &refused)?;

    let mut probe = Probe::start(Program::DeviceBlk, Stage::Serve, POSE, Requirement::Available)?;
    let lacking = probe.child.lacking().to_vec();
    checked(lacking.iter().filter(|line| line.contains("namespace: none")).count() == wanted, &lacking)?;
    probe.confined()?;
    let posture = sandbox_policies::posture::read(probe.child.pid()).map_err(|error| error.to_string())?;
    let thread = posture.threads.first().ok_or("no thread")?;
    let [inheritable, permitted, effective, bounding, ambient] = thread.capabilities;
    checked(thread.no_new_privs && thread.seccomp == 2, &posture)?;
    checked([inheritable, permitted, effective, ambient] == [0; 4], &posture)?;
    // Only who never had a capability cannot empty that set.
    let powerless = kinds == RIGHTLESS && !geteuid().is_root();
    checked(bounding == 0 || powerless, &posture)?;
    probe.child.kill().map_err(|error| error.to_string())?;
    let ended = probe.child.wait().map_err(|error| error.to_string())?;
    checked(ended == Ended::Signaled(libc::SIGKILL), &ended)
}

/// From now on this process and its children may not set a host name, whatever capability they have.
fn refuse_rights() -> Result<(), String> {
    let filter: BpfProgram = SeccompFilter::new(
        [(libc::SYS_sethostname, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        TargetArch::x86_64,
    )
    .and_then(BpfProgram::try_from)
    .map_err(|error| error.to_string())?;
    seccompiler::apply_filter(&filter).map_err(|error| error.to_string())
}

/// Makes this process one that can have no more namespaces of `kinds`.
fn lack(kinds: &str) -> Result<(), String> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|errno| format!("unshare: {errno}"))?;
    let put = |path: &str, text: String| fs::write(path, text).map_err(|error| format!("{path}: {error}"));
    put("/proc/self/setgroups", "deny".to_owned())?;
    put("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    put("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    for kind in kinds.split(',') {
        checked(KINDS.contains(&kind), &kind)?;
        put(&format!("/proc/sys/user/max_{kind}_namespaces"), "0".to_owned())?;
    }
    Ok(())
}
