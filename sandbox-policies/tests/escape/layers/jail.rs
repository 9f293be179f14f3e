//! Where an attempt is made that lacks a layer: a jail that nobody needs afterwards.
//!
//! From outside to inside: an ordinary user, even where root began; namespaces of all kinds (`enter`), in which that user
//! has every capability and over the host none; as pid 1 there the matrix (`MATRIX`), and a bystander as pid 2; for each
//! attempt mounts, host name and IPC of its own and a root that looks like a host's (`attempt`); with the layer of
//! namespaces, those of the layer on top (`within`). The host's own root is unmounted before anything is tried.

use std::fs;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{dup, getegid, geteuid, pivot_root};
use sandbox_policies::Program;

use super::{Layer, Layers};
use crate::USER;
use crate::probe;
use crate::raw::own;

/// Argument 1 of this program when it runs itself to enter a jail.
pub const JAIL: &str = "--jail";

/// When it runs itself as the first process of a jail.
pub const MATRIX: &str = "--matrix";

/// When it runs itself in a jail for one attempt: layers, program, stage and the attempt's number follow.
pub const ATTEMPT: &str = "--attempt";

/// The same, in the namespaces that are a layer.
pub const WITHIN: &str = "--within";

/// What is added to the number of a signal by which a process within ended.
const SIGNALED: i32 = 128;

fn text(step: &str) -> impl Fn(nix::Error) -> String {
    move |errno| format!("jail: {step}: {errno}")
}

/// A directory that surely exists, in the jail one of its own.
const PLACE: &str = "/tmp";

/// Where the root of an attempt is put together.
const SITE: &str = "/tmp/site";

/// This program, on a mount that the jail may mount once more.
const PROGRAM: &str = "/tmp/program";

/// Runs the matrix in a jail; answers what it printed.
pub fn jailed() -> Result<String, String> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("escape").arg(JAIL).stderr(Stdio::inherit());
    if geteuid().is_root() {
        command.uid(USER).gid(USER);
    }
    let output = command.output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(said) } else { Err(format!("{} {said}", output.status)) }
}

/// Namespaces of all kinds, with this user as their root.
fn all_namespaces() -> Result<(), String> {
    let (uid, gid) = (geteuid(), getegid());
    let kinds = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(kinds).map_err(text("namespaces"))?;
    put("setgroups", "deny")?;
    put("uid_map", &format!("0 {uid} 1"))?;
    put("gid_map", &format!("0 {gid} 1"))
}

fn put(file: &str, what: &str) -> Result<(), String> {
    fs::write(format!("/proc/self/{file}"), what).map_err(|error| format!("jail: {file}: {error}"))
}

/// The first process: makes the jail, whose pid 1 is its child.
pub fn enter() -> Result<(), String> {
    all_namespaces()?;
    let status = Command::new("/proc/self/exe").arg0("escape").arg(MATRIX).status();
    ended_well(status.map_err(|error| error.to_string())?)
}

fn ended_well(status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

/// Of pid 1: a /proc of the jail's own processes.
pub fn furnish() -> Result<(), String> {
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .map_err(text("private mounts"))?;
    mount(Some("none"), "/proc", Some("proc"), MsFlags::empty(), nothing).map_err(text("/proc"))?;
    mount(Some("none"), PLACE, Some("tmpfs"), MsFlags::empty(), nothing).map_err(text(PLACE))?;
    fs::create_dir(SITE).map_err(|error| error.to_string())?;
    fs::copy("/proc/self/exe", PROGRAM).map(drop).map_err(|error| error.to_string())
}

/// A root like a host's: files to be read and changed, programs to execute, /proc.
fn look_like_a_host() -> Result<(), String> {
    let nothing = None::<&str>;
    let kinds = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    unshare(kinds).map_err(text("namespaces of an attempt"))?;
    let site = Path::new(SITE);
    mount(Some("none"), site, Some("tmpfs"), MsFlags::empty(), nothing).map_err(text("root"))?;
    for folder in ["etc", "bin", "proc", "tmp"] {
        fs::create_dir(site.join(folder)).map_err(|error| error.to_string())?;
    }
    for file in ["a", "etc/passwd", "bin/sh"] {
        fs::write(site.join(file), "").map_err(|error| error.to_string())?;
    }
    for (from, to, kind) in
        [(PROGRAM, "bin/sh", MsFlags::MS_BIND), ("/proc", "proc", MsFlags::MS_BIND | MsFlags::MS_REC)]
    {
        mount(Some(from), &site.join(to), nothing, kind, nothing).map_err(text("bind"))?;
    }
    nix::unistd::chdir(site).map_err(text("root"))?;
    pivot_root(".", ".").map_err(text("root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(text("root"))?;
    nix::unistd::chdir("/").map_err(text("root"))
}

/// The process of one attempt. Its control channel is its descriptor 0.
pub fn attempt(arguments: &[String]) -> Result<i32, String> {
    look_like_a_host()?;
    let [layers, ..] = arguments else { return Err("too few arguments".to_owned()) };
    if !Layers::of_argument(layers).has(Layer::Namespaces) {
        return within(arguments).map(|()| 0);
    }
    all_namespaces()?;
    // As the spawner does it.
    fs::write("/proc/sys/user/max_user_namespaces", "0").map_err(|error| error.to_string())?;
    let status = Command::new("/proc/self/exe").arg0("escape").arg(WITHIN).args(arguments).status();
    let status = status.map_err(|error| error.to_string())?;
    Ok(status.code().or(status.signal().map(|signal| SIGNALED.saturating_add(signal))).unwrap_or(1))
}

/// The same, where the namespaces are as they are to be.
pub fn within(arguments: &[String]) -> Result<(), String> {
    let [layers, program, stage, task] = arguments else { return Err("which attempt?".to_owned()) };
    let layers = Layers::of_argument(layers);
    let program = *Program::ALL.iter().find(|it| it.name() == program).ok_or("which program?")?;
    let stage = *program.stages().iter().find(|it| it.key() == stage).ok_or("which stage?")?;
    let control = control()?;
    let abi = layers.apply(program, stage).map_err(|error| error.to_string())?;
    let hand = probe::hand_over(&control)?;
    layers.filter(program, stage).map_err(|error| error.to_string())?;
    probe::make(task, &hand, abi, &control)
}

/// The control channel where attempts look for it: at 3.
fn control() -> Result<OwnedFd, String> {
    let inherited = own(0);
    let control = dup(&inherited).map_err(text("control channel"))?;
    // 0 stays as it is, open for as long as this process lives.
    let _ = inherited.into_raw_fd();
    match control.as_raw_fd() {
        3 => Ok(control),
        other => Err(format!("jail: the control channel is {other}")),
    }
}

/// The signal by which a process ended, within or not.
pub fn signal_of(status: ExitStatus) -> Option<i32> {
    let within = status.code().and_then(|code| code.checked_sub(SIGNALED)).filter(|signal| *signal > 0);
    status.signal().or(within)
}
