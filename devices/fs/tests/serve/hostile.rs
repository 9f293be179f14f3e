//! A guest that means harm: names and links that lead out, numbers that were never given, requests that are none.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};

use nix::libc::{
    EACCES, EFBIG, EINVAL, EIO, ELOOP, EMFILE, ENFILE, ENOENT, ENOSYS, ENOTDIR, EOPNOTSUPP, ESTALE,
    O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::Mode;

use crate::client::{ANSWER, Client, body, long, pair, word};
use crate::front_end::driver::{BUFFERS, Driver, MEMORY, WRITE};
use crate::{MODE, Place, ROOT, ends_well, started};

/// Where a request's fields lie that are apart from its header.
const FIELDS: u64 = BUFFERS + 0x1000;

#[test]
fn no_name_and_no_link_leads_out() {
    let place = Place::new();
    symlink("../secret", place.shared().join("relative")).unwrap();
    symlink(place.folder.path(), place.shared().join("absolute")).unwrap();
    symlink("/", place.shared().join("top")).unwrap();
    fs::write(place.shared().join("file"), "in").unwrap();
    symlink("file", place.shared().join("inside")).unwrap();
    let mode = || fs::metadata(place.shared().join("file")).unwrap().mode();
    let before = mode();
    let device = started(&place.shared(), &[]);
    let mut client = Client::new(Driver::new(&device), true);
    for name in ["..", ".", "", "/", "../secret", "relative/../../secret", "/etc/passwd"] {
        assert_eq!(client.lookup(ROOT, name).err(), Some(EINVAL), "{name:?}");
        assert_eq!(client.create(ROOT, name, O_RDWR, 0o600).err(), Some(EINVAL), "{name:?}");
        assert_eq!(client.rename((ROOT, "relative"), (ROOT, name), 0).err(), Some(EINVAL), "{name:?}");
        assert_eq!(client.rename((ROOT, name), (ROOT, "in"), 0).err(), Some(EINVAL), "{name:?}");
        assert_eq!(client.unlink(ROOT, name).err(), Some(EINVAL), "{name:?}");
    }
    // A zero ends a name: what is behind it is not looked at.
    assert_eq!(client.ask(1, ROOT, b"relati\0../secret\0").err(), Some(ENOENT));
    for name in ["relative", "absolute", "top", "inside"] {
        let link = client.lookup(ROOT, name).unwrap();
        assert_eq!(link.mode & 0o170_000, 0o120_000, "{name}: a link and not what it leads to");
        assert_eq!(client.open(link.node, O_RDONLY).err(), Some(ESTALE), "{name}");
        assert_eq!(client.ask(27, link.node, &[0; 8]).err(), Some(ESTALE), "{name}");
        assert!([ENOTDIR, ESTALE].contains(&client.lookup(link.node, "secret").unwrap_err()), "{name}");
        assert_eq!(client.create(ROOT, name, O_RDWR, 0o600).err(), Some(ELOOP), "{name}");
        assert_eq!(client.set(link.node, MODE, 0, 0, 0o777).err(), Some(EOPNOTSUPP), "{name}");
    }
    assert_eq!(mode(), before, "of what the link leads to");
    assert_eq!(fs::read(place.folder.path().join("secret")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 2);
    drop(client);
    ends_well(device);
}

#[test]
fn a_directory_that_the_host_swaps_for_a_link_is_not_followed() {
    let place = Place::new();
    fs::create_dir(place.shared().join("folder")).unwrap();
    fs::write(place.shared().join("folder/file"), "in").unwrap();
    let device = started(&place.shared(), &[]);
    let mut client = Client::new(Driver::new(&device), true);
    let folder = client.lookup(ROOT, "folder").unwrap();
    let file = client.lookup(folder.node, "file").unwrap();
    fs::rename(place.shared().join("folder"), place.shared().join("other")).unwrap();
    symlink("other", place.shared().join("folder")).unwrap();
    assert_eq!(client.attributes(file.node).err(), Some(ESTALE));
    assert_eq!(client.create(folder.node, "new", O_RDWR, 0o600).err(), Some(ESTALE));
    assert_eq!(client.lookup(ROOT, "other").unwrap().node, folder.node);
    assert!(client.attributes(file.node).is_ok(), "found again where it is");
    drop(client);
    ends_well(device);
}

#[test]
fn special_files_of_the_host_are_not_opened() {
    let place = Place::new();
    nix::unistd::mkfifo(&place.shared().join("pipe"), Mode::S_IRWXU).unwrap();
    let reader =
        File::options().read(true).custom_flags(O_NONBLOCK).open(place.shared().join("pipe")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.shared().join("socket")).unwrap();
    let device = started(&place.shared(), &[]);
    let mut client = Client::new(Driver::new(&device), true);
    for name in ["pipe", "socket"] {
        let node = client.lookup(ROOT, name).unwrap().node;
        for flags in [O_RDONLY, O_WRONLY, O_RDWR] {
            assert_eq!(client.open(node, flags), Err(EACCES), "{name}");
            assert_eq!(client.create(ROOT, name, flags, 0o600).err(), Some(EACCES), "{name}");
        }
    }
    // Whoever had opened it to write would be gone by now.
    let mut seen = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut seen, PollTimeout::ZERO), Ok(0), "{seen:?}");
    drop(client);
    ends_well(device);
}

#[test]
fn numbers_that_were_never_given_are_stale_and_requests_that_are_none_are_answered() {
    let place = Place::new();
    fs::write(place.shared().join("file"), "text").unwrap();
    let device = started(&place.shared(), &[]);
    let mut client = Client::new(Driver::new(&device), true);
    for node in [0, 2, 3, 1 << 63, u64::MAX] {
        assert_eq!(client.attributes(node).err(), Some(ESTALE), "{node}");
        assert_eq!(client.lookup(node, "file").err(), Some(ESTALE), "{node}");
        assert_eq!(client.read(ROOT, node, 0, 4096).err(), Some(ESTALE), "{node}");
        assert_eq!(client.write(ROOT, node, 0, b"x").err(), Some(ESTALE), "{node}");
        client.tell(2, node, &body(&[u64::MAX], b""));
    }
    let file = client.lookup(ROOT, "file").unwrap();
    let handle = client.open(file.node, O_RDWR).unwrap();
    for offset in [u64::MAX, 1 << 63, (1 << 63) - 2] {
        assert_eq!(client.read(file.node, handle, offset, 4096).err(), Some(EFBIG), "{offset:#x}");
        assert_eq!(client.write(file.node, handle, offset, b"1234").err(), Some(EFBIG), "{offset:#x}");
    }
    assert_eq!(client.read(file.node, handle, 0, u32::MAX).unwrap(), b"text");
    // Every operation with every number of zeros behind it.
    for opcode in (0..64).filter(|opcode| ![2, 26, 36, 38, 42].contains(opcode)) {
        for length in [0, 1, 7, 8, 16, 40, 88, 200] {
            let answered = client.ask(opcode, ROOT, &vec![0; length]);
            let known = [4, 3, 5, 14, 15, 16, 17, 18, 20, 25, 27, 28, 29, 30, 43].contains(&opcode);
            let by_name = [1, 6, 8, 9, 10, 11, 12, 13, 35, 45].contains(&opcode);
            assert!(
                known || answered == Err(if by_name { EINVAL } else { ENOSYS }),
                "{opcode}, {length}: {answered:?}"
            );
        }
    }
    // Without an answer, and one that no operation has room for.
    for opcode in [2, 36, 42] {
        client.tell(opcode, ROOT, &[255; 64]);
    }
    let (used, answer) = client.raw(&[0; 40]);
    assert_eq!((used, word(&answer, 4).cast_signed()), (16, -ENOSYS));
    assert_eq!(client.attributes(file.node).unwrap().size, 4);
    drop(client);
    ends_well(device);
}

/// What a guest's kernel makes of direct I/O between a file here and one in persistent memory.
#[test]
fn a_transfer_to_memory_of_others_is_an_io_error_and_the_queue_goes_on() {
    let place = Place::new();
    fs::write(place.shared().join("file"), "text").unwrap();
    let device = started(&place.shared(), &[]);
    let mut client = Client::new(Driver::new(&device), true);
    let file = client.lookup(ROOT, "file").unwrap();
    let handle = client.open(file.node, O_RDWR).unwrap();
    let fields = body(&[handle, 0, pair(4096, 0), 0, 0], b"");
    client.driver.put(FIELDS, &fields);
    for beyond in [MEMORY, MEMORY - 8, 20 << 30] {
        let read = [(FIELDS, 40, 0), (ANSWER, 16, WRITE), (beyond, 4096, WRITE)];
        assert_eq!(client.ask_of(15, file.node, &read), -EIO, "{beyond:#x}");
        let parts = [read[0], read[1], (ANSWER + 16, 100, WRITE), read[2], (ANSWER + 116, 100, WRITE)];
        assert_eq!(client.ask_of(15, file.node, &parts), -EIO, "{beyond:#x}");
        let write = [(FIELDS, 40, 0), (beyond, 4096, 0), (ANSWER, 16, WRITE)];
        assert_eq!(client.ask_of(16, file.node, &write), -EIO, "{beyond:#x}");
    }
    assert_eq!(client.read(file.node, handle, 0, 4096).unwrap(), b"text");
    assert_eq!(place.text("file"), "text");
    drop(client);
    ends_well(device);
}

#[test]
fn open_files_are_bounded() {
    let place = Place::new();
    fs::write(place.shared().join("file"), "text").unwrap();
    let device = started(&place.shared(), &[]);
    let mut client = Client::new(Driver::new(&device), true);
    let file = client.lookup(ROOT, "file").unwrap();
    let handles: Vec<u64> = std::iter::from_fn(|| client.open(file.node, O_RDONLY).ok()).take(5000).collect();
    let refused = client.open(file.node, O_RDONLY).unwrap_err();
    // The program's own bound, which the limit of the host's has room for unless it is lower.
    if getrlimit(Resource::RLIMIT_NOFILE).unwrap().1 >= 4736 {
        assert_eq!((handles.len(), refused), (4096, ENFILE));
    } else {
        assert!(handles.len() < 4096 && refused == EMFILE, "{} {refused}", handles.len());
    }
    assert_eq!(client.create(ROOT, "new", O_RDWR, 0o600).err(), Some(refused));
    client.release(file.node, handles[0]);
    let (created, handle) = client.create(ROOT, "new", O_RDWR, 0o600).unwrap();
    client.release(created.node, handle);
    client.tell(2, created.node, &body(&[1], b""));
    assert_eq!(client.attributes(created.node).err(), Some(ESTALE), "the driver was told of it once");
    assert!(client.open(file.node, O_RDONLY).is_ok());
    // A driver that begins anew has nothing open and knows nothing.
    let init = client.ask(26, 0, &body(&[pair(7, 31), 0], b"")).unwrap();
    assert_eq!((word(&init, 0), long(&init, 8) & 1), (7, 0));
    assert_eq!(client.read(file.node, handles[1], 0, 4).err(), Some(ESTALE));
    assert_eq!(client.attributes(file.node).err(), Some(ESTALE));
    assert!(client.lookup(ROOT, "file").is_ok());
    drop(client);
    ends_well(device);
}
