//! Control groups (cgroup v2, the kernel's admin-guide/cgroup-v2): one for each spawned program, in a directory that
//! was delegated to us.
//!
//! A program is cloned into its group ([`crate::spawn::Plan::group`]), whose limits are written before: it is never
//! outside of it. A group is a directory, and it is removed when its [`Group`] is dropped, which the launcher can still
//! do when it is confined. Whoever is killed removes nothing: therefore the owner of a group holds a lock on its
//! directory, and who uses the delegated directory next removes the groups that nobody holds.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat, major, minor};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use crate::Error;
use crate::namespaces::{Kinship, Namespaces};
use crate::system_calls::{Clone, exit_now};

/// The controllers without which a directory is none for us.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];
/// Microseconds in which a group may run as long as `cpu.max` says: the kernel's own choice.
const PERIOD: u64 = 100_000;
/// What the names of our groups begin with.
const PREFIX: &str = "vmm-";
/// How often removal is tried: the last process of a group may be on its way out, or its end be known before the kernel
/// is done with it.
const REMOVALS: u8 = 100;
/// Milliseconds.
const BETWEEN_REMOVALS: u8 = 10;

/// A directory in which we may make groups.
#[derive(Debug)]
pub struct Delegated {
    path: PathBuf,
    directory: File,
    /// Whether groups in it may be limited in processor time.
    processors: bool,
    /// And in what they do with disks.
    disks: bool,
}

/// What the programs of a group may use together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Processes and threads.
    pub tasks: u64,
    /// Bytes: of their own, and of files and guest memory that they were the first to touch.
    pub memory: u64,
    /// Processors that they may keep busy, where the directory has the controller for that.
    pub processors: u64,
    /// What they may do with one disk, where it has that for this.
    pub disk: Option<DiskLimit>,
}

/// What may be read from a block device in a second, and as much again written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskLimit {
    /// The number of the whole device.
    pub device: BlockDevice,
    /// Bytes.
    pub bandwidth: u64,
}

/// A block device that has requests of its own, and so not a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    major: u64,
    minor: u64,
}

impl BlockDevice {
    /// That which `file` is, or on which its file system lies. None: it lies in memory, on a network, or on more devices than
    /// one, as the kernel says it by the number 0.
    #[must_use]
    pub fn below(file: BorrowedFd<'_>) -> Option<Self> {
        let found = fstat(file).ok()?;
        let is_block_device = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFBLK;
        let number = if is_block_device { found.st_rdev } else { found.st_dev };
        let (major, minor) = (major(number), minor(number));
        if major == 0 {
            return None;
        }
        // Of a partition: the folder above its own is its disk's.
        let folder = format!("/sys/dev/block/{major}:{minor}");
        let disk = Path::new(&folder).join("partition").exists().then(|| format!("{folder}/../dev"));
        let whole = disk.map_or(Some(format!("{major}:{minor}")), |path| fs::read_to_string(path).ok())?;
        let (major, minor) = whole.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl DiskLimit {
    /// A line of `io.max`.
    fn line(&self) -> String {
        let Self { device: BlockDevice { major, minor }, bandwidth } = self;
        format!("{major}:{minor} rbps={bandwidth} wbps={bandwidth}")
    }
}

/// A group. Dropping it removes it, once it is empty.
#[derive(Debug)]
pub struct Group {
    name: String,
    parent: File,
    /// Locked as long as we live.
    directory: File,
}

impl Delegated {
    /// The group at `path`, which must have the controllers for memory and tasks to pass on, may have those for processors and
    /// disks, and into whose groups we may put processes. Removes groups that an owner left behind.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::with(path, &CONTROLLERS)
    }

    fn with(path: &Path, controllers: &[&str]) -> Result<Self, Error> {
        let wrong = |error: std::io::Error| not_delegated(path, &error.to_string());
        let directory = File::open(path).map_err(wrong)?;
        if fstatfs(&directory).map(|found| found.filesystem_type()) != Ok(CGROUP2_SUPER_MAGIC) {
            return Err(not_delegated(path, "is no cgroup v2"));
        }
        let mut delegated = Self { path: path.to_owned(), directory, processors: false, disks: false };
        // Privileges would help to make groups, but they are gone when groups are removed.
        let found = delegated.directory.metadata().map_err(wrong)?;
        if found.uid() != geteuid().as_raw() || found.mode() & 0o200 == 0 {
            return Err(not_delegated(path, &format!("is not user {}'s own to write to", geteuid())));
        }
        delegated.pass_on(controllers)?;
        delegated.processors = delegated.pass_on(&["cpu"]).is_ok();
        delegated.disks = delegated.pass_on(&["io"]).is_ok();
        delegated.alone(|| delegated.sweep()).map_err(wrong)?;
        delegated.group("trial", &[])?.admits().map_err(|errno| not_delegated(path, errno.desc()))?;
        Ok(delegated)
    }

    /// Makes the controllers available to groups in here.
    fn pass_on(&self, controllers: &[&str]) -> Result<(), Error> {
        let wrong = |error: std::io::Error| not_delegated(&self.path, &error.to_string());
        let words = |file: &str| fs::read_to_string(self.path.join(file)).map_err(wrong);
        let (had, passed) = (words("cgroup.controllers")?, words("cgroup.subtree_control")?);
        let holds = |list: &str, wanted: &str| list.split_whitespace().any(|word| word == wanted);
        for controller in controllers {
            if !holds(&had, controller) {
                return Err(not_delegated(&self.path, &format!("has no {controller} controller")));
            }
            if !holds(&passed, controller) {
                let written = fs::write(self.path.join("cgroup.subtree_control"), format!("+{controller}"));
                written.map_err(|error| match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                    // A group has processes or groups with limits, not both.
                    Errno::EBUSY => not_delegated(&self.path, "has processes of its own"),
                    _ => wrong(error),
                })?;
            }
        }
        Ok(())
    }

    /// Does something while nobody else does it here: a group that is being made has no lock of its own yet.
    fn alone<T>(&self, act: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
        self.directory.lock()?;
        let done = act();
        self.directory.unlock()?;
        done
    }

    /// Removes groups that nobody owns. What cannot be removed is not ours.
    fn sweep(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.path)?.flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let ours = name.starts_with(PREFIX);
            if ours && File::open(path).is_ok_and(|directory| directory.try_lock().is_ok()) {
                remove(&self.directory, &name);
            }
        }
        Ok(())
    }

    /// Makes a group with these limits; `name` tells it from others of this process.
    pub fn limited(&self, name: &str, limits: &Limits) -> Result<Group, Error> {
        let (tasks, memory) = (limits.tasks.to_string(), limits.memory.to_string());
        let processors = format!("{} {PERIOD}", limits.processors.saturating_mul(PERIOD));
        let mut written = vec![("pids.max", &*tasks), ("memory.max", &*memory)];
        written.extend(self.processors.then_some(("cpu.max", &*processors)));
        let group = self.group(name, &written)?;
        if let Some(disk) = limits.disk.filter(|_| self.disks) {
            // A device may be of a kind that the kernel keeps no account of. Its program has limits of its own.
            let _ = fs::write(self.path.join(&group.name).join("io.max"), disk.line());
        }
        Ok(group)
    }

    /// What groups in here limit, in words.
    #[must_use]
    pub fn limits(&self) -> &'static str {
        match (self.processors, self.disks) {
            (true, true) => "memory, threads, processors and disks",
            (true, false) => "memory, threads and processors, and none for disks (it has no io controller)",
            (false, true) => "memory, threads and disks, and none for processors (it has no cpu controller)",
            (false, false) => {
                "memory and threads, and none for processors and disks (it has no cpu and io controllers)"
            }
        }
    }

    fn group(&self, name: &str, limits: &[(&str, &str)]) -> Result<Group, Error> {
        let name = format!("{PREFIX}{}.{name}", std::process::id());
        let path = self.path.join(&name);
        let wrong = |error: std::io::Error| not_delegated(&path, &error.to_string());
        let parent = self.directory.try_clone().map_err(wrong)?;
        let made = self.alone(|| {
            fs::create_dir(&path)?;
            let directory = File::open(&path)?;
            directory.try_lock()?;
            Ok(directory)
        });
        let directory = made.map_err(wrong)?;
        let group = Group { name, parent, directory };
        for (file, value) in limits {
            fs::write(path.join(file), value).map_err(wrong)?;
        }
        Ok(group)
    }
}

impl AsFd for Delegated {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Group {
    /// Tries a child that ends at once: we may lack the right to put a process here.
    fn admits(&self) -> Result<(), Errno> {
        match Namespaces::none().clone(Kinship::Child, Some(self.as_fd()))? {
            Clone::Child => exit_now(0),
            Clone::Parent(_, pidfd) => waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED).map(drop),
        }
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        remove(&self.parent, &self.name);
    }
}

/// Removes a group, if that can be: not one that somebody else has made groups in.
fn remove(parent: &File, name: &str) {
    for _ in 0..REMOVALS {
        match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
            Err(Errno::EBUSY) => poll(&mut [], PollTimeout::from(BETWEEN_REMOVALS)).map_or((), drop),
            _ => return,
        }
    }
}

fn not_delegated(path: &Path, found: &str) -> Error {
    Error::NotDelegated { path: path.display().to_string(), found: found.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};

    /// A group of any hierarchy that this host has, which will do when no limit is wanted. An ordinary user has none.
    fn own(name: &str) -> Option<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let hierarchy = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?;
        let path = Path::new(hierarchy).join(format!("test-{}-{name}", std::process::id()));
        fs::create_dir(&path).ok().map(|()| path)
    }

    #[test]
    fn what_is_no_group_is_named() {
        let refused = Delegated::open(Path::new("/proc")).unwrap_err().to_string();
        assert_eq!(refused, "cannot make control groups in /proc: is no cgroup v2");
        assert!(Delegated::open(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn a_group_lives_as_long_as_its_owner() {
        let Some(path) = own("lives") else { return };
        let left = path.join(format!("{PREFIX}1.left"));
        fs::create_dir(&left).unwrap();
        let delegated = Delegated::with(&path, &[]).unwrap();
        assert!(!left.exists(), "nobody holds it: it is removed");
        let group = delegated.group("test", &[]).unwrap();
        let place = path.join(&group.name);
        Delegated::with(&path, &[]).unwrap();
        assert!(place.exists(), "it is held");
        assert!(delegated.group("test", &[]).is_err(), "one of a name");
        group.admits().unwrap();
        drop(group);
        assert!(!place.exists());
        fs::remove_dir(&path).unwrap();
    }

    #[test]
    fn a_launcher_under_landlock_removes_groups_and_no_other_directory() {
        use crate::landlock::{Reach, restrict};
        let Some(path) = own("landlock") else { return };
        let delegated = Delegated::with(&path, &[]).unwrap();
        let group = delegated.group("confined", &[]).unwrap();
        let place = path.join(&group.name);
        // Landlock is a thread's own.
        let outer = path.clone();
        let confined = std::thread::spawn(move || {
            let abi = restrict(Reach::Children { groups: Some(delegated.as_fd()) }).unwrap();
            drop(group);
            (abi, fs::remove_dir(outer).is_ok())
        });
        let (abi, removed) = confined.join().unwrap();
        assert!(!place.exists());
        assert_eq!(removed, abi == 0, "only a host without landlock lets it");
        assert_eq!(fs::remove_dir(&path).is_ok(), !removed);
    }

    #[test]
    fn the_device_below_a_file_is_a_whole_one_or_none() {
        let line = DiskLimit { device: BlockDevice { major: 259, minor: 3 }, bandwidth: 5 << 20 }.line();
        assert_eq!(line, "259:3 rbps=5242880 wbps=5242880");
        let in_memory = memfd_create("m", MFdFlags::MFD_CLOEXEC).unwrap();
        let below = |path: &str| BlockDevice::below(File::open(path).unwrap().as_fd());
        assert_eq!(BlockDevice::below(in_memory.as_fd()), None);
        assert_eq!(below("/proc/self/status"), None);
        // Whatever this program lies on, if it is a device at all, has no disk above it.
        if let Some(BlockDevice { major, minor }) = below("/proc/self/exe") {
            let folder = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
            assert!(folder.exists() && !folder.join("partition").exists(), "{folder:?}");
        }
    }

    #[test]
    fn what_a_group_lacks_is_named() {
        let Some(path) = own("lacks") else { return };
        let refused = Delegated::with(&path, &["gravity"]).unwrap_err().to_string();
        assert!(refused.ends_with(": has no gravity controller"), "{refused}");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o555);
        fs::set_permissions(&path, mode).unwrap();
        let refused = Delegated::with(&path, &[]).unwrap_err().to_string();
        assert!(refused.ends_with("'s own to write to"), "{refused}");
        fs::remove_dir(&path).unwrap();
    }
}
