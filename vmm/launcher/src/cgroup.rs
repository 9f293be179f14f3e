//! The control groups of a machine: where they are made, and what each program may use.
//!
//! Without a delegated directory there are none, which is said and no reason to refuse, unless the user named one.

use std::fmt::{self, Display, Formatter};
use std::os::fd::{AsFd, BorrowedFd};

use protocol::Rates;
use sandbox_policies::cgroup::{BlockDevice, Delegated, DiskLimit, Group, Limits};

use crate::error::Error;
use crate::machine::Machine;

/// Threads beyond those that a program is known to have: its first, the console's, and those that KVM makes in its
/// name.
const SPARE_TASKS: u64 = 16;
/// Memory of a program beyond the guest's.
const SPARE_MEMORY: u64 = 64 << 20;
/// And for the tables of an image: as many as are kept with the largest clusters.
const MEMORY_FOR_TABLES: u64 = 704 << 20;
/// Memory of a program of somebody else's, with what the kernel holds in its sockets.
const FOREIGN_MEMORY: u64 = 512 << 20;
/// A page table, KVM's or a device's own, is a 512th of what it maps; KVM keeps as much again for each.
const TABLES: u64 = 128;

/// What the processes of a program have.
#[derive(Debug, Default)]
pub struct Share {
    /// Threads of their own making.
    pub threads: u64,
    /// Images whose tables they keep.
    pub images: u64,
    /// The limit for their disk.
    pub disk: Option<DiskLimit>,
}

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

    /// A group of this name for processes that have `share` in the machine.
    pub fn group(&self, machine: &Machine, name: &str, share: Share) -> Result<Option<Group>, Error> {
        match self {
            Self::In(delegated) => Ok(Some(delegated.limited(name, &limits(machine.most_memory(), share))?)),
            Self::None => Ok(None),
        }
    }

    /// A group of this name for a program of somebody else's, which has one thread and no guest memory.
    pub fn foreign(&self, name: &str) -> Result<Option<Group>, Error> {
        let limits = Limits { tasks: SPARE_TASKS, memory: FOREIGN_MEMORY, processors: 1, disk: None };
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
fn limits(guest_memory: u64, share: Share) -> Limits {
    let Share { threads, images, disk } = share;
    let spare = SPARE_MEMORY.saturating_add(images.saturating_mul(MEMORY_FOR_TABLES));
    let memory = guest_memory.saturating_add(guest_memory / TABLES).saturating_add(spare);
    // Threads that it should not have get no more done than those that it should, the first among them.
    let processors = threads.saturating_add(1);
    Limits { tasks: threads.saturating_add(SPARE_TASKS), memory, processors, disk }
}

/// What the kernel lets a program do with the disk at `file` that has itself to keep to `rates`: should it not do that any more,
/// it gets little further. Twice what it may do in its quickest second, so that what the file system does besides, and what is
/// read ahead, slows nobody who keeps to them. How many operations it does is not limited here: the kernel counts pieces.
pub fn disk_limit(file: impl AsFd, rates: &Rates) -> Option<DiskLimit> {
    let bandwidth = rates.bandwidth?;
    let bandwidth = bandwidth.per_second.saturating_add(bandwidth.burst).saturating_mul(2);
    Some(DiskLimit { device: BlockDevice::below(file.as_fd())?, bandwidth })
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Rate;
    use std::fs::File;

    #[test]
    fn a_disk_is_limited_where_there_is_a_device_and_a_bandwidth() {
        let rates = |bandwidth| Rates { bandwidth, operations: Some(Rate::of(5)) };
        let of = |path: &str, rates: &Rates| disk_limit(File::open(path).unwrap(), rates);
        assert_eq!(of("/proc/self/exe", &rates(None)), None);
        assert_eq!(of("/proc/self/status", &rates(Some(Rate::of(1000)))), None);
        if let Some(limit) = of("/proc/self/exe", &rates(Some(Rate::of(1000)))) {
            assert_eq!(limit.bandwidth, 2200);
        }
    }

    #[test]
    fn whoever_touches_all_of_guest_memory_is_within_its_limit() {
        let share = |threads, images| Share { threads, images, disk: None };
        let small = limits(128 << 20, share(2, 0));
        assert_eq!((small.tasks, small.memory), (18, (128 + 1 + 64) << 20));
        assert_eq!((small.processors, small.disk), (3, None));
        assert_eq!(limits(128 << 20, share(2, 3)).memory, (128 + 1 + 64 + 3 * 704) << 20);
        assert!(limits(u64::MAX, share(u64::MAX, u64::MAX)).memory == u64::MAX);
    }
}
