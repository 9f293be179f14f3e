//! A second process of the launcher's, which can still spawn when the launcher itself no longer can.
//!
//! [`fork`] splits the calling process before it has read a byte that a guest or a device wrote; the copy keeps the
//! descriptors that it is told to keep, and nothing else, and confines itself. It is a copy and not a program of its own
//! because all that it needs, descriptors and what to do with them, is in the launcher's hands at that moment, and
//! because there is nothing in the launcher's memory then that a program of its own would not have.
//!
//! What the copy spawns are children of the launcher ([`spawn_sibling`]): the launcher waits for them and they die with
//! it, while the copy cannot even wait for them.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::{Child, Plan, spawn_as};
use crate::capabilities::Kept;
use crate::namespaces::{Kinship, Namespaces};
use crate::system_calls::Clone;
use crate::{Error, descriptors, end_process, stages};

/// Forks the calling process, which must have one thread. The copy keeps of all descriptors `kept` and `null`, which it
/// also has as 0 to 2, and `capabilities` of those that there are, confines itself, calls `serve` and ends.
pub fn fork(
    name: &str,
    null: BorrowedFd<'_>,
    kept: &[BorrowedFd<'_>],
    capabilities: Kept,
    serve: impl FnOnce(),
) -> Result<Child, Error> {
    let failed = |step| move |errno| Error::Spawn { name: name.to_owned(), step, errno };
    if !is_alone() {
        return Err(failed("fork with more than one thread")(Errno::EBUSY));
    }
    match Namespaces::none().clone(Kinship::Child, None).map_err(failed("fork"))? {
        Clone::Parent(pid, pidfd) => Ok(Child::adopt(name, pid, pidfd)),
        Clone::Child => {
            let kept: Vec<RawFd> = kept.iter().chain([&null]).map(AsRawFd::as_raw_fd).collect();
            let ready = descriptors::keep_only(null.as_raw_fd(), &kept).is_ok()
                && stages::confine_spawner(capabilities).is_ok();
            if ready {
                serve();
            }
            // Never by returning: the caller's descriptors are closed here, and not ours to drop.
            end_process(i32::from(!ready))
        }
    }
}

/// Whether the calling process has one thread: a copy of another would have one of them, and every lock that another held
/// for ever.
pub(crate) fn is_alone() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

/// Spawns the program of `plan` as a child of the caller's parent; when this returns `Ok` the exec has happened. `failed`
/// is handed each child that came to nothing, killed: it stays a zombie until that parent waits for it.
pub fn spawn_sibling(plan: &Plan<'_>, failed: &mut dyn FnMut(Child)) -> Result<Child, Error> {
    spawn_as(plan, Kinship::Sibling, failed)
}

impl Child {
    /// A child that somebody else made for the caller.
    pub fn adopt(name: &str, pid: i32, pidfd: OwnedFd) -> Self {
        Self { name: name.to_owned(), pid, pidfd, lacking: Vec::new(), ended: None }
    }

    /// The same, with what could not be had for it, one line each.
    #[must_use]
    pub fn without(self, lacking: Vec<String>) -> Self {
        Self { lacking, ..self }
    }
}
