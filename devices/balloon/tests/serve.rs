//! The real `device-balloon`, confined as always, under a front end written by hand: what the memfd of guest memory holds
//! is what the host's memory has of it.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test says what it expects by failing"
)]

#[path = "../../backend/tests/front_end/mod.rs"]
#[expect(dead_code, reason = "a device needs a part of it")]
#[expect(clippy::expect_used, clippy::panic, reason = "as above")]
mod front_end;
#[path = "../../backend/tests/hostile_front_end/mod.rs"]
#[expect(clippy::panic, reason = "as above")]
mod hostile_front_end;

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use front_end::driver::{BUFFERS, Driver, MEMORY, Queue, WRITE};
use front_end::{Device, memory_table, request, sealed};
use std::os::fd::AsFd;

const PROGRAM: &str = env!("CARGO_BIN_EXE_device-balloon");
const PAGE: u64 = 4096;
/// Memory that is neither ring nor buffer.
const PLAIN: u64 = 8 << 20;
const SIZE: u16 = 64;
const CONFIG: u64 = 1 << 9;
const BACKEND_REQ: u64 = 1 << 5;

fn started(arguments: &[&str]) -> Device {
    let device = Device::spawn(PROGRAM, arguments);
    device.negotiate(0);
    device
}

/// Pages that the host has for guest memory.
fn held(driver: &Driver<'_>) -> u64 {
    driver.file().metadata().unwrap().blocks() * 512 / PAGE
}

/// Touches `pages` pages from `at` on.
fn touch(driver: &Driver<'_>, at: u64, pages: u64) {
    for page in 0..pages {
        driver.put(at + page * PAGE, &[0x5A; 8]);
    }
}

fn submit(driver: &Driver<'_>, queue: &mut Queue, parts: &[(u64, u32, u16)]) {
    driver.chain(queue.table(), 0, parts);
    driver.offer(queue, &[0]);
    assert_eq!(driver.used(queue), (0, 0));
}

/// Gives pages by their numbers, in two pieces cut through a number.
fn give(driver: &Driver<'_>, queue: &mut Queue, pages: &[u32]) {
    let numbers: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
    driver.put(BUFFERS, &numbers);
    let size = u32::try_from(numbers.len()).unwrap();
    submit(driver, queue, &[(BUFFERS, 3, 0), (BUFFERS + 3, size - 3, 0)]);
}

fn page(at: u64) -> u32 {
    u32::try_from(at / PAGE).unwrap()
}

fn ends_well(device: Device) {
    assert_eq!(device.end(), (Some(0), String::new()));
}

/// A fresh program for each of what a hostile front end does.
fn under_attack(_test: &str, attack: fn(hostile_front_end::Start<'_>)) {
    attack(&|| Device::spawn(PROGRAM, &["--size=1048576"]));
}

hostile_front_end::attacks!(under_attack);

#[test]
fn pages_that_are_given_are_the_hosts_and_come_back_as_zeroes() {
    let device = started(&["--size=1048576"]);
    let driver = Driver::new(&device);
    let (mut inflate, mut deflate) = (driver.queue(0, SIZE, 0), driver.queue(1, SIZE, 0));
    touch(&driver, PLAIN, 256);
    driver.put(BUFFERS, &[0; 4096]);
    // Rings that are first used now are held from here on.
    give(&driver, &mut inflate, &[page(PLAIN)]);
    let before = held(&driver);
    let pages: Vec<u32> = (1..201).rev().map(|number| page(PLAIN) + number).collect();
    give(&driver, &mut inflate, &pages);
    assert_eq!(held(&driver), before - 200);
    assert_eq!(driver.look(PLAIN + 200 * PAGE, 8), [0; 8]);
    assert_eq!(driver.look(PLAIN + 201 * PAGE, 8), [0x5A; 8], "its neighbour is untouched");
    touch(&driver, PLAIN + PAGE, 200);
    submit(&driver, &mut deflate, &[(BUFFERS, 800, 0)]);
    assert!(held(&driver) >= before);
    assert_eq!(driver.look(PLAIN + PAGE, 8), [0x5A; 8]);
    ends_well(device);
}

#[test]
fn what_no_driver_gives_is_harmless() {
    let device = started(&[]);
    let driver = Driver::new(&device);
    let mut inflate = driver.queue(0, SIZE, 0);
    touch(&driver, PLAIN, 4);
    let pages = [u32::MAX, page(MEMORY), page(PLAIN), page(MEMORY) - 1, page(PLAIN), u32::MAX - 1, 1 << 31];
    give(&driver, &mut inflate, &pages);
    give(&driver, &mut inflate, &pages);
    assert_eq!((driver.look(PLAIN, 8), driver.look(PLAIN + PAGE, 8)), (vec![0; 8], vec![0x5A; 8]));
    submit(&driver, &mut inflate, &[(BUFFERS, 1, 0)]);
    submit(&driver, &mut inflate, &[(BUFFERS, 64, WRITE)]);
    // More numbers than are looked at, and all of them one page.
    submit(&driver, &mut inflate, &[(PLAIN + PAGE * 16, 4 << 20, 0)]);
    touch(&driver, PLAIN, 1);
    give(&driver, &mut inflate, &[page(PLAIN)]);
    assert_eq!(driver.look(PLAIN, 8), [0; 8], "it serves on");
    ends_well(device);
}

#[test]
fn a_run_over_two_regions_and_a_hole_gives_each_its_part() {
    let device = started(&[]);
    let driver = Driver::new(&device);
    // The second region is the second half of the file, further up, and begins where a hole ends.
    let (half, far) = (MEMORY / 2, MEMORY / 2 + 4 * PAGE);
    let table = memory_table(&[(0, half, 0), (far, half, half)]);
    assert!(device.ask(request::SET_MEM_TABLE, &table, &[driver.as_fd(), driver.as_fd()]));
    let mut inflate = driver.queue(0, SIZE, 0);
    touch(&driver, half - 2 * PAGE, 6);
    let pages: Vec<u32> = (page(half) - 1..page(far) + 2).collect();
    give(&driver, &mut inflate, &pages);
    let marks = (0..6).map(|number| driver.look(half + number * PAGE - 2 * PAGE, 1)[0]);
    assert_eq!(marks.collect::<Vec<u8>>(), [0x5A, 0, 0, 0, 0x5A, 0x5A]);
    ends_well(device);
}

#[test]
fn pages_that_are_reported_free_are_given_back_whole() {
    let device = started(&["--free-page-reporting"]);
    let driver = Driver::new(&device);
    // Where Linux has the queue, which counts that of statistics, and where the specification has it.
    for (index, at) in [(3, PLAIN), (4, PLAIN + (1 << 20))] {
        let mut reporting = driver.queue(index, SIZE, 0);
        touch(&driver, at, 8);
        submit(
            &driver,
            &mut reporting,
            &[(at + 1, u32::try_from(4 * PAGE).unwrap(), WRITE), (at + 6 * PAGE, 4096, WRITE)],
        );
        let marks = (0..8).map(|number| driver.look(at + number * PAGE, 1)[0]);
        assert_eq!(marks.collect::<Vec<u8>>(), [0x5A, 0, 0, 0, 0x5A, 0x5A, 0, 0x5A]);
    }
    ends_well(device);
}

#[test]
fn the_user_has_the_say_over_features_and_size() {
    for (arguments, features) in [
        (&[][..], 1 << 1),
        (&["--deflate-on-oom"][..], 1 << 1 | 1 << 2),
        (&["--deflate-on-oom", "--free-page-reporting"][..], 1 << 1 | 1 << 2 | 1 << 5),
    ] {
        let device = Device::spawn(PROGRAM, arguments);
        assert_eq!(device.get(request::GET_FEATURES) & 0xFF_FFFF, features);
        assert_eq!(device.get(request::GET_PROTOCOL_FEATURES) & (CONFIG | BACKEND_REQ), CONFIG | BACKEND_REQ);
        ends_well(device);
    }
    let device = started(&["--size=8192"]);
    let channel = sealed(4096);
    assert!(
        device.ask(21, &[], &[channel.as_fd()]),
        "any descriptor: it is used when there is something to say"
    );
    assert!(!device.ask(21, &[], &[]));
    let ask = [0u32, 16, 0].map(u32::to_ne_bytes).concat();
    device.send(request::GET_CONFIG, 1, &[ask, vec![0; 16]].concat(), &[]);
    let config = device.reply(request::GET_CONFIG).unwrap();
    assert_eq!(config[12..], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let (code, log) = device.end();
    assert!(code == Some(0) && log.contains("refused"), "{log}");
}

#[test]
fn what_it_can_do_it_says() {
    let run = |argument| {
        let output = Command::new(PROGRAM).arg(argument).stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(run("--print-capabilities"), (Some(0), "{\"type\":\"balloon\",\"features\":[]}\n".to_owned()));
    assert_eq!(run("--size=much").0, Some(2));
    for limit in ["--bandwidth=1000000", "--operations=10"] {
        let (code, log) = Device::spawn(PROGRAM, &[limit]).end();
        assert!(code == Some(3) && log.contains("cannot be limited"), "{code:?} {log}");
    }
}
