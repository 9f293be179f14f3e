//! The confinement of a live process as the kernel shows it in /proc: read from outside, by whoever may.
//!
//! The `status` files of every task stay readable. What a process that is not dumpable keeps to root (its
//! namespace links, descriptors and environment, and to strangers its mounts and root, too) reads as `None`
//! to anybody else: unreadable is not the same as absent. Landlock has no file in /proc; programs report
//! their ABI in `Ready`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::Error;

/// Everything that is compared with the expectation for a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posture {
    /// Its pid, as the reader sees it.
    pub pid: i32,
    /// One for each task; the first is the main thread.
    pub threads: Vec<Credentials>,
    /// By kind (`user`, `mnt`, …): whether it is another one than the reader's. `None`: not readable.
    pub namespaces: Option<BTreeMap<String, bool>>,
    /// Each descriptor and what it refers to (`/dev/null`, `pipe`, `socket`, `anon_inode:[eventfd]`, …). `None`:
    /// not readable.
    pub descriptors: Option<BTreeMap<i32, String>>,
    /// The soft and the hard limit by name, as in /proc/PID/limits; `None` is unlimited.
    pub limits: BTreeMap<String, (Option<u64>, Option<u64>)>,
    /// Its mounts, each as "mount point, type, options". `None`: not readable.
    pub mounts: Option<Vec<String>>,
    /// How many entries its root has. `None`: not readable.
    pub root_entries: Option<usize>,
    /// Where it is, from its own root. `None`: not readable.
    pub working_directory: Option<String>,
    /// How many variables its environment has. `None`: not readable.
    pub environment: Option<usize>,
    /// Its effective user and group as it sees them itself; `None`: in its user namespace they are nobody's.
    pub inner_ids: [Option<u32>; 2],
    /// Whether it is dumpable, which shows by who owns its files in /proc. `None`: it is root's, and so are they.
    pub dumpable: Option<bool>,
    /// Its control groups, a line of /proc/PID/cgroup each. `None`: not readable.
    pub control_groups: Option<Vec<String>>,
}

/// What /proc/PID/task/TID/status says of one thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The thread's name, at most 15 bytes.
    pub name: String,
    /// Real, effective, saved and file-system user id, as the reader sees them.
    pub uids: Vec<u32>,
    /// The same of the group.
    pub gids: Vec<u32>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// What new files are not to have.
    pub umask: u32,
    /// The process that started it, as the reader sees it; 0: not visible to the reader.
    pub parent: i32,
    /// Who traces it, as the reader sees that process; 0: nobody.
    pub tracer: i32,
    /// Its thread id in each pid namespace, from the reader's to its own.
    pub ns_pids: Vec<i32>,
    /// The capability sets: inheritable, permitted, effective, bounding, ambient.
    pub capabilities: [u64; 5],
    /// Whether no_new_privs is set.
    pub no_new_privs: bool,
    /// 0: no seccomp, 1: strict, 2: filter.
    pub seccomp: u32,
    /// How many filters are stacked.
    pub filters: u32,
    /// What the kernel says of its speculation past stores and along indirect branches, in its words; empty: nothing.
    pub speculation: [String; 2],
    /// Signals, the number N as bit N - 1: those that it has blocked, and those that its process ignores and handles.
    pub signals: [u64; 3],
}

/// Reads the posture of a live process.
pub fn read(pid: i32) -> Result<Posture, Error> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let unreadable = |path: &Path, error: &std::io::Error| Error::Posture {
        path: path.display().to_string(),
        errno: Errno::from_raw(error.raw_os_error().unwrap_or(0)),
    };
    let text = |path: PathBuf| fs::read_to_string(&path).map_err(|error| unreadable(&path, &error));

    let tasks = folder.join("task");
    let mut ids: Vec<i32> = names(&tasks)
        .map_err(|error| unreadable(&tasks, &error))?
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect();
    ids.sort_unstable_by_key(|id| (*id != pid, *id));
    let mut threads = Vec::new();
    for id in ids {
        match text(tasks.join(id.to_string()).join("status")) {
            Ok(status) => threads.push(credentials(&status)),
            // Ended since the folder was listed.
            Err(Error::Posture { errno: Errno::ENOENT | Errno::ESRCH, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if threads.is_empty() {
        return Err(Error::Posture { path: tasks.display().to_string(), errno: Errno::ESRCH });
    }

    let ids =
        threads.first().map_or([None; 2], |main| [&main.uids, &main.gids].map(|ids| ids.get(1).copied()));
    let [user, group] = ids;
    let owner = fs::metadata(folder.join("status")).ok().map(|status| status.uid());
    Ok(Posture {
        pid,
        threads,
        namespaces: namespaces(&folder.join("ns")),
        descriptors: descriptors(&folder.join("fd")),
        limits: limits(&text(folder.join("limits"))?),
        mounts: fs::read_to_string(folder.join("mountinfo"))
            .ok()
            .map(|text| text.lines().filter_map(mount).collect()),
        root_entries: names(&folder.join("root")).ok().map(|entries| entries.len()),
        working_directory: fs::read_link(folder.join("cwd"))
            .ok()
            .map(|path| path.to_string_lossy().into_owned()),
        environment: fs::read(folder.join("environ"))
            .ok()
            .map(|bytes| bytes.split(|byte| *byte == 0).filter(|variable| !variable.is_empty()).count()),
        inner_ids: [(user, "uid_map"), (group, "gid_map")]
            .map(|(id, map)| inner(id?, &fs::read_to_string(folder.join(map)).ok()?)),
        dumpable: user.filter(|user| *user != 0).zip(owner).map(|(user, owner)| user == owner),
        control_groups: fs::read_to_string(folder.join("cgroup"))
            .ok()
            .map(|text| text.lines().map(str::to_owned).collect()),
    })
}

/// What a map of ids (lines of inner, outer, count) makes of an outer id.
fn inner(id: u32, map: &str) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let (inner, outer, count) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        let offset = id.checked_sub(outer).filter(|offset| *offset < count)?;
        inner.checked_add(offset)
    })
}

fn names(folder: &Path) -> std::io::Result<Vec<String>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn credentials(status: &str) -> Credentials {
    let mut thread = Credentials::default();
    for (key, value) in status.lines().filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        let set = || u64::from_str_radix(value, 16).unwrap_or(u64::MAX);
        let [inheritable, permitted, effective, bounding, ambient] = &mut thread.capabilities;
        let [blocked, ignored, handled] = &mut thread.signals;
        match key {
            "Name" => value.clone_into(&mut thread.name),
            "Uid" => thread.uids = numbers(value),
            "Gid" => thread.gids = numbers(value),
            "Groups" => thread.groups = numbers(value),
            "Umask" => thread.umask = u32::from_str_radix(value, 8).unwrap_or(u32::MAX),
            "PPid" => thread.parent = value.parse().unwrap_or(0),
            "TracerPid" => thread.tracer = value.parse().unwrap_or(0),
            "NSpid" => thread.ns_pids = numbers(value),
            "CapInh" => *inheritable = set(),
            "CapPrm" => *permitted = set(),
            "CapEff" => *effective = set(),
            "CapBnd" => *bounding = set(),
            "CapAmb" => *ambient = set(),
            "SigBlk" => *blocked = set(),
            "SigIgn" => *ignored = set(),
            "SigCgt" => *handled = set(),
            "NoNewPrivs" => thread.no_new_privs = value == "1",
            "Speculation_Store_Bypass" => value.clone_into(&mut thread.speculation[0]),
            "SpeculationIndirectBranch" => value.clone_into(&mut thread.speculation[1]),
            "Seccomp" => thread.seccomp = value.parse().unwrap_or(0),
            "Seccomp_filters" => thread.filters = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    thread
}

fn numbers<T: std::str::FromStr>(value: &str) -> Vec<T> {
    value.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn namespaces(folder: &Path) -> Option<BTreeMap<String, bool>> {
    let mut differ = BTreeMap::new();
    for kind in names(folder).ok()? {
        // Those are what the next child would get, not what the process is in.
        if kind.ends_with("_for_children") {
            continue;
        }
        let theirs = fs::read_link(folder.join(&kind)).ok()?;
        let ours = fs::read_link(Path::new("/proc/self/ns").join(&kind)).ok()?;
        differ.insert(kind, theirs != ours);
    }
    Some(differ)
}

fn descriptors(folder: &Path) -> Option<BTreeMap<i32, String>> {
    let mut found = BTreeMap::new();
    for number in names(folder).ok()? {
        let target = match fs::read_link(folder.join(&number)) {
            Ok(target) => target,
            // Closed since the folder was listed, as is the descriptor by which a reader lists its own.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(_) => return None,
        };
        found.insert(number.parse().ok()?, kind(&target.to_string_lossy()));
    }
    Some(found)
}

/// `socket:[12345]` and `pipe:[12345]` without the inode's number, which is different each time;
/// `anon_inode:[eventfd]` says what it is.
fn kind(target: &str) -> String {
    let numbered = target.strip_suffix(']').and_then(|target| target.split_once(":["));
    match numbered {
        Some((kind, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => kind.to_owned(),
        _ => target.to_owned(),
    }
}

fn limits(text: &str) -> BTreeMap<String, (Option<u64>, Option<u64>)> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            // The name is padded to 26 columns and has blanks in it.
            let (name, rest) = line.split_at_checked(26)?;
            let mut values = rest.split_whitespace().map(|word| word.parse().ok());
            Some((name.trim().to_owned(), (values.next()?, values.next()?)))
        })
        .collect()
}

/// "36 35 0:32 / / ro,nosuid - tmpfs none ro,size=4k" to "/ tmpfs ro,nosuid".
fn mount(line: &str) -> Option<String> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(4);
    let (point, options) = (left.next()?, left.next()?);
    Some(format!("{point} {} {options}", right.split(' ').next()?))
}

/// One row: who, which filters on the weakest thread, which layers.
impl fmt::Display for Posture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = Credentials::default();
        let main = self.threads.first().unwrap_or(&default);
        let weakest =
            self.threads.iter().map(|thread| (thread.seccomp, thread.filters)).min().unwrap_or_default();
        let bare = self.threads.iter().filter(|thread| !thread.no_new_privs).count();
        let held = self.threads.iter().fold(0, |all, thread| {
            let [_, permitted, effective, _, ambient] = thread.capabilities;
            all | permitted | effective | ambient
        });
        let mode = match weakest.0 {
            0 => "off",
            1 => "strict",
            _ => "filter",
        };
        write!(
            f,
            "{:<15} pid {} uid {}",
            main.name,
            self.pid,
            main.uids.get(1).copied().unwrap_or(u32::MAX)
        )?;
        write!(f, " threads {} seccomp {mode}×{}", self.threads.len(), weakest.1)?;
        write!(f, " no_new_privs {}", if bare == 0 { "yes" } else { "NO" })?;
        write!(f, " caps {}", if held == 0 { "none".to_owned() } else { format!("{held:#x}") })?;
        match &self.namespaces {
            Some(kinds) => {
                let own: Vec<_> =
                    kinds.iter().filter(|(_, own)| **own).map(|(kind, _)| kind.as_str()).collect();
                write!(f, " own-ns {}", if own.is_empty() { "none".to_owned() } else { own.join(",") })?;
            }
            None => write!(f, " own-ns unreadable")?,
        }
        match self.root_entries {
            Some(entries) => write!(f, " root {entries} entries")?,
            None => write!(f, " root unreadable")?,
        }
        match &self.descriptors {
            Some(all) => write!(f, " fds {}", all.len()),
            None => write!(f, " fds unreadable"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_process_can_be_read() {
        let posture = read(std::process::id().try_into().unwrap()).unwrap();
        assert!(posture.namespaces.as_ref().unwrap().values().all(|other| !other));
        assert!(posture.namespaces.as_ref().unwrap().contains_key("user"));
        assert!(posture.descriptors.as_ref().unwrap().len() >= 3);
        assert!(posture.limits.contains_key("Max open files"), "{:?}", posture.limits);
        assert!(posture.mounts.as_ref().is_some_and(|mounts| !mounts.is_empty()));
        assert_eq!(posture.threads[0].uids.len(), 4);
        assert_eq!(posture.to_string().lines().count(), 1);
    }

    #[test]
    fn a_status_file_is_read_field_by_field() {
        let thread = credentials(
            "Name:\tvmm-core\nPPid:\t5\nTracerPid:\t6\nUmask:\t0077\nUid:\t7\t8\t9\t10\nGroups:\t1 2 \nNSpid:\t99\t1\nCapEff:\t00000000000000ff\n\
             SigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\nSigCgt:\t0000000040000000\n\
             NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n",
        );
        assert_eq!((thread.name.as_str(), thread.uids[1], thread.groups.len()), ("vmm-core", 8, 2));
        assert_eq!(
            (thread.capabilities[2], thread.no_new_privs, thread.seccomp, thread.filters),
            (255, true, 2, 3)
        );
        assert_eq!((thread.ns_pids.as_slice(), thread.umask), (&[99, 1][..], 0o077));
        assert_eq!((thread.parent, thread.tracer), (5, 6));
        assert_eq!(thread.signals, [1, 1 << 12, 1 << 30]);
    }

    #[test]
    fn an_id_is_what_the_map_makes_of_it() {
        let map = "      1000 1879048192          1\n         0     100000      65536\n";
        assert_eq!((inner(1_879_048_192, map), inner(100_005, map)), (Some(1000), Some(5)));
        assert_eq!((inner(1_879_048_193, map), inner(0, map), inner(0, "")), (None, None, None));
        assert_eq!(inner(7, "0 0 4294967295"), Some(7));
    }

    #[test]
    fn a_descriptor_is_told_by_its_kind() {
        let kinds =
            ["pipe:[17]", "anon_inode:[eventfd]", "anon_inode:kvm-vm", "/memfd:guest (deleted)"].map(kind);
        assert_eq!(kinds, ["pipe", "anon_inode:[eventfd]", "anon_inode:kvm-vm", "/memfd:guest (deleted)"]);
    }

    #[test]
    fn a_mount_line_is_point_type_and_options() {
        assert_eq!(mount("36 35 0:32 / / ro,nosuid - tmpfs none ro").unwrap(), "/ tmpfs ro,nosuid");
        assert_eq!(mount("36 35 0:32 / / ro shared:1 master:2 - ext4 /dev/vda rw").unwrap(), "/ ext4 ro");
        assert_eq!(mount("nonsense"), None);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(matches!(read(i32::MAX), Err(Error::Posture { .. })));
    }
}
