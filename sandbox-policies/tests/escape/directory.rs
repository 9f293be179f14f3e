//! A program whose root is one directory: what it finds there, and that nothing leads out of it. The probe adds nothing to
//! the confinement that the spawner gives, neither landlock nor a filter: what is refused, the root alone refuses.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{geteuid, pipe2};
use sandbox_policies::spawn::{Ended, Identity, Plan, spawn};
use sandbox_policies::{Directory, Requirement};

use crate::raw::call;
use crate::{Count, USER, checked};

/// Argument 0 of the probe.
pub const NAME: &str = "directory-probe";

/// Argument 1 of this program when it runs itself to have a mount beneath the directory.
pub const COVERED: &str = "--covered";

/// Argument 1 of this program when it runs itself, with the directory as argument 2, as somebody who may not mount.
pub const POWERLESS: &str = "--powerless";

/// In each directory.
const INSIDE: &str = "inside";

/// A file handle of eight bytes, in words: it names nothing.
static HANDLE: [u32; 4] = [8, 1, 0, 0];

/// All cases of this module.
pub fn a_directory_is_the_root_and_nothing_else_is_reached(who: &str) -> Result<Count, String> {
    let mut count = Count::default();
    for (name, readonly) in [("a directory to write", false), ("a directory to read", true)] {
        count.add(&format!("{who} {name}"), served(readonly));
    }
    if geteuid().is_root() {
        count.add(&format!("{who} a mount beneath the directory"), elsewhere());
    }
    Ok(count)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A directory of somebody else's than root, where that can be, with paths in it that lead out for whoever follows them.
fn prepare() -> Result<tempfile::TempDir, String> {
    let folder = tempfile::tempdir().map_err(text)?;
    // Closed to everybody but its owner.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).map_err(text)?;
    fs::write(folder.path().join(INSIDE), "here").map_err(text)?;
    for (name, target) in [
        ("absolute", "/etc/passwd"),
        ("relative", "../../../../../../etc/passwd"),
        ("process", "/proc/1/root"),
    ] {
        symlink(target, folder.path().join(name)).map_err(text)?;
    }
    if geteuid().is_root() {
        for path in [folder.path().to_owned(), folder.path().join(INSIDE)] {
            chown(path, Some(USER), Some(USER)).map_err(text)?;
        }
    }
    Ok(folder)
}

fn served(readonly: bool) -> Result<(), String> {
    let folder = prepare()?;
    start(folder.path(), readonly)?;
    let made = fs::symlink_metadata(folder.path().join("made"));
    if readonly {
        return checked(made.is_err(), &made);
    }
    let (made, owner) = (made.map_err(text)?, fs::metadata(folder.path()).map_err(text)?);
    checked((made.uid(), made.gid()) == (owner.uid(), owner.gid()), &made)
}

/// Spawns the probe with this root, and hears what it found.
fn start(folder: &Path, readonly: bool) -> Result<(), String> {
    let directory = nix::fcntl::open(
        folder,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .map_err(text)?;
    let (program, null) =
        (File::open("/proc/self/exe").map_err(text)?, File::open("/dev/null").map_err(text)?);
    let (log, log_end) = pipe2(OFlag::O_CLOEXEC).map_err(text)?;
    let mut child = spawn(&Plan {
        program: program.as_fd(),
        name: NAME,
        arguments: &[if readonly { "readonly" } else { "writable" }],
        log: log_end.as_fd(),
        control: null.as_fd(),
        null: null.as_fd(),
        identity: Identity::for_child(2),
        requirement: Requirement::Required,
        directory: Some(Directory { descriptor: directory.as_fd(), readonly }),
        group: None,
    })
    .map_err(text)?;
    drop(log_end);
    checked(child.lacking().is_empty(), child.lacking())?;
    let mut found = String::new();
    File::from(log).read_to_string(&mut found).map_err(text)?;
    let ended = child.wait().map_err(text)?;
    checked(found.is_empty() && ended == Ended::Exited(0), &(found, ended))
}

/// The probe: each thing that is not as it should be is a line in its log.
pub fn probe(arguments: &[String]) -> bool {
    let readonly = arguments.get(1).is_some_and(|word| word == "readonly");
    let wrong: Vec<String> = expectations(readonly)
        .into_iter()
        .filter_map(|(what, outcome)| outcome.err().map(|why| format!("{what}: {why}")))
        .collect();
    for line in &wrong {
        eprintln!("{line}");
    }
    wrong.is_empty()
}

fn expectations(readonly: bool) -> Vec<(&'static str, Result<(), String>)> {
    let identity = |path: &str| fs::metadata(path).map(|it| (it.dev(), it.ino())).map_err(text);
    let refused = |wanted: Errno, outcome: std::io::Result<()>| {
        let found = outcome.as_ref().err().and_then(std::io::Error::raw_os_error);
        checked(found == Some(wanted as i32), &outcome)
    };
    let call_refused = |number, arguments: [u64; 5]| {
        let outcome = call(number, arguments);
        checked(outcome == Err(Errno::EPERM), &outcome)
    };
    let path = |path: &'static std::ffi::CStr| path.as_ptr() as u64;
    let flags = FsFlags::ST_NOSUID | FsFlags::ST_NODEV | FsFlags::ST_NOEXEC;
    let flags = if readonly { flags | FsFlags::ST_RDONLY } else { flags };
    let made = File::create_new("/made").map(drop);
    vec![
        (
            "what is inside",
            fs::read_to_string(format!("/{INSIDE}")).map_err(text).and_then(|it| checked(it == "here", &it)),
        ),
        ("above the root", identity("/..").and_then(|above| checked(Ok(above) == identity("/"), &above))),
        (
            "far above the root",
            identity("/../../..").and_then(|above| checked(Ok(above) == identity("/"), &above)),
        ),
        ("an absolute link", refused(Errno::ENOENT, fs::read("/absolute").map(drop))),
        ("a relative link", refused(Errno::ENOENT, fs::read("/relative").map(drop))),
        ("a link into /proc", refused(Errno::ENOENT, fs::read_dir("/process").map(drop))),
        ("/proc", refused(Errno::ENOENT, fs::read_dir("/proc/self").map(drop))),
        (
            "mount options",
            statvfs("/").map_err(text).and_then(|it| checked(it.flags().contains(flags), &it.flags())),
        ),
        ("making a file", if readonly { refused(Errno::EROFS, made) } else { made.map_err(text) }),
        (
            "making a device",
            call_refused(libc::SYS_mknodat, [u64::MAX, path(c"/device"), 0o60600, 0x800, 0]).or_else(
                |found| {
                    if readonly { Ok(()) } else { Err(found) }
                },
            ),
        ),
        (
            "opening by handle",
            call_refused(libc::SYS_open_by_handle_at, [0, HANDLE.as_ptr() as u64, 0, 0, 0]),
        ),
        ("mounting", call_refused(libc::SYS_mount, [path(c"none"), path(c"/"), path(c"proc"), 0, 0])),
        ("unmounting", call_refused(libc::SYS_umount2, [path(c"/"), 2, 0, 0, 0])),
        ("a writable remount", call_refused(libc::SYS_mount, [path(c""), path(c"/"), path(c""), 0x20, 0])),
        ("another root", call_refused(libc::SYS_chroot, [path(c"/"), 0, 0, 0, 0])),
    ]
}

fn elsewhere() -> Result<(), String> {
    let output = Command::new("/proc/self/exe").arg0("escape").arg(COVERED).output().map_err(text)?;
    checked(output.status.success(), &String::from_utf8_lossy(&output.stdout))
}

/// In a mount namespace of this process, whose directory has another file system mounted beneath it: who may mount serves
/// the directory without it, who may not is refused.
pub fn covered() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(text)?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).map_err(text)?;
    let folder = prepare()?;
    // What the probe would find if it found the other file system's: its own mount options are not these.
    let beneath = folder.path().join("beneath");
    fs::create_dir(&beneath).map_err(text)?;
    mount(Some("none"), &beneath, Some("tmpfs"), MsFlags::empty(), nothing).map_err(text)?;
    fs::remove_file(folder.path().join("absolute")).map_err(text)?;
    symlink("/beneath/secret", folder.path().join("absolute")).map_err(text)?;
    fs::write(beneath.join("secret"), "secret").map_err(text)?;
    start(folder.path(), false)?;
    let status = Command::new("/proc/self/exe")
        .arg0("escape")
        .args([POWERLESS.as_ref(), folder.path().as_os_str()])
        .uid(USER)
        .gid(USER)
        .output()
        .map_err(text)?;
    checked(status.status.success(), &String::from_utf8_lossy(&status.stdout))
}

/// Somebody who may not mount, and the same directory.
pub fn powerless(folder: &str) -> Result<(), String> {
    let refused = start(Path::new(folder), false);
    let said =
        |line: &String| line.contains("shared directory: EINVAL") && line.contains("mounted beneath it");
    checked(refused.as_ref().is_err_and(said), &refused)
}
