//! The real `device-fs`, confined as always, between a directory and a FUSE client written by hand.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test says what it expects by failing"
)]

mod client;
#[path = "../../../backend/tests/front_end/mod.rs"]
#[expect(dead_code, reason = "a device needs a part of it")]
#[expect(clippy::panic, reason = "as above")]
mod front_end;
mod hostile;
#[path = "../../../backend/tests/hostile_front_end/mod.rs"]
#[expect(clippy::panic, reason = "as above")]
mod hostile_front_end;
mod restarts;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use client::{Client, long};
use front_end::Device;
use front_end::driver::Driver;
use nix::libc::{
    EACCES, EBADF, EEXIST, EINVAL, ENOENT, ENOTEMPTY, EPERM, EROFS, ESTALE, O_EXCL, O_RDONLY, O_RDWR,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_device-fs");
const ROOT: u64 = 1;
/// `fuse_setattr_in.valid`.
const MODE: u32 = 1;
const UID: u32 = 2;
const SIZE: u32 = 8;
const MTIME: u32 = 32;
const FH: u32 = 64;

/// A directory to be served, and another one beside it that must never be seen.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("shared")).unwrap();
        fs::write(folder.path().join("secret"), "secret").unwrap();
        Self { folder }
    }

    fn shared(&self) -> PathBuf {
        self.folder.path().join("shared")
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.shared().join(name)).unwrap()
    }
}

fn started(path: &Path, more: &[&str]) -> Device {
    let path = format!("--path={}", path.display());
    let device = Device::spawn(PROGRAM, &[&[path.as_str(), "--tag=shared"], more].concat());
    device.negotiate(0);
    device
}

fn ends_well(device: Device) {
    assert_eq!(device.end(), (Some(0), String::new()));
}

/// A fresh program for each of what a hostile front end does.
fn under_attack(_test: &str, attack: fn(hostile_front_end::Start<'_>)) {
    let place = Place::new();
    let path = format!("--path={}", place.shared().display());
    attack(&|| Device::spawn(PROGRAM, &[&path, "--tag=shared"]));
}

hostile_front_end::attacks!(under_attack);

#[test]
fn files_are_made_written_read_and_renamed() {
    let place = Place::new();
    let device = started(&place.shared(), &[]);
    let mut client = Client::new(Driver::new(&device), true);
    let folder = client.mkdir(ROOT, "folder", 0o755).unwrap();
    let (file, handle) = client.create(folder.node, "file", O_RDWR, 0o644).unwrap();
    assert_eq!((file.mode, file.owner, file.size), (0o100_644, (0, 0), 0));
    let data: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    assert_eq!(client.write(file.node, handle, 3, &data), Ok(200_000));
    assert_eq!(client.read(file.node, handle, 0, 256 << 10).unwrap(), [&[0; 3], &data[..]].concat());
    assert_eq!(client.read(file.node, handle, 200_000, 100).unwrap(), data[199_997..]);
    assert_eq!(client.read(file.node, handle, 1 << 40, 100).unwrap(), b"");
    assert_eq!(client.ask(20, file.node, &client::body(&[handle, 0], b"")), Ok(Vec::new()));
    assert_eq!(client.rename((folder.node, "file"), (ROOT, "moved"), 0), Ok(Vec::new()));
    assert_eq!(client.attributes(file.node).unwrap().size, 200_003);
    assert_eq!(client.lookup(ROOT, "moved").unwrap().node, file.node);
    assert_eq!(client.lookup(folder.node, "file"), Err(ENOENT));
    let again = client.open(file.node, O_RDONLY).unwrap();
    assert_eq!(client.read(file.node, again, 3, 5).unwrap(), data[..5]);
    client.release(file.node, handle);
    client.release(file.node, again);
    let host = fs::metadata(place.shared().join("moved")).unwrap();
    let owner = fs::metadata(place.shared()).unwrap();
    assert_eq!((host.len(), host.mode()), (200_003, 0o100_644));
    assert_eq!((host.uid(), host.gid()), (owner.uid(), owner.gid()), "it is the directory owner's");
    drop(client);
    ends_well(device);
}

#[test]
fn names_come_and_go_as_they_do_on_the_host() {
    let place = Place::new();
    let device = started(&place.shared(), &[]);
    let mut client = Client::new(Driver::new(&device), true);
    let folder = client.mkdir(ROOT, "folder", 0o700).unwrap();
    assert_eq!(client.mkdir(ROOT, "folder", 0o700), Err(EEXIST));
    let (one, handle) = client.create(folder.node, "one", O_RDWR | O_EXCL, 0o600).unwrap();
    assert_eq!(client.create(folder.node, "one", O_RDWR | O_EXCL, 0o600).err(), Some(EEXIST));
    assert_eq!(client.create(folder.node, "one", O_RDWR, 0o600).unwrap().0.node, one.node);
    assert_eq!(client.link(one.node, ROOT, "two").unwrap().node, one.node, "one file, two names");
    assert_eq!(client.symlink(ROOT, "link", "folder/one").unwrap().mode & 0o170_000, 0o120_000);
    let link = client.lookup(ROOT, "link").unwrap().node;
    assert_eq!(client.ask(5, link, b"").unwrap(), b"folder/one");
    assert_eq!(client.rmdir(ROOT, "folder"), Err(ENOTEMPTY));
    assert_eq!(client.unlink(folder.node, "one"), Ok(Vec::new()));
    assert!(client.attributes(one.node).is_ok(), "it has its second name");
    assert_eq!(client.unlink(ROOT, "two"), Ok(Vec::new()));
    assert_eq!(client.write(one.node, handle, 0, b"open"), Ok(4));
    assert_eq!(client.attributes(one.node).unwrap().size, 4, "without a name, and open");
    assert_eq!(client.set(one.node, SIZE | FH | MTIME, handle, 2, 0).unwrap().size, 2);
    let time = client::body(&[client::pair(MTIME, 0), 0, 0, 0, 0, 1234, 0, 0, 0, 0, 0], b"");
    assert_eq!(client.ask(4, one.node, &time).map(|bytes| long(&bytes, 48)), Ok(1234), "by any that is open");
    assert_eq!(client.set(one.node, MODE, 0, 0, 0o700), Err(ESTALE), "permissions are set by name");
    client.release(one.node, handle);
    for number in 0..500 {
        client.create(folder.node, &format!("{number:03}"), O_RDWR, 0o600).unwrap();
    }
    let names = client.list(folder.node, 1000).unwrap();
    assert_eq!(
        (names.len(), names[0].as_str(), names[2].as_str(), names[501].as_str()),
        (502, ".", "000", "499")
    );
    assert_eq!(client.list(folder.node, 1 << 20).unwrap(), names);
    assert_eq!(client.rename((ROOT, "folder"), (ROOT, "other"), 1), Ok(Vec::new()));
    assert_eq!(client.lookup(folder.node, "007").unwrap().size, 0, "a directory that was moved");
    let (file, _) = client.create(ROOT, "file", O_RDWR, 0o600).unwrap();
    assert_eq!(client.rename((ROOT, "file"), (ROOT, "other"), 1), Err(EEXIST));
    assert_eq!(client.rename((ROOT, "file"), (ROOT, "other"), 2), Err(EINVAL), "in exchange");
    assert_eq!(client.lookup(ROOT, "file").unwrap().node, file.node);
    assert_eq!(client.lookup(ROOT, "other").unwrap().node, folder.node);
    assert!(client.lookup(folder.node, "008").is_ok());
    assert_eq!(client.rename((ROOT, "file"), (ROOT, "third"), 4), Err(EINVAL), "a whiteout");
    drop(client);
    ends_well(device);
}

#[test]
fn attributes_are_set_as_far_as_they_are_the_guests() {
    let place = Place::new();
    let device = started(&place.shared(), &[]);
    let mut client = Client::new(Driver::new(&device), true);
    let (file, handle) = client.create(ROOT, "file", O_RDWR, 0o6777).unwrap();
    assert_eq!(file.mode, 0o100_777, "set-user-id would be the host user's");
    assert_eq!(client.set(file.node, MODE, 0, 0, 0o4750).unwrap().mode, 0o100_750);
    assert_eq!(client.set(file.node, SIZE, 0, 12345, 0).unwrap().size, 12345);
    assert!(client.set(file.node, MTIME, 0, 0, 0).is_ok());
    let host = fs::metadata(place.shared().join("file")).unwrap();
    assert_eq!((host.mode(), host.len(), host.mtime()), (0o100_750, 12345, 86_400));
    assert!(client.set(file.node, UID, 0, 0, 0).is_ok(), "to whom it belongs");
    let mut other = [0; 88];
    (other[0], other[76]) = (2, 7);
    assert_eq!(client.ask(4, file.node, &other), Err(EPERM), "to somebody else");
    let room = client::body(&[handle, 0, 1 << 20, 0], b"");
    assert_eq!(client.ask(43, file.node, &room), Ok(Vec::new()));
    assert_eq!(client.attributes(file.node).unwrap().size, 1 << 20);
    let statfs = client.ask(17, ROOT, b"").unwrap();
    assert!(statfs.len() == 80 && long(&statfs, 0) > 0);
    for mode in [0o010_600, 0o020_600, 0o060_600, 0o140_600] {
        let body = client::body(&[client::pair(mode, 0), 0], b"special\0");
        assert_eq!(client.ask(8, ROOT, &body), Err(EPERM), "{mode:o}");
    }
    let body = client::body(&[client::pair(0o100_600, 0), 0], b"regular\0");
    assert!(client.ask(8, ROOT, &body).is_ok());
    drop(client);
    ends_well(device);
}

#[test]
fn what_the_host_does_is_seen() {
    let place = Place::new();
    fs::write(place.shared().join("file"), "first").unwrap();
    if nix::unistd::geteuid().is_root() {
        // Somebody else's in a directory of root's.
        std::os::unix::fs::chown(place.shared().join("file"), Some(7), Some(7)).unwrap();
    }
    let device = started(&place.shared(), &[]);
    let mut client = Client::new(Driver::new(&device), true);
    let file = client.lookup(ROOT, "file").unwrap();
    if nix::unistd::geteuid().is_root() {
        assert_eq!(file.owner, (65534, 65534));
        assert_eq!(client.open(file.node, O_RDWR).err(), Some(EACCES), "as a stranger");
    }
    let handle = client.open(file.node, O_RDONLY).unwrap();
    assert_eq!(client.read(file.node, handle, 0, 100).unwrap(), b"first");
    fs::rename(place.shared().join("file"), place.shared().join("away")).unwrap();
    assert_eq!(client.attributes(file.node).unwrap().size, 5, "open");
    client.release(file.node, handle);
    assert_eq!(client.attributes(file.node), Err(ESTALE));
    assert_eq!(client.lookup(ROOT, "away").unwrap().node, file.node, "found again");
    fs::write(place.shared().join("file"), "second").unwrap();
    let second = client.lookup(ROOT, "file").unwrap();
    assert!(second.node != file.node && second.size == 6);
    drop(client);
    ends_well(device);
}

#[test]
fn a_read_only_directory_takes_no_change() {
    let place = Place::new();
    fs::write(place.shared().join("file"), "text").unwrap();
    let device = started(&place.shared(), &["--read-only", "--queues=3"]);
    let mut client = Client::new(Driver::new(&device), true);
    let file = client.lookup(ROOT, "file").unwrap();
    let handle = client.open(file.node, O_RDONLY).unwrap();
    assert_eq!(client.read(file.node, handle, 0, 9).unwrap(), b"text");
    assert_eq!(client.open(file.node, O_RDWR).err(), Some(EROFS));
    assert_eq!(client.create(ROOT, "new", O_RDWR, 0o600).err(), Some(EROFS));
    assert_eq!(client.mkdir(ROOT, "new", 0o700).err(), Some(EROFS));
    assert_eq!(client.unlink(ROOT, "file"), Err(EROFS));
    assert_eq!(client.rename((ROOT, "file"), (ROOT, "new"), 0), Err(EROFS));
    assert_eq!(client.set(file.node, MODE, 0, 0, 0o777).err(), Some(EROFS));
    assert_eq!(client.set(file.node, SIZE, 0, 0, 0).err(), Some(EROFS));
    assert_eq!(client.set(file.node, MTIME, 0, 0, 0).err(), Some(EROFS));
    assert_eq!(client.link(file.node, ROOT, "new").err(), Some(EROFS));
    assert_eq!(client.symlink(ROOT, "new", "file").err(), Some(EROFS));
    let regular = client::body(&[client::pair(0o100_600, 0), 0], b"new\0");
    assert_eq!(client.ask(8, ROOT, &regular), Err(EROFS));
    let room = client::body(&[handle, 0, 1 << 20, 0], b"");
    assert_eq!(client.ask(43, file.node, &room), Err(EBADF), "it is not open for writing");
    assert_eq!(fs::read_dir(place.shared()).unwrap().count(), 1);
    assert_eq!(place.text("file"), "text");
    drop(client);
    ends_well(device);
}

#[test]
fn what_cannot_be_served_is_said_in_one_line() {
    let place = Place::new();
    let shared = format!("--path={}", place.shared().display());
    let secret = format!("--path={}", place.folder.path().join("secret").display());
    let long = format!("--tag={}", "x".repeat(37));
    for (arguments, part) in [
        (vec!["--tag=t"], "--path=DIRECTORY"),
        (vec![&shared], "--tag=NAME"),
        (vec![&shared, &long], "37"),
        (vec![&shared, "--tag="], "length of a tag"),
        (vec![&shared, "--tag=t", "--queues=0"], "request queues"),
        (vec![&secret, "--tag=t"], "Not a directory"),
        (vec!["--path=/nowhere/at/all", "--tag=t"], "No such file"),
    ] {
        let socket = format!("--socket-path={}", place.folder.path().join("socket").display());
        let mut command = Command::new(PROGRAM);
        let output = command.arg(socket).args(&arguments).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(part) && said.lines().count() == 1, "{arguments:?}: {said}");
        assert!(output.status.code().is_some_and(|code| code == 2 || code == 3), "{:?}", output.status);
    }
    let output = Command::new(PROGRAM).arg("--print-capabilities").output().unwrap();
    assert_eq!(output.stdout, b"{\"type\":\"fs\",\"features\":[]}\n");
    let closed = place.folder.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    ends_well(started(&closed, &[]));
}
