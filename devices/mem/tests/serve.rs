//! The real `device-mem`, confined as always, under a front end written by hand: what the memfd of the memory holds is what
//! the host's memory has of it.
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

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Command, Output, Stdio};

use front_end::driver::{BUFFERS, Driver, MEMORY, Queue, WRITE, wait_for};
use front_end::{Device, memory_table, request, sealed};
use nix::sys::eventfd::{EfdFlags, EventFd};

const PROGRAM: &str = env!("CARGO_BIN_EXE_device-mem");
const ADDRESS: &str = "--address=0x500000000";
const START: u64 = 20 << 30;
const BLOCK: u64 = 2 << 20;
const BLOCKS: u64 = 8;
const SIZE: &str = "--size=16777216";
/// Where a request is, and where its answer goes.
const REQUEST: u64 = BUFFERS;
const ANSWER: u64 = BUFFERS + 64;

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

/// The first byte of an answer.
const ACK: u8 = 0;
const NACK: u8 = 1;
const BUSY: u8 = 2;
const ERROR: u8 = 3;

fn started(arguments: &[&str]) -> Device {
    let device = Device::spawn(PROGRAM, &[&[ADDRESS, SIZE][..], arguments].concat());
    device.negotiate(0);
    device
}

/// A driver with its RAM, and the memory that there is to be plugged.
fn with_memory(device: &Device) -> (Driver<'_>, File) {
    let driver = Driver::new(device);
    let file = sealed(BLOCKS * BLOCK);
    let table = memory_table(&[(0, MEMORY, 0), (START, BLOCKS * BLOCK, 0)]);
    assert!(device.ask(request::SET_MEM_TABLE, &table, &[driver.as_fd(), file.as_fd()]));
    (driver, file)
}

/// One request to its end: the first byte of the answer and its state.
fn ask(driver: &Driver<'_>, queue: &mut Queue, kind: u16, block: u64, count: u16) -> (u8, u8) {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 6]);
    bytes.extend((START + block * BLOCK).to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend([0; 6]);
    driver.put(REQUEST, &bytes);
    driver.put(ANSWER, &[0xEE; 10]);
    driver.chain(queue.table(), 0, &[(REQUEST, 24, 0), (ANSWER, 10, WRITE)]);
    driver.offer(queue, &[0]);
    assert_eq!(driver.used(queue), (0, 10));
    let answer = driver.look(ANSWER, 10);
    assert_eq!((&answer[1..8], answer[9]), (&[0; 7][..], 0), "{answer:?}");
    (answer[0], answer[8])
}

/// Blocks' worth of memory that the host has for it.
fn held(file: &File) -> u64 {
    file.metadata().unwrap().blocks() * 512 / BLOCK
}

fn fill(file: &File, block: u64, count: u64) {
    let bytes = vec![0x5A; usize::try_from(count * BLOCK).unwrap()];
    file.write_all_at(&bytes, block * BLOCK).unwrap();
}

/// What the configuration says: its words, the first being the block's size.
fn config(device: &Device) -> Vec<u64> {
    let read = [[0u32, 56, 0].map(u32::to_ne_bytes).as_flattened(), &[0xEE; 56]].concat();
    device.send(request::GET_CONFIG, 1, &read, &[]);
    let config = device.reply(request::GET_CONFIG).unwrap();
    config[12..].as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

fn ends_well(device: Device) {
    assert_eq!(device.end(), (Some(0), String::new()));
}

/// A fresh program for each of what a hostile front end does.
fn under_attack(_test: &str, attack: fn(hostile_front_end::Start<'_>)) {
    attack(&|| Device::spawn(PROGRAM, &[ADDRESS, SIZE]));
}

hostile_front_end::attacks!(under_attack);

#[test]
fn memory_is_plugged_as_wanted_and_unplugged_it_is_the_hosts_again() {
    let device = started(&["--requested=8388608"]);
    let (driver, file) = with_memory(&device);
    let mut queue = driver.queue(0, 4, 0);
    let size = BLOCKS * BLOCK;
    assert_eq!(config(&device), [BLOCK, 0, START, size, size, 0, 4 * BLOCK]);
    assert_eq!(ask(&driver, &mut queue, PLUG, 2, 4), (ACK, 0));
    assert_eq!(ask(&driver, &mut queue, PLUG, 0, 1), (NACK, 0));
    assert_eq!(config(&device)[5], 4 * BLOCK);
    fill(&file, 2, 4);
    assert_eq!(held(&file), 4);
    assert_eq!(ask(&driver, &mut queue, UNPLUG, 3, 2), (ACK, 0));
    assert_eq!(held(&file), 2);
    let mut seen = [0xEE; 16];
    file.read_exact_at(&mut seen, 4 * BLOCK).unwrap();
    assert_eq!(seen, [0; 16], "gone");
    file.read_exact_at(&mut seen, 2 * BLOCK).unwrap();
    assert_eq!(seen, [0x5A; 16], "plugged still");
    for (block, count, state) in [(2, 1, 0), (3, 2, 1), (2, 2, 2), (0, 8, 2)] {
        assert_eq!(ask(&driver, &mut queue, STATE, block, count), (ACK, state), "{block} {count}");
    }
    // What was touched without having been plugged goes as well.
    fill(&file, 7, 1);
    assert_eq!(ask(&driver, &mut queue, UNPLUG_ALL, 0, 0), (ACK, 0));
    assert_eq!((held(&file), config(&device)[5]), (0, 0));
    ends_well(device);
}

#[test]
fn requests_for_what_is_no_block_are_errors_and_change_nothing() {
    let device = started(&[SIZE.replace("size", "requested").as_str()]);
    let (driver, file) = with_memory(&device);
    let mut queue = driver.queue(0, 4, 0);
    assert_eq!(ask(&driver, &mut queue, PLUG, 0, 8), (ACK, 0));
    fill(&file, 0, 8);
    let beyond = (u64::MAX - START) / BLOCK;
    for kind in [PLUG, UNPLUG, STATE] {
        for (block, count) in [(0, 0), (0, 9), (7, 2), (8, 1), (0, 65_535), (beyond, 1), (beyond, 65_535)] {
            assert_eq!(ask(&driver, &mut queue, kind, block, count), (ERROR, 0), "{kind} {block} {count}");
        }
    }
    for kind in [4, 0x100, 0xFFFF] {
        assert_eq!(ask(&driver, &mut queue, kind, 0, 1), (ERROR, 0), "{kind}");
    }
    assert_eq!((held(&file), config(&device)[5]), (8, 8 * BLOCK));
    ends_well(device);
}

#[test]
fn memory_that_nobody_has_sent_stays_plugged() {
    let device = started(&["--requested=2097152"]);
    let driver = Driver::new(&device);
    let mut queue = driver.queue(0, 4, 0);
    assert_eq!(ask(&driver, &mut queue, PLUG, 1, 1), (ACK, 0));
    for _ in 0..3 {
        assert_eq!(ask(&driver, &mut queue, UNPLUG, 1, 1), (BUSY, 0));
        assert_eq!(ask(&driver, &mut queue, UNPLUG_ALL, 0, 0), (BUSY, 0));
    }
    assert_eq!(config(&device)[5], BLOCK);
    let (code, log) = device.end();
    assert!(code == Some(0) && log.lines().count() == 1 && log.contains("stays plugged"), "{log}");
}

#[test]
fn broken_requests_break_the_ring_which_starts_again() {
    let device = started(&["--requested=2097152"]);
    let (driver, _file) = with_memory(&device);
    let chains: [&[(u64, u32, u16)]; 4] = [
        &[(REQUEST, 24, 0)],
        &[(REQUEST, 24, 0), (ANSWER, 9, WRITE)],
        &[(REQUEST, 24, 0), (MEMORY, 10, WRITE)],
        &[(MEMORY, 24, 0), (ANSWER, 10, WRITE)],
    ];
    for chain in chains {
        let mut queue = driver.queue(0, 4, 0);
        let broken = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
        assert!(device.ask(request::SET_VRING_ERR, &0u64.to_ne_bytes(), &[broken.as_fd()]));
        driver.put(REQUEST, &[0; 24]);
        driver.chain(queue.table(), 0, chain);
        driver.offer(&mut queue, &[0]);
        assert_eq!(wait_for(&broken), 1, "{chain:?}");
        driver.stop(&queue);
        driver.put(queue.available_ring() + 2, &[0; 2]);
        driver.put(queue.used_ring() + 2, &[0; 2]);
    }
    let mut queue = driver.queue(0, 4, 0);
    assert_eq!(ask(&driver, &mut queue, PLUG, 0, 1), (ACK, 0));
    let (code, log) = device.end();
    assert_eq!((code, log.lines().count()), (Some(0), 4), "{log}");
}

#[test]
fn what_a_driver_plugged_outlives_its_reset() {
    let device = started(&["--requested=2097152"]);
    let (driver, _file) = with_memory(&device);
    let mut queue = driver.queue(0, 4, 0);
    assert_eq!(ask(&driver, &mut queue, PLUG, 0, 1), (ACK, 0));
    assert!(device.ask(request::RESET_DEVICE, &[], &[]));
    assert_eq!(config(&device)[5], BLOCK);
    // A driver that writes to the configuration changes nothing either.
    let write = [[40u32, 16, 0].map(u32::to_ne_bytes).as_flattened(), &[0xFF; 16]].concat();
    assert!(device.ask(request::SET_CONFIG, &write, &[]));
    assert_eq!(config(&device)[5..], [BLOCK, BLOCK]);
    ends_well(device);
}

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn what_it_can_do_it_says_and_what_it_cannot_be() {
    assert_eq!(run(&["--print-capabilities"]).stdout, b"{\"type\":\"mem\",\"features\":[]}\n");
    assert!(String::from_utf8(run(&["--help"]).stdout).unwrap().contains("--requested=N"));
    let socket = "--socket-path=/nowhere/at/all";
    let cases: [(&[&str], &str); 9] = [
        (&[ADDRESS, SIZE], "front end"),
        (&[socket, SIZE], "--address"),
        (&[socket, ADDRESS], "--size"),
        (&[socket, ADDRESS, "--size=2097153"], "whole blocks"),
        (&[socket, ADDRESS, "--size=0"], "whole blocks"),
        (&[socket, "--address=0x500100000", SIZE], "address of memory"),
        (&[socket, ADDRESS, SIZE, "--block=3145728"], "a power of two"),
        (&[socket, ADDRESS, SIZE, "--requested=18874368"], "memory that is wanted"),
        (&[socket, ADDRESS, "--size=much"], "not a number"),
    ];
    for (arguments, part) in cases {
        let output = run(arguments);
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), log.lines().count()), (Some(2), 1), "{arguments:?}: {log}");
        assert!(log.contains(part), "{arguments:?}: {log}");
    }
    let (code, log) = Device::spawn(PROGRAM, &[ADDRESS, SIZE, "--operations=10"]).end();
    assert!(code == Some(3) && log.contains("cannot be limited"), "{code:?} {log}");
}
