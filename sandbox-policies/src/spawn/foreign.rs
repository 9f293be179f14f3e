//! Spawning a program of somebody else's, which confines itself: it needs what ours must not have, as the host's network,
//! and knows better than we what else it can do without.
//!
//! It begins with what any of ours begins with but namespaces and ids: a program executed by descriptor with an empty
//! environment and exactly four descriptors, that gains no privileges by exec, in a session of its own, without core dumps,
//! which dies with the thread that spawned it. The last does not outlive a change of its ids: who gives root's machine such
//! a program counts on its ending by itself when the socket that it serves is closed.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::child;
use super::{Child, argument_strings};
use crate::Error;
use crate::namespaces::{Kinship, Namespaces};
use crate::system_calls::{ArgumentVector, Clone};

/// What to spawn, and with what.
#[derive(Debug)]
pub struct Foreign<'a> {
    /// The executable.
    pub program: BorrowedFd<'a>,
    /// Its name: argument 0, and what errors call it.
    pub name: &'a str,
    /// Its arguments from 1 on.
    pub arguments: &'a [&'a str],
    /// Becomes descriptors 0 and 1: /dev/null.
    pub null: BorrowedFd<'a>,
    /// Becomes descriptor 2.
    pub log: BorrowedFd<'a>,
    /// Becomes descriptor 3: what it serves.
    pub socket: BorrowedFd<'a>,
    /// The control group to begin in; `None`: that of the caller.
    pub group: Option<BorrowedFd<'a>>,
}

/// Spawns it; when this returns `Ok` the exec has happened.
pub fn spawn(foreign: &Foreign<'_>) -> Result<Child, Error> {
    let failed = |step| move |errno| Error::Spawn { name: foreign.name.to_owned(), step, errno };
    let arguments = argument_strings(foreign.name, foreign.arguments)?;
    let arguments: Vec<_> = arguments.iter().map(CString::as_c_str).collect();
    let vector = ArgumentVector::new(&arguments);
    let (reports, reporter) = pipe2(OFlag::O_CLOEXEC).map_err(failed("pipe"))?;
    let (go_on, let_go) = pipe2(OFlag::O_CLOEXEC).map_err(failed("pipe"))?;
    let numbers = [foreign.null, foreign.log, foreign.socket, foreign.program].map(|fd| fd.as_raw_fd());
    let (pid, pidfd) =
        match Namespaces::none().clone(Kinship::Child, foreign.group).map_err(failed("clone"))? {
            Clone::Child => {
                // Ours to close: the parent's death must show as the end of this pipe.
                drop(let_go);
                child::run_foreign(numbers, (&go_on, &reporter), &vector)
            }
            Clone::Parent(pid, pidfd) => (pid, pidfd),
        };
    drop((reporter, go_on));
    let mut child = Child::adopt(foreign.name, pid, pidfd);
    match child.let_go(let_go, reports) {
        Ok(()) => Ok(child),
        Err(error) => {
            child.kill().ok();
            child.wait().ok();
            Err(error)
        }
    }
}
