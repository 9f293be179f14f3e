//! The real `device-rng`, confined as always, under a front end written by hand.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test says what it expects by failing"
)]

#[path = "../../backend/tests/front_end/mod.rs"]
#[expect(dead_code, reason = "a device without configuration and with one queue needs a part of it")]
#[expect(clippy::expect_used, clippy::panic, reason = "as above")]
mod front_end;
#[path = "../../backend/tests/hostile_front_end/mod.rs"]
#[expect(clippy::panic, reason = "as above")]
mod hostile_front_end;

use std::os::fd::AsFd;
use std::process::{Command, Output, Stdio};

use front_end::driver::{BUFFERS, Driver, Queue, WRITE, wait_for};
use front_end::{Device, memory_table, request, state};
use nix::sys::eventfd::{EfdFlags, EventFd};

const PROGRAM: &str = env!("CARGO_BIN_EXE_device-rng");
/// Most bytes that one request is answered with.
const MOST: u32 = 4096;

/// One request to its end: the used length.
fn submit(driver: &Driver<'_>, queue: &mut Queue, parts: &[(u64, u32, u16)]) -> u32 {
    driver.chain(queue.table(), 0, parts);
    driver.offer(queue, &[0]);
    let (head, length) = driver.used(queue);
    assert_eq!(head, 0);
    length
}

fn started(arguments: &[&str]) -> Device {
    let device = Device::spawn(PROGRAM, arguments);
    device.negotiate(0);
    device
}

/// A device with its ring of `size`, which ends well when `requests` are done.
fn serving(arguments: &[&str], size: u16, requests: impl FnOnce(&Driver<'_>, &mut Queue)) {
    let device = started(arguments);
    let driver = Driver::new(&device);
    requests(&driver, &mut driver.queue(0, size, 0));
    ends_well(device);
}

fn ends_well(device: Device) {
    assert_eq!(device.end(), (Some(0), String::new()));
}

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// A fresh program for each of what a hostile front end does.
fn under_attack(_test: &str, attack: fn(hostile_front_end::Start<'_>)) {
    attack(&|| Device::spawn(PROGRAM, &[]));
}

hostile_front_end::attacks!(under_attack);

#[test]
fn requests_are_filled_with_bytes_that_differ() {
    serving(&[], 64, |driver, queue| {
        let mut seen = Vec::new();
        // More requests than the ring has places, in two pieces, one of them odd in address and size.
        for _ in 0..100 {
            driver.put(BUFFERS, &[0; 128]);
            assert_eq!(submit(driver, queue, &[(BUFFERS + 3, 13, WRITE), (BUFFERS + 32, 51, WRITE)]), 64);
            assert_eq!(driver.look(BUFFERS, 3), [0; 3]);
            assert_eq!(driver.look(BUFFERS + 16, 16), [0; 16]);
            seen.push([driver.look(BUFFERS + 3, 13), driver.look(BUFFERS + 32, 51)].concat());
            assert_eq!(driver.look(BUFFERS + 83, 45), [0; 45]);
        }
        // Of all bytes of all answers the values are as even as chance has it: 25 of each on average.
        assert!((0..=255).all(|value| seen.concat().contains(&value)));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 100);
        assert_eq!(driver.stop(queue), 100);
    });
}

/// How fast is `pace`'s to test, by a clock of its own: here is that the confined program waits, and goes on.
#[test]
fn a_limited_generator_gives_the_same_after_a_while() {
    let limits = ["--operations=200", "--operations-burst=1", "--bandwidth=100000"];
    serving(&limits, 64, |driver, queue| {
        for _ in 0..20 {
            assert_eq!(submit(driver, queue, &[(BUFFERS, 1000, WRITE)]), 1000);
        }
    });
}

#[test]
fn limits_that_make_no_sense_are_one_line_and_a_code() {
    for limits in [["--operations-burst=1"], ["--bandwidth=fast"], ["--operations=-1"]] {
        let output = run(&[&["--socket-path=/nowhere/at/all"][..], &limits].concat());
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), log.lines().count()), (Some(2), 1), "{limits:?}: {log}");
    }
}

#[test]
fn a_large_request_is_answered_in_part() {
    serving(&["--path=/dev/zero"], 4, |driver, queue| {
        let size = 8 << 20;
        driver.put(BUFFERS, &vec![0xff; size]);
        assert_eq!(submit(driver, queue, &[(BUFFERS, 8 << 20, WRITE)]), MOST);
        let answer = driver.look(BUFFERS, size);
        assert!(answer.iter().position(|byte| *byte != 0) == Some(MOST as usize));
        assert!(answer[MOST as usize..].iter().all(|byte| *byte == 0xff));
    });
}

#[test]
fn what_the_driver_gives_to_read_is_not_looked_at() {
    serving(&[], 4, |driver, queue| {
        assert_eq!(submit(driver, queue, &[(BUFFERS, 64, 0), (BUFFERS + 64, 16, WRITE)]), 16);
    });
}

#[test]
fn a_request_without_room_breaks_the_ring_which_starts_again() {
    let device = started(&[]);
    let driver = Driver::new(&device);
    let mut queue = driver.queue(0, 4, 0);
    let broken = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
    assert!(device.ask(request::SET_VRING_ERR, &0u64.to_ne_bytes(), &[broken.as_fd()]));
    driver.chain(queue.table(), 0, &[(BUFFERS, 64, 0)]);
    driver.offer(&mut queue, &[0]);
    assert_eq!(wait_for(&broken), 1);
    driver.stop(&queue);
    assert_eq!(driver.look(queue.used_ring() + 2, 2), [0; 2]);
    driver.put(queue.available_ring() + 2, &[0; 2]);
    let mut queue = driver.queue(0, 4, 0);
    assert_eq!(submit(&driver, &mut queue, &[(BUFFERS, 64, WRITE)]), 64);
    let (code, log) = device.end();
    assert_eq!(code, Some(0));
    assert!(log.contains("nothing to write to") && log.lines().count() == 1, "{log}");
}

/// The most memory that a request makes the device allocate, with a filter under which its heap cannot grow.
#[test]
fn the_longest_chain_over_all_regions_is_served() {
    const RINGS: u64 = 1 << 20;
    const SMALL: u64 = 4096;
    let device = started(&[]);
    let driver = Driver::new(&device);
    let small = (0..31).map(|index| RINGS + index * SMALL).map(|at| (at, SMALL, at));
    let regions: Vec<_> = std::iter::once((0, RINGS, 0)).chain(small).collect();
    let fds: Vec<_> = regions.iter().map(|_| driver.memory.as_fd()).collect();
    assert!(device.ask(request::SET_MEM_TABLE, &memory_table(&regions), &fds));
    let mut queue = driver.queue(0, 1024, 0);
    let chain = vec![(RINGS, 31 * 4096, WRITE); 1024];
    for _ in 0..3 {
        assert_eq!(submit(&driver, &mut queue, &chain), MOST);
    }
    ends_well(device);
}

#[test]
fn there_is_one_queue_and_no_configuration() {
    let device = Device::spawn(PROGRAM, &[]);
    let features = device.negotiate(0);
    assert_eq!(features & 0x00ff_ffff, 0, "feature bits of the device type");
    assert_eq!(device.get(request::GET_PROTOCOL_FEATURES) & (1 << 9), 0, "VHOST_USER_PROTOCOL_F_CONFIG");
    assert_eq!(device.get(request::GET_QUEUE_NUM), 1);
    assert!(!device.ask(request::SET_VRING_NUM, &state(1, 4), &[]), "a second ring");
    let write = [0u32, 4, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
    assert!(!device.ask(request::SET_CONFIG, &write, &[]));
    device.send(request::GET_CONFIG, 1, &write, &[]);
    assert_eq!(device.reply(request::GET_CONFIG), Some(Vec::new()));
    let (code, log) = device.end();
    assert_eq!((code, log.lines().count()), (Some(0), 3), "{log}");
}

#[test]
fn says_what_it_can_do() {
    let output = run(&["--print-capabilities"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"{\"type\":\"rng\",\"features\":[]}\n");
    let help = run(&["--help"]);
    assert!(String::from_utf8(help.stdout).unwrap().contains("--path=PATH"));
}

#[test]
fn sources_that_are_none_are_one_line_and_a_code() {
    let cases: [(&[&str], i32, &str); 5] = [
        (&[], 2, "front end"),
        (&["--socket-path=/nowhere/at/all", "--path"], 2, "path"),
        (&["--socket-path=/nowhere/at/all", "--path=/nowhere"], 3, "/nowhere"),
        (&["--socket-path=/nowhere/at/all", "--path=/proc/self/exe"], 3, "character device"),
        (&["--socket-path=/nowhere/at/all", "--serial=x"], 2, "serial"),
    ];
    for (arguments, code, part) in cases {
        let output = run(arguments);
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), log.lines().count()), (Some(code), 1), "{arguments:?}: {log}");
        assert!(log.contains(part), "{arguments:?}: {log}");
    }
    // What only the confined process finds out.
    let (code, log) = Device::spawn(PROGRAM, &["--path=/dev/null"]).end();
    assert_eq!((code, log.lines().count()), (Some(3), 1), "{log}");
    assert!(log.contains("gives nothing"), "{log}");
}
