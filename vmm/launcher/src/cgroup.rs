//! The control groups of a machine: where they are made, and what each program may use.
//!
//! Without a delegated directory there are none, which is said and no reason to refuse, unless the user named one.

use std::fmt::{self, Display, Formatter};
use std::os::fd::{AsFd, BorrowedFd};

use sandbox_policies::Program;
use sandbox_policies::cgroup::{Delegated, Group, Limits};

use crate::error::Error;
use crate::machine::Machine;

/// Threads beyond those that a program is known to have: its first, the console's, and those that KVM makes in its
/// name.
const SPARE_TASKS: u64 = 16;
/// Memory of a program beyond the guest's.
const SPARE_MEMORY: u64 = 64 << 20;
/// The same of one that keeps tables of an image: as many as there are with the largest clusters.
const SPARE_MEMORY_FOR_TABLES: u64 = 768 << 20;
/// Memory of a program of somebody else's, with what the kernel holds in its sockets.
const FOREIGN_MEMORY: u64 = 512 << 20;
/// A page table, KVM's or a device's own, is a 512th of what it maps; KVM keeps as much again for each.
const TABLES: u64 = 128;

/// Where the groups of a machine are.
#[derive(Debug)]
pub enum ControlGroups {
    /// In this directory.
    In(Delegated),
    /// There are none.
    None,
}

impl ControlGroups {
    /// In the directory that the user named. Not in our own group: a group has processes or groups with limits.
    pub fn of(machine: &Machine) -> Result<Self, Error> {
        match &machine.cgroup {
            Some(path) => Ok(Self::In(Delegated::open(path)?)),
            None => Ok(Self::None),
        }
    }

    /// A group of this name for processes of `program`, which have so many threads of their own making.
    pub fn group(
        &self,
        machine: &Machine,
        name: &str,
        program: Program,
        threads: u64,
    ) -> Result<Option<Group>, Error> {
        match self {
            Self::In(delegated) => {
                Ok(Some(delegated.limited(name, &limits(program, machine.most_memory(), threads))?))
            }
            Self::None => Ok(None),
        }
    }

    /// A group of this name for a program of somebody else's, which has one thread and no guest memory.
    pub fn foreign(&self, name: &str) -> Result<Option<Group>, Error> {
        let limits = Limits { tasks: SPARE_TASKS, memory: FOREIGN_MEMORY };
        match self {
            Self::In(delegated) => Ok(Some(delegated.limited(name, &limits)?)),
            Self::None => Ok(None),
        }
    }

    /// What a confined launcher must still be able to remove groups from.
    pub fn directory(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::In(delegated) => Some(delegated.as_fd()),
            Self::None => None,
        }
    }
}

impl Display for ControlGroups {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::In(_) => "cgroup",
            Self::None => "no cgroup (not delegated)",
        })
    }
}

/// A page of guest memory counts for whoever touched it first, the core or any device: each may have touched all.
fn limits(program: Program, guest_memory: u64, threads: u64) -> Limits {
    let spare = match program {
        Program::DeviceBlkQcow2 => SPARE_MEMORY_FOR_TABLES,
        _ => SPARE_MEMORY,
    };
    let memory = guest_memory.saturating_add(guest_memory / TABLES).saturating_add(spare);
    Limits { tasks: threads.saturating_add(SPARE_TASKS), memory }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_touches_all_of_guest_memory_is_within_its_limit() {
        let small = limits(Program::DeviceBlk, 128 << 20, 2);
        assert_eq!((small.tasks, small.memory), (18, (128 + 1 + 64) << 20));
        assert!(limits(Program::Core, u64::MAX, u64::MAX).memory == u64::MAX);
        assert!(limits(Program::DeviceBlkQcow2, 128 << 20, 2).memory > small.memory);
    }
}
