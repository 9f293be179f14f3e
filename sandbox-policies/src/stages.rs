//! The order in which a program confines itself: what is checked, what is added, what is reported.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use crate::capabilities::Kept;
use crate::landlock::{Reach, restrict};
use crate::{
    Error, LastWord, Program, Report, Requirement, Root, Stage, capabilities, descriptors, directory, limits,
    namespaces, panic, process, refusal, root, seccomp,
};

/// The first thing that a spawned program does, while it has one thread.
///
/// Checks what the spawner promised, then adds rlimits, not dumpable, the death signal, no executable gain,
/// landlock and the `setup` filter, whose refusals, and those of stage two, are told by `last_word`. The descriptors, no_new_privs and seccomp are checked in either case:
/// every host has them.
pub fn stage_one(program: Program, requirement: Requirement, last_word: LastWord) -> Result<Report, Error> {
    let mut report = Report::default();
    if seccomp::refusals_are_logged() {
        // Asked for, and so no reason to refuse; and never silent.
        report.lacking.push(
            "seccomp: refuses nothing, what no policy lists is logged and made (--sandbox-log)".to_owned(),
        );
    }
    // A stray descriptor is a mistake of the spawner, not something that a host could lack.
    descriptors::check()?;
    if let Some(found) = process::shortcomings().into_iter().next() {
        return Err(Error::Layer { layer: "spawn", found });
    }
    let (root, reach) = match program.root() {
        Root::Empty => (root::shortcomings(), Reach::Nowhere),
        Root::Files => (directory::shortcomings(), Reach::Files),
        Root::Sockets => (directory::shortcomings(), Reach::Sockets),
    };
    for found in [namespaces::shortcomings(), root, capabilities::shortcomings()].concat() {
        report.lacks(requirement, "spawn", found)?;
    }
    step("PR_SET_NAME", process::name(program))?;
    step("PR_SET_PDEATHSIG", process::die_with_spawner())?;
    confine(program, requirement, reach, &mut report)?;
    step("rt_sigaction", refusal::tell(last_word))?;
    seccomp::hide_clone3(program)?;
    seccomp::install(program, Stage::Setup)?;
    Ok(report)
}

/// Gives up what `stage` does not need, on the calling thread alone: every thread calls it for itself.
///
/// Filters stack: what the `setup` filter refused stays refused.
pub fn stage_two(program: Program, stage: Stage) -> Result<(), Error> {
    seccomp::install(program, stage)
}

/// No more threads and processes: to be called once all threads exist, before the first enters stage two.
pub fn limit_processes() -> Result<(), Error> {
    step("RLIMIT_NPROC", limits::forbid_processes())
}

/// Confines the launcher, once all that it will ever open is open and all that it will ever spawn has been
/// spawned.
///
/// Landlock lets its signals out: its children are older than its domain; and it may remove the control groups of
/// its children from `groups`. Everything else is refused.
pub fn confine_launcher(requirement: Requirement, groups: Option<BorrowedFd<'_>>) -> Result<Report, Error> {
    let mut report = Report::default();
    confine_unspawned(Program::Launcher, requirement, Reach::Children { groups }, &mut report)?;
    seccomp::install(Program::Launcher, Stage::Serve)?;
    Ok(report)
}

/// Confines the launcher's spawner, before it hears its first request.
///
/// Everything here is inherited by the programs that it spawns, and so is no more than what those can live under: the
/// filter lists what the spawner calls, what its children call up to their exec, and what they call after it, while
/// setting up and serving. Without it they could do no more, for they add their own; it is there for what the spawner
/// itself could be made to do. Not landlock, in whose domains nobody may mount, so that no child could have its empty root.
/// And it stays dumpable: the kernel gives the files in which a child's ids are mapped to the child's user only as long
/// as that is; whoever could use it to trace the spawner is the launcher's own user.
pub fn confine_spawner(kept: Kept) -> Result<(), Error> {
    // What the host lacks each program says for itself.
    let mut report = Report::default();
    step("PR_SET_NAME", process::rename(c"vmm-spawner"))?;
    step("PR_SET_PDEATHSIG", process::die_with_spawner())?;
    step("PR_SET_NO_NEW_PRIVS", process::no_new_privileges())?;
    step("capset", kept.keep())?;
    step("rt_sigaction", process::die_of_faults())?;
    panic::on_panic_end_process();
    limits::apply(Program::Launcher)?;
    process::no_executable_gain(&mut report);
    seccomp::install(Program::Launcher, Stage::Spawner)
}

/// Confines a device program that somebody else than our launcher started, once its socket and its resource
/// are open.
///
/// There are no namespaces and no empty root then, which is why its policy has a stage for that case.
pub fn confine_stand_alone(program: Program, requirement: Requirement) -> Result<Report, Error> {
    let mut report = Report::default();
    confine_unspawned(program, requirement, Reach::Nowhere, &mut report)?;
    seccomp::install(program, Stage::StandAlone)?;
    Ok(report)
}

/// What the spawner does for its children, a program without one does for itself.
fn confine_unspawned(
    program: Program,
    requirement: Requirement,
    reach: Reach<'_>,
    report: &mut Report,
) -> Result<(), Error> {
    step("PR_SET_NO_NEW_PRIVS", process::no_new_privileges())?;
    step("capabilities", capabilities::drop_bounding().and_then(|()| capabilities::drop_all()))?;
    confine(program, requirement, reach, report)
}

/// The part that every program does for itself, spawned or not.
fn confine(
    program: Program,
    requirement: Requirement,
    reach: Reach<'_>,
    report: &mut Report,
) -> Result<(), Error> {
    panic::on_panic_end_process();
    step("rt_sigaction", process::die_of_faults())?;
    limits::apply(program)?;
    step("PR_SET_DUMPABLE", process::not_dumpable())?;
    process::no_executable_gain(report);
    report.landlock_abi = restrict(reach)?;
    if report.landlock_abi == 0 {
        report.lacks(requirement, "landlock", "not in this kernel, or not in its lsm= list".to_owned())?;
    }
    Ok(())
}

fn step(step: &'static str, done: Result<(), Errno>) -> Result<(), Error> {
    done.map_err(|errno| Error::Confine { step, errno })
}
