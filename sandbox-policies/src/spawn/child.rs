//! The child between clone and exec: it gives up everything, then becomes the program.
//!
//! Nothing here allocates or takes a lock: the child is a copy of one thread of the spawner, and another may
//! have held the allocator's. It runs with the launcher's memory in view, therefore first thing it waits and
//! last thing it execs.
//!
//! The order matters. Mounts and host name need the capabilities of the new user namespace. So do the bounding
//! set and the ids, in this order: where there is no user namespace, root's change of ids ends its capabilities.
//! A change of ids also clears the death signal, which is set after it.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{read, sethostname, setsid, write};

use super::{Identity, Plan};
use crate::directory::{self, Tree};
use crate::namespaces::{HOST_NAME, Namespaces};
use crate::system_calls::{ArgumentVector, clear_groups, execute, exit_now, reset_signals, set_ids};
use crate::{capabilities, descriptors, limits, process, root};

/// A step of the child, as the parent names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    Wait,
    HostName,
    NestedNamespaces,
    EmptyRoot,
    Directory,
    Groups,
    Ids,
    Capabilities,
    NoNewPrivileges,
    DeathSignal,
    Session,
    Signals,
    CoreDumps,
    Descriptors,
    Executing,
    Exec,
    Unknown,
}

impl Step {
    const ALL: [Self; 16] = [
        Self::Wait,
        Self::HostName,
        Self::NestedNamespaces,
        Self::EmptyRoot,
        Self::Directory,
        Self::Groups,
        Self::Ids,
        Self::Capabilities,
        Self::NoNewPrivileges,
        Self::DeathSignal,
        Self::Session,
        Self::Signals,
        Self::CoreDumps,
        Self::Descriptors,
        Self::Executing,
        Self::Exec,
    ];

    /// Those that need a capability in the new user namespace.
    pub const RIGHTS_IN_NAMESPACES: [Self; 4] = [Self::HostName, Self::EmptyRoot, Self::Groups, Self::Ids];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wait => "wait for the id maps",
            Self::HostName => "host name",
            Self::NestedNamespaces => "forbid nested user namespaces",
            Self::EmptyRoot => "empty root",
            Self::Directory => "shared directory",
            Self::Groups => "supplementary groups",
            Self::Ids => "user and group ids",
            Self::Capabilities => "capabilities",
            Self::NoNewPrivileges => "no_new_privs",
            Self::DeathSignal => "death signal",
            Self::Session => "session",
            Self::Signals => "signals",
            Self::CoreDumps => "core dumps",
            Self::Descriptors => "descriptors",
            Self::Executing | Self::Exec => "exec",
            Self::Unknown => "unknown step",
        }
    }
}

/// What the child knows when it starts.
pub struct Start<'a> {
    pub plan: &'a Plan<'a>,
    /// Those that it is in.
    pub namespaces: Namespaces,
    /// What its root is made of, if that is a directory.
    pub tree: &'a Tree,
    /// Whether it can drop the supplementary groups.
    pub privileged: bool,
    /// Readable once the id maps are written; at its end when the parent is dead.
    pub go_on: &'a OwnedFd,
    /// Takes [`Message`]s; closed by exec.
    pub reporter: &'a OwnedFd,
}

/// One report from the child to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub step: Step,
    pub fatal: bool,
    pub errno: Errno,
}

impl Message {
    /// The step, whether it is fatal, and the error number, little endian.
    fn to_bytes(self) -> [u8; 6] {
        let [e0, e1, e2, e3] = (self.errno as i32).to_le_bytes();
        [self.step as u8, u8::from(self.fatal), e0, e1, e2, e3]
    }

    pub fn from_bytes([step, fatal, e0, e1, e2, e3]: [u8; 6]) -> Self {
        Self {
            step: Step::ALL.get(usize::from(step)).copied().unwrap_or(Step::Unknown),
            fatal: fatal != 0,
            errno: Errno::from_raw(i32::from_le_bytes([e0, e1, e2, e3])),
        }
    }
}

/// Confines this process and execs the plan's program. Never returns.
pub fn run(start: &Start<'_>, vector: &ArgumentVector<'_>) -> ! {
    run_after(|lacking| confine(start, lacking), start.reporter, vector)
}

/// Execs the program whose descriptor `prepare` answers. Never returns.
fn run_after(
    prepare: impl FnOnce(&dyn Fn(Step, Errno)) -> Result<i32, (Step, Errno)>,
    reporter: &OwnedFd,
    vector: &ArgumentVector<'_>,
) -> ! {
    let tell = |step, fatal, errno| {
        // A parent that no longer listens is dead, and so, at once, is its child.
        write(reporter, &Message { step, fatal, errno }.to_bytes()).ok();
    };
    let (step, errno) = match prepare(&|step, errno| tell(step, false, errno)) {
        Ok(program) => {
            tell(Step::Executing, false, Errno::UnknownErrno);
            (Step::Exec, execute(program, vector))
        }
        Err(failure) => failure,
    };
    tell(step, true, errno);
    exit_now(1)
}

/// Everything that can be given up before the exec. Answers the program's descriptor, out of the way.
fn confine(start: &Start<'_>, lacking: &dyn Fn(Step, Errno)) -> Result<i32, (Step, Errno)> {
    let Start { plan, namespaces, go_on, .. } = *start;
    let at = |step| move |errno| (step, errno);
    wait(go_on).map_err(at(Step::Wait))?;

    if namespaces.has(libc::CLONE_NEWUTS) {
        sethostname(HOST_NAME).map_err(at(Step::HostName))?;
    }
    if namespaces.has(libc::CLONE_NEWUSER) {
        // Not refused: the seccomp filters refuse every way to make one, too.
        forbid_nested_namespaces().unwrap_or_else(|errno| lacking(Step::NestedNamespaces, errno));
    }
    if let Some(shared) = plan.directory {
        directory::enter(shared, start.tree).map_err(at(Step::Directory))?;
    } else if namespaces.has(libc::CLONE_NEWNS) {
        root::enter().map_err(at(Step::EmptyRoot))?;
    }
    capabilities::drop_bounding().map_err(at(Step::Capabilities))?;
    give_up_ids(start)?;
    capabilities::drop_all().map_err(at(Step::Capabilities))?;
    leave(go_on, plan.numbers())
}

/// What every program begins with, whoever confines it. Answers the program's descriptor, out of the way.
fn leave(go_on: &OwnedFd, [null, log, control, program]: [i32; 4]) -> Result<i32, (Step, Errno)> {
    let at = |step| move |errno| (step, errno);
    process::no_new_privileges().map_err(at(Step::NoNewPrivileges))?;

    process::die_with_spawner().map_err(at(Step::DeathSignal))?;
    // The parent may have died before that took effect.
    alive(go_on).map_err(at(Step::DeathSignal))?;
    setsid().map_err(at(Step::Session))?;
    umask(Mode::from_bits_truncate(0o077));
    reset_signals().map_err(at(Step::Signals))?;
    limits::forbid_core_dumps().map_err(at(Step::CoreDumps))?;
    descriptors::place(null, log, control, program).map_err(at(Step::Descriptors))
}

/// Execs a program that confines itself. Never returns.
pub fn run_foreign(
    numbers: [i32; 4],
    (go_on, reporter): (&OwnedFd, &OwnedFd),
    vector: &ArgumentVector<'_>,
) -> ! {
    let prepare = |_: &dyn Fn(Step, Errno)| {
        wait(go_on).map_err(|errno| (Step::Wait, errno))?;
        leave(go_on, numbers)
    };
    run_after(prepare, reporter, vector)
}

/// Without a user namespace root still takes the child's own id; an ordinary user has no other than its own.
fn give_up_ids(start: &Start<'_>) -> Result<(), (Step, Errno)> {
    if start.privileged {
        clear_groups().map_err(|errno| (Step::Groups, errno))?;
    }
    let Identity { outer_uid, outer_gid } = start.plan.identity;
    let (uid, gid) = if start.namespaces.has(libc::CLONE_NEWUSER) {
        (Identity::INNER, Identity::INNER)
    } else {
        (outer_uid, outer_gid)
    };
    set_ids(uid, gid).map_err(|errno| (Step::Ids, errno))
}

fn wait(go_on: &OwnedFd) -> Result<(), Errno> {
    let mut byte = [0];
    match read(go_on, &mut byte)? {
        1 => Ok(()),
        _ => Err(Errno::EPIPE),
    }
}

fn alive(go_on: &OwnedFd) -> Result<(), Errno> {
    let mut ends = [PollFd::new(go_on.as_fd(), PollFlags::POLLIN)];
    match poll(&mut ends, PollTimeout::ZERO)? {
        0 => Ok(()),
        _ => Err(Errno::EPIPE),
    }
}

/// No user namespace beneath ours. The file shows the limit of the reader's own user namespace, in which we
/// still hold every capability.
fn forbid_nested_namespaces() -> Result<(), Errno> {
    let limit =
        open("/proc/sys/user/max_user_namespaces", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    write(&limit, b"0").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_pipe() {
        for step in Step::ALL {
            let message = Message { step, fatal: step == Step::Exec, errno: Errno::EACCES };
            assert_eq!(Message::from_bytes(message.to_bytes()), message);
        }
        assert_eq!(Message::from_bytes([255, 1, 0, 0, 0, 0]).step, Step::Unknown);
    }
}
