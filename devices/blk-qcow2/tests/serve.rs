//! The real `device-blk-qcow2`, confined as always, serves a hand-written driver; what it did is read from the image by a
//! reader of our own.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test says what it expects by failing"
)]

#[path = "../../backend/tests/front_end/mod.rs"]
#[expect(dead_code, reason = "the library's tests use the rest of this")]
mod front_end;
mod image_file;

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use front_end::driver::{BUFFERS, Driver, Queue, WRITE};
use front_end::{Device, request};
use image_file::{Image, Shape, name_backing};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::limits;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
const IOERR: u8 = 1;

const SHAPE: Shape = Shape { cluster_bits: 16, refcount_order: 4, size: 16 << 20 };
const LARGE: Shape = Shape { cluster_bits: 21, refcount_order: 4, size: 1 << 30 };

fn image(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.as_file().write_all_at(bytes, 0).unwrap();
    file
}

fn start(path: &Path, arguments: &[&str]) -> Device {
    let path = format!("--path={}", path.display());
    Device::spawn(env!("CARGO_BIN_EXE_device-blk-qcow2"), &[&[path.as_str()], arguments].concat())
}

fn ends_well(device: Device) {
    let (code, log) = device.end();
    assert_eq!((code, log.as_str()), (Some(0), ""));
}

/// One request to its end: its status and how much was written. `data` is (address, size, flags).
fn submit(
    driver: &Driver<'_>,
    queue: &mut Queue,
    kind: u32,
    sector: u64,
    data: &[(u64, u32, u16)],
) -> (u8, u32) {
    let (header, status) = (BUFFERS - 0x1000, BUFFERS - 0x800);
    let words = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
    driver.put(header, &words);
    driver.put(status, &[0xff]);
    let parts = [&[(header, 16, 0)], data, &[(status, 1, WRITE)]].concat();
    driver.chain(queue.table(), 0, &parts);
    driver.offer(queue, &[0]);
    let (head, length) = driver.used(queue);
    assert_eq!(head, 0);
    (driver.look(status, 1)[0], length)
}

fn write(driver: &Driver<'_>, queue: &mut Queue, sector: u64, bytes: &[u8]) {
    driver.put(BUFFERS, bytes);
    assert_eq!(submit(driver, queue, OUT, sector, &[(BUFFERS, bytes.len() as u32, 0)]), (0, 1));
}

fn read(driver: &Driver<'_>, queue: &mut Queue, sector: u64, length: usize) -> Vec<u8> {
    let data = [(BUFFERS + 3, length as u32 - 5, WRITE), (BUFFERS + 0x20_0000, 5, WRITE)];
    assert_eq!(submit(driver, queue, IN, sector, &data), (0, length as u32 + 1));
    [driver.look(BUFFERS + 3, length - 5), driver.look(BUFFERS + 0x20_0000, 5)].concat()
}

fn segment(
    driver: &Driver<'_>,
    queue: &mut Queue,
    kind: u32,
    (sector, sectors, flags): (u64, u32, u32),
) -> u8 {
    driver.put(BUFFERS, &[&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat());
    submit(driver, queue, kind, 0, &[(BUFFERS, 16, 0)]).0
}

#[test]
fn each_kind_of_request_is_served_under_the_filters() {
    for shape in [SHAPE, LARGE] {
        let disk = image(&shape.empty());
        let device = start(disk.path(), &["--serial=abc", "--queues=2"]);
        device.negotiate(0);
        let driver = Driver::new(&device);
        let mut queues = [driver.queue(0, 64, 0), driver.queue(1, 64, 0)];
        let mut expected = vec![0; 8 << 20];
        for (index, sector) in [3u64, 200, 128, 9000, 130].into_iter().enumerate() {
            let bytes = vec![index as u8 + 1; 70 << 10];
            write(&driver, &mut queues[index % 2], sector, &bytes);
            expected[sector as usize * 512..sector as usize * 512 + bytes.len()].copy_from_slice(&bytes);
        }
        for (kind, part, at) in [
            (WRITE_ZEROES, (10, 20, 0), 10..30),
            (WRITE_ZEROES, (150, 300, 1), 150..450),
            (WRITE_ZEROES, (9100, 100, 0), 9100..9200),
            (DISCARD, (9088, 128, 0), if shape.cluster_bits == 16 { 9088..9216 } else { 0..0 }),
        ] {
            assert_eq!(segment(&driver, &mut queues[0], kind, part), 0);
            expected[at.start * 512..at.end * 512].fill(0);
        }
        assert_eq!(submit(&driver, &mut queues[1], FLUSH, 0, &[]), (0, 1));
        assert_eq!(submit(&driver, &mut queues[1], GET_ID, 0, &[(BUFFERS, 20, WRITE)]), (0, 21));
        assert_eq!(driver.look(BUFFERS, 4), *b"abc\0");
        for (queue, part) in expected.chunks(1 << 20).enumerate() {
            assert!(read(&driver, &mut queues[queue % 2], queue as u64 * 2048, 1 << 20) == part);
        }
        // Beyond the disk.
        let beyond = [(BUFFERS, 512, WRITE)];
        assert_eq!(submit(&driver, &mut queues[0], IN, shape.size / 512, &beyond), (IOERR, 0));
        let found = Image { bytes: std::fs::read(disk.path()).unwrap() };
        assert_eq!(found.check(), Ok(0));
        assert!(found.content(&[], 0, 8 << 20) == expected);
        ends_well(device);
    }
}

#[test]
fn what_was_answered_is_there_when_the_process_is_killed() {
    let disk = image(&SHAPE.empty());
    let mut expected = vec![0; 8 << 20];
    for round in 0..4u64 {
        let device = start(disk.path(), &[]);
        device.negotiate(0);
        let driver = Driver::new(&device);
        let mut queue = driver.queue(0, 64, 0);
        for index in 0..8 {
            let sector = (round * 1777 + index * 911) % 16000;
            let bytes = vec![(round * 8 + index) as u8 + 1; 9 << 10];
            write(&driver, &mut queue, sector, &bytes);
            expected[sector as usize * 512..sector as usize * 512 + bytes.len()].copy_from_slice(&bytes);
        }
        kill(Pid::from_raw(device.confined_pid()), Signal::SIGKILL).unwrap();
        assert_ne!(device.end().0, Some(0));
        let found = Image { bytes: std::fs::read(disk.path()).unwrap() };
        assert_eq!(found.check(), Ok(0), "round {round}");
        assert!(found.content(&[], 0, 8 << 20) == expected, "round {round}");
    }
}

#[test]
fn the_tables_are_those_that_the_predecessor_left() {
    let disk = image(&SHAPE.empty());
    let (first, second) = (start(disk.path(), &[]), start(disk.path(), &[]));
    // Both are ready before either serves.
    first.negotiate(0);
    second.negotiate(0);
    let driver = Driver::new(&first);
    write(&driver, &mut driver.queue(0, 64, 0), 1000, &[5; 4096]);
    let after = Driver::new(&second);
    let mut queue = after.queue(0, 64, 0);
    assert_eq!(read(&after, &mut queue, 1000, 4096), [5; 4096]);
    write(&after, &mut queue, 5000, &[6; 4096]);
    let found = Image { bytes: std::fs::read(disk.path()).unwrap() };
    assert_eq!(found.check(), Ok(0));
    assert_eq!(found.content(&[], 1000 * 512, 4096), [5; 4096]);
    assert_eq!(found.content(&[], 5000 * 512, 4096), [6; 4096]);
    ends_well(first);
    ends_well(second);
}

/// As many files below it as there can be, the lowest a raw disk.
#[test]
fn what_is_below_an_image_is_seen_and_never_written_to() {
    let base: Vec<u8> = (0..2u32 << 20).flat_map(u32::to_le_bytes).collect();
    let named = |shape: Shape| {
        let mut bytes = shape.empty();
        name_backing(&mut bytes, "another");
        bytes
    };
    // Of half the size, and with other clusters.
    let half = Shape { cluster_bits: 12, refcount_order: 1, size: SHAPE.size / 2 };
    let (disk, lowest) = (image(&named(SHAPE)), image(&base));
    let between: Vec<_> = (1..limits::MAX_BACKING).map(|_| image(&named(half))).collect();
    let backing = between.iter().chain([&lowest]).map(|file| format!("--backing={}", file.path().display()));
    let backing: Vec<String> = backing.collect();
    let mut arguments = vec!["--backing-format=raw", "--queues=2"];
    arguments.extend(backing.iter().map(String::as_str));
    let mut expected = base.clone();
    for round in 0..3u64 {
        let device = start(disk.path(), &arguments);
        device.negotiate(0);
        let driver = Driver::new(&device);
        let mut queues = [driver.queue(0, 64, 0), driver.queue(1, 64, 0)];
        for index in 0..6 {
            let sector = (round * 1777 + index * 911) % 16000;
            let bytes = vec![(round * 8 + index) as u8 + 1; 9 << 10];
            write(&driver, &mut queues[index as usize % 2], sector, &bytes);
            expected[sector as usize * 512..sector as usize * 512 + bytes.len()].copy_from_slice(&bytes);
        }
        let (hidden, zeroed) = (128 * (20 + round)..128 * (21 + round), 12_000 + 100 * round);
        assert_eq!(segment(&driver, &mut queues[0], DISCARD, (hidden.start, 128, 0)), 0);
        expected[hidden.start as usize * 512..hidden.end as usize * 512].fill(0);
        assert_eq!(segment(&driver, &mut queues[0], WRITE_ZEROES, (zeroed, 90, 1)), 0);
        expected[zeroed as usize * 512..(zeroed + 90) as usize * 512].fill(0);
        for (number, part) in expected.chunks(1 << 20).enumerate() {
            assert!(read(&driver, &mut queues[number % 2], number as u64 * 2048, 1 << 20) == part);
        }
        kill(Pid::from_raw(device.confined_pid()), Signal::SIGKILL).unwrap();
        assert_ne!(device.end().0, Some(0));
        let found = Image { bytes: std::fs::read(disk.path()).unwrap() };
        assert_eq!(found.check(), Ok(0), "round {round}");
        assert!(found.content(&base, 0, 8 << 20) == expected, "round {round}");
    }
    for file in between {
        assert!(std::fs::read(file.path()).unwrap() == named(half));
    }
    assert!(std::fs::read(lowest.path()).unwrap() == base);
}

#[test]
fn a_read_only_image_takes_no_change() {
    let disk = image(&SHAPE.empty());
    let device = start(disk.path(), &["--read-only"]);
    let features = device.get(request::GET_FEATURES);
    assert_eq!(features >> 5 & 1, 1);
    device.negotiate(0);
    let driver = Driver::new(&device);
    let mut queue = driver.queue(0, 64, 0);
    assert_eq!(read(&driver, &mut queue, 0, 65536), [0; 65536]);
    assert_eq!(submit(&driver, &mut queue, OUT, 0, &[(BUFFERS, 512, 0)]).0, IOERR);
    ends_well(device);
    assert!(std::fs::read(disk.path()).unwrap() == SHAPE.empty());
}

/// A file that may not become longer stands for a host without space.
#[test]
fn without_space_a_write_is_an_error_and_nothing_else_suffers() {
    let file = memfd_create("image", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    let file = std::fs::File::from(file);
    file.write_all_at(&SHAPE.empty(), 0).unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let device = start(Path::new(&path), &[]);
    device.negotiate(0);
    let driver = Driver::new(&device);
    let mut queue = driver.queue(0, 64, 0);
    write(&driver, &mut queue, 128, &[1; 64 << 10]);
    file.set_len(file.metadata().unwrap().len().next_multiple_of(64 << 10)).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).unwrap();
    for round in 0..3u64 {
        for sector in [1000 + round * 128, 20_000 + round * 2000] {
            assert_eq!(submit(&driver, &mut queue, OUT, sector, &[(BUFFERS, 4096, 0)]).0, IOERR, "{sector}");
            assert_eq!(read(&driver, &mut queue, sector, 4096), [0; 4096]);
        }
        let mine = [round as u8 + 2; 4096];
        write(&driver, &mut queue, 130 + round * 8, &mine);
        assert_eq!(read(&driver, &mut queue, 130 + round * 8, 4096), mine);
        assert_eq!(submit(&driver, &mut queue, FLUSH, 0, &[]), (0, 1));
    }
    ends_well(device);
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let found = Image { bytes };
    found.check().unwrap();
    assert_eq!(found.content(&[], 128 * 512, 1024), [1; 1024]);
    assert_eq!(found.content(&[], 146 * 512, 4096), [4; 4096]);
}

#[test]
fn an_image_that_is_not_served_is_one_line_and_a_code() {
    let mut backed = SHAPE.empty();
    backed[8..16].copy_from_slice(&200u64.to_be_bytes());
    for (bytes, word) in [(vec![0; 8192], "device-blk's"), (backed, "backing file"), (vec![], "device-blk's")]
    {
        let disk = image(&bytes);
        let (code, log) = start(disk.path(), &[]).end();
        assert_eq!((code, log.lines().count()), (Some(3), 1), "{log}");
        assert!(log.contains(word), "{log}");
    }
    let folder = tempfile::tempdir().unwrap();
    let (code, log) = start(folder.path(), &["--read-only"]).end();
    assert_eq!((code, log.lines().count()), (Some(3), 1), "{log}");
    let (code, log) = start(&folder.path().join("none"), &[]).end();
    assert_eq!((code, log.lines().count()), (Some(3), 1), "{log}");
}
