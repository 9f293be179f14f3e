//! One directory of the host as the root of a spawned program: a mount of it alone, nosuid, nodev, noexec, read-only where
//! that is asked for, and nothing else, neither what is above it nor what is mounted beneath it.
//!
//! A mount can be copied only by somebody who may mount in the namespace that it belongs to. Root's spawning process may:
//! it makes a copy that is mounted nowhere yet ([`detach`]), in which the directory's owner is who the child is outside.
//! An ordinary user's may not. There the child keeps its parent's mount namespace until its working directory is the
//! descriptor's, and then takes a namespace of its own: the kernel carries a working directory over into the copy, no path
//! is walked and nothing can be put in its place meanwhile ([`enter`]). In either case the directory is that of the
//! descriptor which the launcher opened.
//!
//! Mounts beneath the directory stay out of the copy. Where an ordinary user cannot have it without them (the kernel does
//! not show to him what a mount of the host covers), it is refused.
//!
//! [`enter`] runs in the child between clone and exec and allocates nothing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::fstat;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{chdir, fchdir, pipe2, pivot_root, read};

use crate::namespaces::{Kinship, Namespaces};
use crate::root::MOUNT_POINT;
use crate::spawn::Identity;
use crate::system_calls::{Clone, MountChange, change_mount, exit_now, mount_tree, move_tree};

/// The directory that is to be a program's root.
#[derive(Clone, Copy, Debug)]
pub struct Directory<'a> {
    /// Opened by whoever may, `O_PATH` or to be read.
    pub descriptor: BorrowedFd<'a>,
    /// Whether nothing in it can be changed by way of this root.
    pub readonly: bool,
}

/// What the child makes its root of.
#[derive(Debug)]
pub enum Tree {
    /// A copy that is mounted nowhere.
    Detached(OwnedFd),
    /// The child has to make one.
    None,
}

impl Directory<'_> {
    fn change(self) -> MountChange<'static> {
        MountChange { readonly: self.readonly, ids: None }
    }
}

/// The parent's part: a copy of the directory's mount, if the caller may make one. `identity` is who the child is outside;
/// if that is another than the directory's owner, the two are one to each other by way of this mount, in both
/// directions: files of the owner are the child's, and what the child makes is the owner's. Answers also what could not be had.
pub fn detach(directory: Directory<'_>, identity: Identity) -> Result<(Tree, Option<Errno>), Errno> {
    let tree = match mount_tree(Some(directory.descriptor)) {
        Ok(tree) => tree,
        Err(Errno::EPERM) => return Ok((Tree::None, None)),
        Err(errno) => return Err(errno),
    };
    let change = directory.change();
    let owner = fstat(directory.descriptor)?;
    if (owner.st_uid, owner.st_gid) == (identity.outer_uid, identity.outer_gid) {
        change_mount(tree.as_fd(), change)?;
        return Ok((Tree::Detached(tree), None));
    }
    let namespace = identity.in_place_of(owner.st_uid, owner.st_gid)?;
    let mapped = change_mount(tree.as_fd(), MountChange { ids: Some(namespace.as_fd()), ..change });
    match mapped {
        Ok(()) => Ok((Tree::Detached(tree), None)),
        // The file system cannot: what is open to everybody is open to the child.
        Err(errno) => {
            change_mount(tree.as_fd(), change)?;
            Ok((Tree::Detached(tree), Some(errno)))
        }
    }
}

/// The child's part: makes the directory its root. It has a mount namespace of its own by now only if the copy was made
/// for it.
pub fn enter(directory: Directory<'_>, tree: &Tree) -> Result<(), Errno> {
    match tree {
        Tree::Detached(tree) => {
            private()?;
            become_root(tree.as_fd())
        }
        Tree::None => {
            fchdir(directory.descriptor)?;
            unshare(CloneFlags::CLONE_NEWNS)?;
            private()?;
            let tree = mount_tree(None)?;
            change_mount(tree.as_fd(), directory.change())?;
            become_root(tree.as_fd())
        }
    }
}

/// Nothing that we mount may propagate to the host, and nothing that it mounts to us.
fn private() -> Result<(), Errno> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
}

fn become_root(tree: BorrowedFd<'_>) -> Result<(), Errno> {
    move_tree(tree, MOUNT_POINT)?;
    fchdir(tree)?;
    // As for an empty root: the old one is stacked on the new one, then taken off with all that is in it.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")
}

/// What is wrong with the root of a program that has a directory as its root: one line for each.
pub fn shortcomings() -> Vec<String> {
    let wanted = FsFlags::ST_NOSUID | FsFlags::ST_NODEV | FsFlags::ST_NOEXEC;
    match statvfs("/") {
        Ok(root) if root.flags().contains(wanted) => Vec::new(),
        Ok(root) => vec![format!("root directory: mounted with {:?}, not {wanted:?}", root.flags())],
        Err(errno) => vec![format!("root directory: its mount options cannot be read: {errno}")],
    }
}

impl Identity {
    /// A user namespace in which this user and group stand for that `uid` and `gid` of the host.
    fn in_place_of(self, uid: u32, gid: u32) -> Result<OwnedFd, Errno> {
        // A namespace needs a process that begins it. This one ends with the pipe, and so with its parent.
        let (until, held) = pipe2(OFlag::O_CLOEXEC)?;
        match Namespaces::user().clone(Kinship::Child, None)? {
            Clone::Child => {
                drop(held);
                let _ = read(&until, &mut [0]);
                exit_now(0)
            }
            Clone::Parent(pid, pidfd) => {
                let opened = self.stand_for(pid, uid, gid);
                drop(held);
                // Gone in any case.
                let _ = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED);
                opened
            }
        }
    }

    fn stand_for(self, pid: i32, uid: u32, gid: u32) -> Result<OwnedFd, Errno> {
        let wrong = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
        let put = |file, inside, outside| {
            std::fs::write(format!("/proc/{pid}/{file}"), format!("{inside} {outside} 1")).map_err(wrong)
        };
        put("uid_map", uid, self.outer_uid)?;
        put("gid_map", gid, self.outer_gid)?;
        std::fs::File::open(format!("/proc/{pid}/ns/user")).map(OwnedFd::from).map_err(wrong)
    }
}
