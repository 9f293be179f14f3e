//! The real `device-pmem`, confined as always, under a front end written by hand.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test says what it expects by failing"
)]

#[path = "../../backend/tests/front_end/mod.rs"]
#[expect(dead_code, reason = "a device with one queue needs a part of it")]
#[expect(clippy::expect_used, clippy::panic, reason = "as above")]
mod front_end;
#[path = "../../backend/tests/hostile_front_end/mod.rs"]
#[expect(clippy::panic, reason = "as above")]
mod hostile_front_end;

use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::process::{Command, Output, Stdio};

use front_end::driver::{BUFFERS, Driver, MEMORY, Queue, WRITE, wait_for};
use front_end::{Device, request, state};
use nix::sys::eventfd::{EfdFlags, EventFd};

const PROGRAM: &str = env!("CARGO_BIN_EXE_device-pmem");
const ADDRESS: &str = "--address=0x500000000";
const SIZE: u64 = 2 << 20;
/// Where a request is, and where its answer goes.
const REQUEST: u64 = BUFFERS;
const ANSWER: u64 = BUFFERS + 64;

fn file(bytes: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(bytes).unwrap();
    file
}

fn started(file: &tempfile::NamedTempFile, arguments: &[&str]) -> Device {
    let path = format!("--path={}", file.path().display());
    let device = Device::spawn(PROGRAM, &[&[path.as_str(), ADDRESS][..], arguments].concat());
    device.negotiate(0);
    device
}

/// One request to its end: the used length, and the answer if there is one.
fn ask(driver: &Driver<'_>, queue: &mut Queue, kind: u32) -> (u32, Vec<u8>) {
    driver.put(REQUEST, &kind.to_le_bytes());
    driver.put(ANSWER, &[0xEE; 4]);
    driver.chain(queue.table(), 0, &[(REQUEST, 4, 0), (ANSWER, 4, WRITE)]);
    driver.offer(queue, &[0]);
    let (head, length) = driver.used(queue);
    assert_eq!(head, 0);
    (length, driver.look(ANSWER, 4))
}

const FLUSHED: (u32, [u8; 4]) = (4, [0; 4]);
const FAILED: (u32, [u8; 4]) = (4, [1, 0, 0, 0]);

fn assert_answer((length, answer): (u32, Vec<u8>), expected: (u32, [u8; 4])) {
    assert_eq!((length, answer.as_slice()), (expected.0, &expected.1[..]));
}

/// A fresh program for each of what a hostile front end does.
fn under_attack(_test: &str, attack: fn(hostile_front_end::Start<'_>)) {
    let file = file(SIZE);
    let path = format!("--path={}", file.path().display());
    attack(&|| Device::spawn(PROGRAM, &[&path, ADDRESS]));
}

hostile_front_end::attacks!(under_attack);

#[test]
fn flushes_are_done_and_what_is_no_flush_is_an_error() {
    let mut file = file(SIZE);
    let device = started(&file, &[]);
    let driver = Driver::new(&device);
    let mut queue = driver.queue(0, 64, 0);
    // More than the ring has places, each with something to be made durable.
    for round in 0..100u32 {
        file.seek(SeekFrom::Start(u64::from(round) * 4096)).unwrap();
        file.write_all(&round.to_le_bytes()).unwrap();
        assert_answer(ask(&driver, &mut queue, 0), FLUSHED);
    }
    for kind in [1, 1 << 16, u32::MAX] {
        assert_answer(ask(&driver, &mut queue, kind), FAILED);
    }
    assert_answer(ask(&driver, &mut queue, 0), FLUSHED);
    assert_eq!(driver.stop(&queue), 104);
    assert_eq!(device.end(), (Some(0), String::new()));
    assert_eq!(file.as_file().metadata().unwrap().len(), SIZE);
}

#[test]
fn a_full_ring_of_flushes_is_answered_whole() {
    let file = file(SIZE);
    let device = started(&file, &[]);
    let driver = Driver::new(&device);
    let mut queue = driver.queue(0, 64, 0);
    driver.put(REQUEST, &[0; 4]);
    driver.put(ANSWER, &[0xEE; 4 * 32]);
    let heads: Vec<u16> = (0..32).map(|place| place * 2).collect();
    for (place, head) in (0u64..).zip(&heads) {
        driver.chain(queue.table(), *head, &[(REQUEST, 4, 0), (ANSWER + place * 4, 4, WRITE)]);
    }
    driver.offer(&mut queue, &heads);
    for head in &heads {
        assert_eq!(driver.used(&mut queue), (u32::from(*head), 4));
    }
    assert_eq!(driver.look(ANSWER, 4 * 32), [0; 4 * 32]);
    assert_eq!(device.end(), (Some(0), String::new()));
}

#[test]
fn memory_that_can_be_read_only_fails_each_flush() {
    let file = file(SIZE);
    let device = started(&file, &["--read-only"]);
    let driver = Driver::new(&device);
    let mut queue = driver.queue(0, 4, 0);
    assert_answer(ask(&driver, &mut queue, 0), FAILED);
    assert_answer(ask(&driver, &mut queue, 0), FAILED);
    assert_eq!(device.end(), (Some(0), String::new()));
}

#[test]
fn the_file_is_open_for_reading_alone() {
    let file = file(SIZE);
    let device = started(&file, &[]);
    let folder = format!("/proc/{}", device.confined_pid());
    let open = std::fs::read_dir(format!("{folder}/fd")).unwrap().map(|entry| entry.unwrap());
    let ours: Vec<_> =
        open.filter(|entry| std::fs::read_link(entry.path()).unwrap() == file.path()).collect();
    let [ours] = &ours[..] else { panic!("{ours:?}") };
    let number = ours.file_name();
    let info = std::fs::read_to_string(format!("{folder}/fdinfo/{}", number.display())).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
    assert_eq!(u32::from_str_radix(flags, 8).unwrap() & 3, 0, "O_RDONLY: {info}");
    assert_eq!(device.end(), (Some(0), String::new()));
}

#[test]
fn broken_requests_break_the_ring_which_starts_again() {
    let file = file(SIZE);
    let device = started(&file, &[]);
    let driver = Driver::new(&device);
    let chains: [&[(u64, u32, u16)]; 4] = [
        &[(REQUEST, 4, 0)],
        &[(REQUEST, 4, 0), (ANSWER, 3, WRITE)],
        &[(REQUEST, 4, 0), (MEMORY, 4, WRITE)],
        &[(MEMORY, 4, 0), (ANSWER, 4, WRITE)],
    ];
    for chain in chains {
        let mut queue = driver.queue(0, 4, 0);
        let broken = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
        assert!(device.ask(request::SET_VRING_ERR, &0u64.to_ne_bytes(), &[broken.as_fd()]));
        driver.put(REQUEST, &[0; 4]);
        driver.put(ANSWER, &[0xEE; 4]);
        driver.chain(queue.table(), 0, chain);
        driver.offer(&mut queue, &[0]);
        assert_eq!(wait_for(&broken), 1, "{chain:?}");
        assert_eq!(driver.look(ANSWER, 4), [0xEE; 4]);
        driver.stop(&queue);
        driver.put(queue.available_ring() + 2, &[0; 2]);
        driver.put(queue.used_ring() + 2, &[0; 2]);
    }
    let mut queue = driver.queue(0, 4, 0);
    assert_answer(ask(&driver, &mut queue, 0), FLUSHED);
    let (code, log) = device.end();
    assert_eq!((code, log.lines().count()), (Some(0), 4), "{log}");
}

#[test]
fn the_configuration_says_where_the_memory_is() {
    let file = file(3 * SIZE);
    let device = started(&file, &["--size=4194304"]);
    assert_eq!(device.get(request::GET_QUEUE_NUM), 1);
    assert!(!device.ask(request::SET_VRING_NUM, &state(1, 4), &[]), "a second ring");
    let read = [[0u32, 16, 0].map(u32::to_ne_bytes).as_flattened(), &[0xEE; 16]].concat();
    device.send(request::GET_CONFIG, 1, &read, &[]);
    let config = device.reply(request::GET_CONFIG).unwrap();
    assert_eq!(config[12..], [0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0]);
    // A driver that writes there changes nothing.
    let write = [[0u32, 8, 0].map(u32::to_ne_bytes).as_flattened(), &[0xFF; 8]].concat();
    device.ask(request::SET_CONFIG, &write, &[]);
    device.send(request::GET_CONFIG, 1, &read, &[]);
    assert_eq!(device.reply(request::GET_CONFIG).unwrap(), config);
    assert_eq!(device.end().0, Some(0));
}

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn says_what_it_can_do() {
    let output = run(&["--print-capabilities"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"{\"type\":\"pmem\",\"features\":[\"read-only\"]}\n");
    assert!(String::from_utf8(run(&["--help"]).stdout).unwrap().contains("--address=ADDRESS"));
}

#[test]
fn what_cannot_be_memory_is_one_line_and_a_code() {
    let (odd, fine) = (file(SIZE + 512), file(SIZE));
    let (odd, fine) = [odd.path(), fine.path()].map(|path| format!("--path={}", path.display())).into();
    let socket = "--socket-path=/nowhere/at/all";
    let cases: [(&[&str], i32, &str); 10] = [
        (&[&fine, ADDRESS], 2, "front end"),
        (&[socket, ADDRESS], 2, "--path"),
        (&[socket, &fine], 2, "--address"),
        (&[socket, &fine, "--address=0"], 2, "2 MiB"),
        (&[socket, &fine, "--address=0x1000"], 2, "2 MiB"),
        (&[socket, &fine, "--address=far"], 2, "not a number"),
        (&[socket, &fine, ADDRESS, "--size=4194304"], 3, "--size"),
        (&[socket, &odd, ADDRESS], 3, "2 MiB"),
        (&[socket, "--path=/dev/null", ADDRESS], 3, "neither a regular file"),
        (&[socket, "--path=/nowhere", ADDRESS], 3, "/nowhere"),
    ];
    for (arguments, code, part) in cases {
        let output = run(arguments);
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), log.lines().count()), (Some(code), 1), "{arguments:?}: {log}");
        assert!(log.contains(part), "{arguments:?}: {log}");
    }
}
