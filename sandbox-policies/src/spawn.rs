//! Spawning a program by descriptor into a confinement of its own: the parent's side.
//!
//! One raw `clone3` makes the child in new namespaces; the parent writes its id maps and lets it go on; the
//! child (`child`) confines itself and execs. It reports each failure by a pipe that the exec closes, so that
//! [`spawn`] returns when the program runs or with the step at which it went wrong, and then leaves nothing
//! behind.
//!
//! The thread that spawns must live as long as the child: the child is killed when that thread ends. A *sibling* is
//! spawned on behalf of the caller's parent: it is that one's child and dies with that one ([`spawner`]).

mod child;
pub mod foreign;
mod identity;
pub mod spawner;

use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{pipe2, write};

pub use identity::Identity;

use crate::directory::{self, Directory, Tree};
use crate::namespaces::{Kinship, Namespaces};
use crate::system_calls::{ArgumentVector, Clone, signal_process};
use crate::{Error, Requirement};
use child::{Message, Start, Step};

/// What to spawn, and with what.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The executable: static, readable and executable by all.
    pub program: BorrowedFd<'a>,
    /// Its name: argument 0, and what errors call it.
    pub name: &'a str,
    /// Its arguments from 1 on.
    pub arguments: &'a [&'a str],
    /// Becomes descriptor 2: the writing end of a pipe.
    pub log: BorrowedFd<'a>,
    /// Becomes descriptor 3: one end of the control channel.
    pub control: BorrowedFd<'a>,
    /// Becomes descriptors 0 and 1: /dev/null.
    pub null: BorrowedFd<'a>,
    /// Who the program is outside of its user namespace.
    pub identity: Identity,
    /// What to do when a namespace cannot be had.
    pub requirement: Requirement,
    /// What its root is; `None`: empty.
    pub directory: Option<Directory<'a>>,
    /// The control group to begin in ([`crate::cgroup::Group`]); `None`: that of the caller.
    pub group: Option<BorrowedFd<'a>>,
}

/// A spawned program. Dropping it neither kills nor waits.
#[derive(Debug)]
pub struct Child {
    name: String,
    pid: i32,
    pidfd: OwnedFd,
    lacking: Vec<String>,
    ended: Option<Ended>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal; 31 is SIGSYS, a system call that its filter refused.
    Signaled(i32),
}

/// Spawns the program of `plan` as a child of the caller's; when this returns `Ok` the exec has happened.
pub fn spawn(plan: &Plan<'_>) -> Result<Child, Error> {
    // It was killed: that takes no longer than it takes the kernel.
    spawn_as(plan, Kinship::Child, &mut |mut failed| drop(failed.wait()))
}

/// `failed` is handed each child that came to nothing, killed: it is to be waited for by whose child it is.
fn spawn_as(plan: &Plan<'_>, kinship: Kinship, failed: &mut dyn FnMut(Child)) -> Result<Child, Error> {
    match (spawn_into(plan, kinship, None, failed), plan.requirement) {
        // Some hosts let an ordinary user make namespaces and then grant no right in them (Ubuntu's AppArmor
        // does): that is to have none.
        (Err(Error::Child { step, errno: Errno::EPERM | Errno::EACCES, .. }), Requirement::Available)
            if plan.directory.is_none() && Step::RIGHTS_IN_NAMESPACES.iter().any(|it| it.name() == step) =>
        {
            spawn_into(plan, kinship, Some(Namespaces::none()), failed)
        }
        (outcome, _) => outcome,
    }
}

/// Spawns into these namespaces; `None`: into the best that the plan's requirement allows.
fn spawn_into(
    plan: &Plan<'_>,
    kinship: Kinship,
    namespaces: Option<Namespaces>,
    failed: &mut dyn FnMut(Child),
) -> Result<Child, Error> {
    let wrong = |step| move |errno| Error::Spawn { name: plan.name.to_owned(), step, errno };
    let arguments = argument_strings(plan.name, plan.arguments)?;
    let arguments: Vec<_> = arguments.iter().map(CString::as_c_str).collect();
    let vector = ArgumentVector::new(&arguments);
    let (reports, reporter) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(wrong("pipe"))?;
    let (go_on, let_go) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(wrong("pipe"))?;
    // In the new user namespace nobody can tell any more.
    let privileged = identity::may_clear_groups();
    let (tree, unmapped) = match plan.directory {
        Some(directory) => directory::detach(directory, plan.identity).map_err(wrong("shared directory"))?,
        None => (Tree::None, None),
    };
    let (side, namespaces) = match (namespaces, plan.directory) {
        (Some(these), _) => these.clone(kinship, plan.group).map(|side| (side, these)),
        (None, None) => Namespaces::clone_best(plan.requirement, kinship, plan.group),
        // All of them, whatever else may be missing: what would be served without is the host's own root.
        (None, Some(_)) => {
            let all = Namespaces::all();
            let at_first = if matches!(tree, Tree::None) { all.without(libc::CLONE_NEWNS) } else { all };
            at_first.clone(kinship, plan.group).map(|side| (side, all))
        }
    }
    .map_err(wrong("namespaces"))?;
    let (pid, pidfd) = match side {
        Clone::Child => {
            // Ours to close: the parent's death must show as the end of this pipe.
            drop(let_go);
            child::run(
                &Start { plan, namespaces, privileged, tree: &tree, go_on: &go_on, reporter: &reporter },
                &vector,
            )
        }
        Clone::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop((reporter, go_on, tree));

    let mut child = Child { name: plan.name.to_owned(), pid, pidfd, lacking: Vec::new(), ended: None };
    child.lacking.extend(namespaces.missing().map(|kind| format!("{}: {kind} namespace: none", plan.name)));
    child.lacking.extend(unmapped.map(|errno| {
        format!(
            "{}: the directory's owner cannot be mapped to it: {errno}; it may do what everybody may",
            plan.name
        )
    }));
    if let Err(error) = child.start(plan, namespaces, let_go, reports) {
        // Nothing may stay behind, and the failure is what the caller hears of.
        child.kill().ok();
        failed(child);
        return Err(error);
    }
    Ok(child)
}

/// The argument vector of a program: its name first.
fn argument_strings(name: &str, arguments: &[&str]) -> Result<Vec<CString>, Error> {
    let strings = [name].into_iter().chain(arguments.iter().copied());
    strings
        .map(|string| CString::new(string).map_err(|_| Error::Argument { name: name.to_owned() }))
        .collect()
}

impl Child {
    /// Its pid, as the spawner sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What could not be had for it, one line each.
    pub fn lacking(&self) -> &[String] {
        &self.lacking
    }

    /// Kills it, and with it all of its pid namespace. That it is dead already is no error.
    pub fn kill(&self) -> Result<(), Error> {
        match signal_process(self.pidfd.as_fd(), libc::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(Error::Process { action: "kill", pid: self.pid, errno }),
        }
    }

    /// How it ended, if it has; reaps it then.
    pub fn try_wait(&mut self) -> Result<Option<Ended>, Error> {
        self.reap(WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)
    }

    /// Waits until it ends.
    pub fn wait(&mut self) -> Result<Ended, Error> {
        loop {
            match self.reap(WaitPidFlag::WEXITED) {
                Ok(Some(ended)) => return Ok(ended),
                Ok(None) | Err(Error::Process { errno: Errno::EINTR, .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn reap(&mut self, flags: WaitPidFlag) -> Result<Option<Ended>, Error> {
        if self.ended.is_none() {
            let status = waitid(Id::PIDFd(self.pidfd.as_fd()), flags).map_err(|errno| Error::Process {
                action: "wait for",
                pid: self.pid,
                errno,
            })?;
            self.ended = match status {
                WaitStatus::Exited(_, code) => Some(Ended::Exited(code)),
                WaitStatus::Signaled(_, signal, _) => Some(Ended::Signaled(signal as i32)),
                _ => None,
            };
        }
        Ok(self.ended)
    }

    /// Writes the maps, lets the child go on, and listens until the exec closes its pipe.
    fn start(
        &mut self,
        plan: &Plan<'_>,
        namespaces: Namespaces,
        let_go: OwnedFd,
        reports: OwnedFd,
    ) -> Result<(), Error> {
        if namespaces.has(libc::CLONE_NEWUSER)
            && let Err((step, errno)) = plan.identity.map(self.pid)
        {
            // Of a child that somebody killed the maps are not ours any more. One that lives ends by itself when
            // it is not let go.
            drop(let_go);
            return Err(match self.wait() {
                Ok(Ended::Signaled(_)) => Error::DiedBeforeExec { name: self.name.clone() },
                // Also where it is for our parent to wait for it.
                _ => Error::Spawn { name: self.name.clone(), step, errno },
            });
        }
        self.let_go(let_go, reports)
    }

    /// Lets the child go on, and listens until the exec closes its pipe.
    fn let_go(&mut self, let_go: OwnedFd, reports: OwnedFd) -> Result<(), Error> {
        // A child that is gone already has said why, or its silence is the answer.
        write(&let_go, &[1]).ok();
        let mut bytes = Vec::new();
        std::fs::File::from(reports).read_to_end(&mut bytes).map_err(|error| Error::Spawn {
            name: self.name.clone(),
            step: "listen to the child",
            errno: Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        })?;
        self.heed(&bytes)
    }

    /// Sorts the child's reports: a fatal one is an error, the others are lacking layers.
    fn heed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let (messages, _) = bytes.as_chunks();
        let mut executing = false;
        for message in messages.iter().copied().map(Message::from_bytes) {
            if message.fatal {
                let (step, errno) = (message.step.name(), message.errno);
                return Err(Error::Child { name: self.name.clone(), step, errno });
            }
            if message.step == Step::Executing {
                executing = true;
            } else {
                self.lacking.push(format!("{}: {}: {}", self.name, message.step.name(), message.errno));
            }
        }
        if executing { Ok(()) } else { Err(Error::DiedBeforeExec { name: self.name.clone() }) }
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Identity {
    /// The parent's half: the child's one user and one group, mapped to who they are out here.
    fn map(&self, pid: i32) -> Result<(), (&'static str, Errno)> {
        let put = |file: &'static str, text: &str| {
            std::fs::write(format!("/proc/{pid}/{file}"), text)
                .map_err(|error| (file, Errno::from_raw(error.raw_os_error().unwrap_or(0))))
        };
        // Root maps a group without giving up setgroups, and so the child can drop those that it inherited.
        if !identity::may_clear_groups() {
            put("setgroups", "deny")?;
        }
        put("uid_map", &format!("{} {} 1", Self::INNER, self.outer_uid))?;
        put("gid_map", &format!("{} {} 1", Self::INNER, self.outer_gid))
    }
}

impl Plan<'_> {
    fn numbers(&self) -> [i32; 4] {
        [self.null.as_raw_fd(), self.log.as_raw_fd(), self.control.as_raw_fd(), self.program.as_raw_fd()]
    }
}
