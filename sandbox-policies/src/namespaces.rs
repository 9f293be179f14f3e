//! The namespaces that every spawned program gets of its own, how many of them this host can make, and what
//! of them a program can see from inside without /proc.
//!
//! A user namespace comes first: it is what lets an ordinary user make the others, and what takes every
//! capability over the host from the child even before it drops its own.

use std::net::UdpSocket;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use std::os::fd::{AsFd, BorrowedFd};

use crate::Requirement;
use crate::error::is_exhaustion;
use crate::system_calls::{Clone, clone3, exit_now};

/// The host name that a spawned program sees.
pub const HOST_NAME: &str = "confined";

/// Each kind: its name and its clone flag, the user namespace first.
pub const KINDS: [(&str, i32); 7] = [
    ("user", libc::CLONE_NEWUSER),
    ("mount", libc::CLONE_NEWNS),
    ("pid", libc::CLONE_NEWPID),
    ("net", libc::CLONE_NEWNET),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("cgroup", libc::CLONE_NEWCGROUP),
];

/// Whose child a new process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinship {
    /// The caller's.
    Child,
    /// The caller's parent's, who alone can wait for it, and with whom it dies.
    Sibling,
}

impl Kinship {
    fn flag(self) -> u64 {
        match self {
            Self::Child => 0,
            Self::Sibling => u64::from(libc::CLONE_PARENT.unsigned_abs()),
        }
    }
}

/// A set of namespaces, as clone flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespaces(u64);

impl Namespaces {
    /// All seven kinds.
    pub fn all() -> Self {
        Self(KINDS.iter().fold(0, |flags, (_, flag)| flags | u64::from(flag.unsigned_abs())))
    }

    /// None: those of the caller.
    pub fn none() -> Self {
        Self(0)
    }

    /// The user namespace alone.
    pub fn user() -> Self {
        Self(u64::from(libc::CLONE_NEWUSER.unsigned_abs()))
    }

    /// The same without the kind of this clone flag.
    pub fn without(self, flag: i32) -> Self {
        Self(self.0 & !u64::from(flag.unsigned_abs()))
    }

    /// Whether the kind with this clone flag is in the set.
    pub fn has(self, flag: i32) -> bool {
        self.0 & u64::from(flag.unsigned_abs()) != 0
    }

    /// Clones the calling process into this set of new namespaces; the new process is pid 1 of its own, if `pid` is
    /// in it. It begins in the control group of this directory, if one is given.
    pub fn clone(self, kinship: Kinship, group: Option<BorrowedFd<'_>>) -> Result<Clone, Errno> {
        clone3(self.0 | kinship.flag(), group)
    }

    /// The kinds that are not in the set.
    pub fn missing(self) -> impl Iterator<Item = &'static str> {
        KINDS.iter().filter(move |(_, flag)| !self.has(*flag)).map(|(name, _)| *name)
    }

    /// Clones into all namespaces or, when `requirement` lets it, into as many as this host can make.
    pub fn clone_best(
        requirement: Requirement,
        kinship: Kinship,
        group: Option<BorrowedFd<'_>>,
    ) -> Result<(Clone, Self), Errno> {
        match (Self::all().clone(kinship, group), requirement) {
            (Ok(side), _) => Ok((side, Self::all())),
            (Err(errno), Requirement::Required) => Err(errno),
            // Not for now is not for ever, and no reason to be confined less.
            (Err(errno), Requirement::Available) if is_exhaustion(errno) => Err(errno),
            (Err(_), Requirement::Available) => {
                let possible = Self::possible();
                possible.clone(kinship, group).map(|side| (side, possible))
            }
        }
    }

    /// Tries the kinds one after the other, each on top of those that worked, with a child that ends at once.
    fn possible() -> Self {
        let mut set = Self::none();
        for (_, flag) in KINDS {
            let wider = Self(set.0 | u64::from(flag.unsigned_abs()));
            match wider.clone(Kinship::Child, None) {
                Ok(Clone::Child) => exit_now(0),
                Ok(Clone::Parent(_, pidfd)) => {
                    // A child that cannot be waited for is no reason to give up the namespace.
                    waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED).ok();
                    set = wider;
                }
                Err(_) => {}
            }
        }
        set
    }
}

/// What is wrong with the namespaces of the calling process, seen from inside: one line for each.
///
/// Only what shows without /proc can be checked: that it is pid 1, has our host name, and that not even the
/// loopback address can be reached. The posture, read from outside, compares all seven.
pub fn shortcomings() -> Vec<String> {
    let mut found = Vec::new();
    if std::process::id() != 1 {
        found.push(format!("pid namespace: this is process {}, not 1", std::process::id()));
    }
    match nix::unistd::gethostname() {
        Ok(name) if name == HOST_NAME => {}
        Ok(name) => found.push(format!("uts namespace: the host name is {}", name.display())),
        Err(errno) => found.push(format!("uts namespace: no host name: {errno}")),
    }
    let reached = UdpSocket::bind(("0.0.0.0", 0)).and_then(|socket| socket.connect(("127.0.0.1", 9)));
    if reached.is_ok() {
        found.push("net namespace: the loopback address can be reached".to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_every_kind_and_misses_none() {
        assert_eq!(Namespaces::all().missing().count(), 0);
        assert_eq!(Namespaces::none().missing().collect::<Vec<_>>(), KINDS.map(|(name, _)| name));
        // Namespace flags from linux/sched.h, as one number.
        assert_eq!(Namespaces::all().0, 0x7e02_0000);
    }
}
