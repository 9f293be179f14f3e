//! The empty root: a tmpfs without room for a single file, read-only, nosuid, nodev, noexec, and nothing
//! beneath.
//!
//! [`enter`] runs in the child between clone and exec and allocates nothing; [`shortcomings`] runs in the
//! program.

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, pivot_root};

/// One inode: the root directory takes it, so that nothing can ever be created.
const OPTIONS: &str = "size=4k,nr_inodes=1,mode=555";

/// Where a mount is mounted before it becomes the root. Any directory that surely exists will do.
pub const MOUNT_POINT: &std::ffi::CStr = c"/proc";

/// Makes the root of the calling process an empty one. It must be alone in a mount namespace of its own.
pub fn enter() -> Result<(), Errno> {
    // Nothing that we mount may propagate to the host, and nothing that it mounts to us.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("none"), MOUNT_POINT, Some("tmpfs"), safe, Some(OPTIONS))?;
    chdir(MOUNT_POINT)?;
    // The old root is stacked on the new one at the same place, then taken off: no directory is needed for
    // it.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    mount(None::<&str>, "/", None::<&str>, safe | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>)
}

/// What is wrong with the root of the calling process: one line for each.
pub fn shortcomings() -> Vec<String> {
    let mut found = Vec::new();
    match std::fs::read_dir("/").map(Iterator::count) {
        Ok(0) => {}
        Ok(entries) => found.push(format!("empty root: it has {entries} entries")),
        Err(error) => found.push(format!("empty root: it cannot be listed: {error}")),
    }
    let wanted = FsFlags::ST_RDONLY | FsFlags::ST_NOSUID | FsFlags::ST_NODEV | FsFlags::ST_NOEXEC;
    match statvfs("/") {
        Ok(root) if root.flags().contains(wanted) => {}
        Ok(root) => found.push(format!("empty root: mounted with {:?}, not {wanted:?}", root.flags())),
        Err(errno) => found.push(format!("empty root: its mount options cannot be read: {errno}")),
    }
    found
}
