//! What comes along with a message: too much, of the wrong kind, again and again.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::SealFlag;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{BROKEN, SIZE, Start, ends, negotiated, nulls, serves};
use crate::front_end::driver::{Driver, MEMORY, wait_for};
use crate::front_end::{NEED_REPLY, borrow, memfd, memory_table, request, sealed, state};

/// As many as the kernel lets through with one message, and with each byte of one: more than most programs may have open.
pub fn descriptors_without_number(start: Start<'_>) {
    let strays = nulls(253);
    let strays = borrow(&strays);
    let device = negotiated(start);
    let before = device.descriptors();
    for number in [request::GET_FEATURES, request::SET_MEM_TABLE, request::SET_VRING_CALL, 255] {
        device.send(number, 1 | NEED_REPLY, &[0; 8], &strays);
        assert!(device.reply(number).is_some_and(|reply| reply != [0; 8]), "request {number}");
    }
    assert_eq!(device.descriptors(), before);
    for byte in [request::GET_FEATURES, 1, 0].map(u32::to_ne_bytes).as_flattened() {
        device.send_bytes(&[*byte], &strays);
    }
    match device.reply(request::GET_FEATURES) {
        // The four that were refused, and the last.
        None => ends(device, BROKEN, 5),
        // A program that may have more open, for its files, had room for them.
        Some(reply) => {
            assert_eq!((reply, device.descriptors()), (Vec::new(), before));
            serves(device);
        }
    }
}

/// As often as this is done, or the variable VMM_REPETITIONS says.
const REPETITIONS: u32 = 1000;

pub fn descriptors_stay_as_many_as_they_were(start: Start<'_>) {
    let wanted = std::env::var("VMM_REPETITIONS").map_or(REPETITIONS, |text| text.parse().unwrap());
    let device = negotiated(start);
    let driver = Driver::new(&device);
    let queue = driver.queue(0, SIZE, 0);
    let table = memory_table(&[(0, MEMORY, 0)]);
    let index = 0u64.to_ne_bytes();
    let mut before = 0;
    for round in 0..wanted {
        let memory = driver.memory.as_fd();
        assert!(device.ask(request::SET_MEM_TABLE, &table, &[memory]));
        assert!(device.ask(request::SET_VRING_CALL, &index, &[queue.call.as_fd()]));
        assert!(device.ask(request::SET_VRING_ERR, &index, &[queue.call.as_fd()]));
        assert!(device.ask(request::SET_VRING_KICK, &index, &[queue.kick.as_fd()]));
        assert!(!device.ask(request::SET_VRING_NUM, &state(0, round), &[queue.kick.as_fd()]));
        assert!(!device.ask(request::SET_INFLIGHT_FD, &[0; 24], &[memory]), "while it runs");
        let larger = memory_table(&[(0, MEMORY + 4096, 0)]);
        assert!(!device.ask(request::SET_MEM_TABLE, &larger, &[memory]));
        if round == 0 {
            before = device.descriptors();
        }
    }
    assert_eq!(device.descriptors(), before);
    driver.stop(&queue);
    serves(device);
}

pub fn memory_that_is_not_there_is_refused(start: Start<'_>) {
    let device = negotiated(start);
    let file = sealed(1 << 20);
    let unsealed = memfd(1 << 20, SealFlag::empty());
    let (pipe, _writer) = std::io::pipe().unwrap();
    let regular = File::open(std::env::current_exe().unwrap()).unwrap();
    let folder = File::open("/").unwrap();
    let ask = |regions: &[(u64, u64, u64)], fds: &[BorrowedFd<'_>]| {
        device.ask(request::SET_MEM_TABLE, &memory_table(regions), fds)
    };
    let one = file.as_fd();
    assert!(ask(&[(0, 1 << 20, 0)], &[one]));
    assert!(!ask(&[(0, (1 << 20) + 1, 0)], &[one]), "larger than its file");
    assert!(!ask(&[(0, 4096, 1 << 20)], &[one]), "behind the end of its file");
    assert!(!ask(&[(0, 4096, u64::MAX)], &[one]), "offset + size overflows");
    assert!(!ask(&[(0, 4096, u64::MAX - 4095)], &[one]), "offset + size overflows to nothing");
    assert!(!ask(&[(u64::MAX - 4095, 8192, 0)], &[one]), "address + size overflows");
    assert!(!ask(&[(0, u64::MAX, 0)], &[one]), "all there is");
    assert!(!ask(&[(0, 0, 0)], &[one]), "empty");
    assert!(!ask(&[(0, 4096, 1)], &[one]), "unaligned offset");
    assert!(!ask(&[], &[]), "no region");
    assert!(!ask(&[(0, 8192, 0), (4096, 8192, 0)], &[one, one]), "overlapping");
    assert!(!ask(&[(0, 4096, 0)], &[one, one]), "too many descriptors");
    assert!(!ask(&[(0, 4096, 0), (8192, 4096, 0)], &[one]), "too few descriptors");
    assert!(!ask(&[(0, 1 << 20, 0)], &[unsealed.as_fd()]), "may shrink");
    assert!(!ask(&[(0, 1 << 20, 0)], &[regular.as_fd()]), "may shrink");
    assert!(!ask(&[(0, 4096, 0)], &[pipe.as_fd()]), "a pipe");
    assert!(!ask(&[(0, 4096, 0)], &[folder.as_fd()]), "a directory");
    assert!(!ask(&[(0, 4096, 0)], &[device.socket.as_fd()]), "a socket");
    for seal in [SealFlag::F_SEAL_WRITE, SealFlag::F_SEAL_FUTURE_WRITE] {
        let sealed = memfd(4096, SealFlag::F_SEAL_SHRINK | seal);
        assert!(!ask(&[(0, 4096, 0)], &[sealed.as_fd()]), "cannot be written");
    }
    let many: Vec<(u64, u64, u64)> = (0..33).map(|i| (i * 8192, 4096, 0)).collect();
    assert!(ask(&many[..32], &[one; 32]));
    assert!(!ask(&many, &[one; 33]));
    serves(device);
}

/// One write to a semaphore would wake its reader 2^64 - 2 times.
pub fn a_kick_that_one_read_does_not_empty_stops_its_ring(start: Start<'_>) {
    let device = negotiated(start);
    let driver = Driver::new(&device);
    let mut queue = driver.queue(0, SIZE, 0);
    let (err, index) = (EventFd::new().unwrap(), 0u64.to_ne_bytes());
    assert!(device.ask(request::SET_VRING_ERR, &index, &[err.as_fd()]));
    let most = u64::MAX - 1;
    for count in [0, 1, 2, most - 2, most - 1, most] {
        let kick = EventFd::from_flags(EfdFlags::EFD_SEMAPHORE).unwrap();
        kick.write(count).unwrap();
        assert!(device.ask(request::SET_VRING_KICK, &index, &[kick.as_fd()]), "{count}");
        assert_eq!(wait_for(&err), 1, "{count}");
        assert_eq!(driver.stop(&queue), 0);
        // One that is none may be as full.
        queue.kick = EventFd::new().unwrap();
        queue.kick.write(count).unwrap();
        driver.start(&queue, 0);
    }
    assert_eq!(driver.stop(&queue), 0);
    serves(device);
}

/// What can always be read, or is at its end, would be read for ever.
pub fn what_is_no_event_stops_its_ring(start: Start<'_>) {
    let device = negotiated(start);
    let driver = Driver::new(&device);
    let mut queue = driver.queue(0, SIZE, 0);
    let (err, index) = (EventFd::new().unwrap(), 0u64.to_ne_bytes());
    assert!(device.ask(request::SET_VRING_ERR, &index, &[err.as_fd()]));
    let open = |path: &Path| OwnedFd::from(File::open(path).unwrap());
    let (pipe, writer) = std::io::pipe().unwrap();
    drop(writer);
    let kicks = [
        open(Path::new("/dev/null")),
        open(Path::new("/dev/zero")),
        open(Path::new("/")),
        sealed(4096).into(),
        pipe.into(),
    ];
    for (place, kick) in kicks.into_iter().enumerate() {
        queue.kick = EventFd::new().unwrap();
        assert!(device.ask(request::SET_VRING_KICK, &index, &[kick.as_fd()]), "kick {place}");
        assert_eq!(wait_for(&err), 1, "kick {place}");
        assert_eq!(driver.stop(&queue), 0);
        driver.start(&queue, 0);
    }
    // Nobody who can be told: it is written to, and that fails or not.
    let (pipe, writer) = std::io::pipe().unwrap();
    drop(pipe);
    for call in [writer.into(), open(Path::new("/dev/full")), sealed(0).into()] {
        let call: OwnedFd = call;
        assert!(device.ask(request::SET_VRING_CALL, &index, &[call.as_fd()]));
        assert!(device.ask(request::SET_VRING_ERR, &index, &[call.as_fd()]));
        let kick = open(Path::new("/dev/null"));
        assert!(device.ask(request::SET_VRING_KICK, &index, &[kick.as_fd()]));
        assert_eq!(driver.stop(&queue), 0);
    }
    serves(device);
}
