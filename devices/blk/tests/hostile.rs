//! What a hostile front end and a hostile guest can say: each is refused, nothing leaks, and the device lives on or
//! ends with one line.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test says what it expects by failing"
)]

mod front_end;
#[path = "../../backend/tests/hostile_front_end/mod.rs"]
mod hostile_front_end;

use std::os::fd::AsFd;

use front_end::driver::{BUFFERS, Driver, INDIRECT, MEMORY, NEXT, WRITE, wait_for};
use front_end::{Device, header_bytes, image, memfd, memory_table, request};
use nix::fcntl::SealFlag;
use nix::sys::eventfd::EventFd;

fn negotiated(arguments: &[&str]) -> (tempfile::NamedTempFile, Device) {
    let disk = image(1 << 20);
    let device = Device::start(disk.path(), arguments);
    device.negotiate(0);
    (disk, device)
}

/// A fresh program for each of what a hostile front end does.
fn under_attack(_test: &str, attack: fn(hostile_front_end::Start<'_>)) {
    let disk = image(1 << 20);
    attack(&|| Device::start(disk.path(), &[]));
}

hostile_front_end::attacks!(under_attack);

/// Still there: it answers.
fn lives(device: &Device) {
    assert_eq!(device.get(request::GET_QUEUE_NUM), 1);
}

#[test]
fn half_a_message_and_a_slow_one() {
    let (_disk, device) = negotiated(&[]);
    let message: Vec<u8> = [17u32, 1, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
    for byte in &message {
        std::io::Write::write_all(&mut &device.socket, &[*byte]).unwrap();
    }
    assert_eq!(device.reply(17).unwrap(), 1u64.to_ne_bytes());
    std::io::Write::write_all(&mut &device.socket, &message[..5]).unwrap();
    let (code, log) = device.end();
    assert_eq!((code, log.lines().count()), (Some(7), 1), "{log}");
}

/// The front end may share its idea of blocking with us: the flag belongs to the socket's description.
#[test]
fn a_non_blocking_socket_is_waited_for() {
    let (_disk, device) = negotiated(&["--queues=2"]);
    let message: Vec<u8> = [17u32, 1, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
    for part in [&message[..4], &message[4..]] {
        std::io::Write::write_all(&mut &device.socket, part).unwrap();
        // Until the device has taken the first part and found nothing behind it, or is about to: either must do.
        std::thread::yield_now();
    }
    assert_eq!(device.reply(17).unwrap(), 2u64.to_ne_bytes());
    assert_eq!(device.end().0, Some(0));
}

#[test]
fn unsealed_memory_is_taken_when_the_user_says_so() {
    let (_disk, device) = negotiated(&["--unsealed-memory"]);
    let file = memfd(1 << 20, SealFlag::empty());
    assert!(device.ask(request::SET_MEM_TABLE, &memory_table(&[(0, 1 << 20, 0)]), &[file.as_fd()]));
    assert_eq!(device.end().0, Some(0));
}

/// A guest that breaks its ring: the ring stops and says so once, the device and its other messages go on.
#[test]
fn broken_rings_stop_and_can_be_started_again() {
    type Break = fn(&Driver<'_>, u64);
    let breaks: [(&str, Break); 12] = [
        ("next is itself", |d, t| d.descriptor(t, 0, BUFFERS, 16, NEXT, 0)),
        ("next leaves the table", |d, t| d.descriptor(t, 0, BUFFERS, 16, NEXT, 64)),
        ("outside memory", |d, t| d.descriptor(t, 0, MEMORY, 16, WRITE, 0)),
        ("across the end", |d, t| d.descriptor(t, 0, MEMORY - 8, 16, WRITE, 0)),
        ("wraps around", |d, t| d.descriptor(t, 0, u64::MAX - 4, 16, WRITE, 0)),
        ("huge", |d, t| d.descriptor(t, 0, BUFFERS, u32::MAX, WRITE, 0)),
        ("no status", |d, t| d.descriptor(t, 0, BUFFERS, 16, 0, 0)),
        ("readable after writable", |d, t| d.chain(t, 0, &[(BUFFERS, 16, WRITE), (BUFFERS, 16, 0)])),
        ("odd table", |d, t| d.descriptor(t, 0, BUFFERS, 17, INDIRECT, 0)),
        ("long table", |d, t| d.descriptor(t, 0, BUFFERS, 65 * 16, INDIRECT, 0)),
        ("nested table", |d, t| {
            d.descriptor(BUFFERS, 0, BUFFERS, 16, INDIRECT, 0);
            d.descriptor(t, 0, BUFFERS, 16, INDIRECT, 0);
        }),
        ("table and next", |d, t| d.descriptor(t, 0, BUFFERS, 16, INDIRECT | NEXT, 1)),
    ];
    let (_disk, device) = negotiated(&[]);
    let driver = Driver::new(&device);
    let err = EventFd::new().unwrap();
    assert!(device.ask(14, &0u64.to_ne_bytes(), &[err.as_fd()]));
    let mut queue = driver.queue(0, 64, 0);
    let mut at = 0;
    for (name, make) in breaks {
        make(&driver, queue.table());
        driver.offer(&mut queue, &[0]);
        // The error event says that the ring has stopped; reading it waits for that.
        assert_eq!(wait_for(&err), 1, "{name}");
        assert_eq!(driver.stop(&queue), at + 1, "{name}");
        driver.put(queue.used_ring() + 2, &[0; 2]);
        at += 1;
        driver.start(&queue, u16::try_from(at).unwrap());
    }
    // Heads: beyond the ring, and one twice.
    for heads in [&[64u16][..], &[3, 3]] {
        driver.chain(queue.table(), 3, &[(BUFFERS, 16, 0), (BUFFERS, 1, WRITE)]);
        driver.offer(&mut queue, heads);
        assert_eq!(wait_for(&err), 1);
        at += u32::try_from(heads.len()).unwrap();
        driver.stop(&queue);
        driver.start(&queue, u16::try_from(at).unwrap());
    }
    // An available index that jumps.
    driver.put(queue.available_ring() + 2, &u16::try_from(at + 65).unwrap().to_le_bytes());
    queue.kick.write(1).unwrap();
    assert_eq!(wait_for(&err), 1);
    lives(&device);
    let (code, log) = device.end();
    assert_eq!((code, log.lines().count()), (Some(0), 15), "{log}");
}

/// What a guest's kernel makes of direct I/O from a file in persistent memory, which this device is not told of.
#[test]
fn a_buffer_in_memory_of_others_is_an_io_error_and_the_ring_goes_on() {
    let (disk, device) = negotiated(&[]);
    let driver = Driver::new(&device);
    let mut queue = driver.queue(0, 64, 0);
    let before = std::fs::read(disk.path()).unwrap();
    driver.put(BUFFERS, &[7; 512]);
    for (kind, data) in [
        (0, &[(MEMORY, 512, WRITE)][..]),
        (0, &[(BUFFERS, 512, WRITE), (20 << 30, 4096, WRITE), (MEMORY - 256, 512, WRITE)]),
        (1, &[(BUFFERS, 512, 0), (20 << 30, 512, 0)]),
        (1, &[(MEMORY - 8, 512, 0)]),
    ] {
        assert_eq!(driver.submit(&mut queue, kind, 0, data), (1, 0), "{data:?}");
    }
    assert_eq!(driver.look(BUFFERS, 512), [7; 512], "nothing but the status is written");
    assert_eq!(std::fs::read(disk.path()).unwrap(), before);
    assert_eq!(driver.submit(&mut queue, 1, 0, &[(BUFFERS, 512, 0)]), (0, 1));
    assert_eq!(device.end(), (Some(0), String::new()));
}

/// Where a driver cuts what it sends is its own affair; what it leaves out is not made up for.
#[test]
fn names_and_headers_in_pieces_are_whole_or_refused() {
    let (_disk, device) = negotiated(&[]);
    let driver = Driver::new(&device);
    let mut queue = driver.queue(0, 64, 0);
    let (status, data) = (BUFFERS - 0x800, (BUFFERS, 512, WRITE));
    let mut ask = |parts: &[(u64, u32, u16)]| {
        driver.put(BUFFERS, &[7; 512]);
        driver.put(status, &[0xFF]);
        driver.chain(queue.table(), 0, parts);
        driver.offer(&mut queue, &[0]);
        let (_, used) = driver.used(&mut queue);
        (driver.look(status, 1)[0], used)
    };
    let header = BUFFERS - 0x1000;
    driver.put(header, &header_bytes(0, 0));
    let end = (status, 1, WRITE);
    let pieces = [(header, 1, 0), (header + 1, 8, 0), (header + 9, 7, 0)];
    assert_eq!(ask(&[pieces[0], pieces[1], pieces[2], data, end]), (0, 513));
    // VIRTIO_BLK_T_GET_ID has 20 bytes.
    driver.put(header, &header_bytes(8, 0));
    for room in [1, 19] {
        assert_eq!(
            ask(&[(header, 16, 0), (BUFFERS, room, WRITE), end]),
            (0, room + 1),
            "the rest is left out"
        );
        assert_eq!(driver.look(BUFFERS + u64::from(room), 32), [7; 32]);
    }
    assert_eq!(ask(&[(header, 16, 0), (BUFFERS, 7, WRITE), (BUFFERS + 7, 13, WRITE), end]).0, 0);
    lives(&device);
    assert_eq!(device.end(), (Some(0), String::new()));
}

/// What the guest writes is data, whatever it looks like: a raw disk stays one when its program starts again.
#[test]
fn a_header_of_another_format_is_data() {
    let disk = image(1 << 20);
    for header in [&b"QFI\xfb\0\0\0\x03"[..], b"KDMV\x01\0\0\0", b"conectix", b"\x7fvhdxfile"] {
        let sector: Vec<u8> = header.iter().copied().chain(std::iter::repeat(0)).take(512).collect();
        for write in [true, false] {
            let device = Device::start(disk.path(), &[]);
            device.negotiate(0);
            let driver = Driver::new(&device);
            let mut queue = driver.queue(0, 64, 0);
            if write {
                driver.put(BUFFERS, &sector);
                assert_eq!(driver.submit(&mut queue, 1, 0, &[(BUFFERS, 512, 0)]), (0, 1));
            } else {
                assert_eq!(driver.submit(&mut queue, 0, 0, &[(BUFFERS, 512, WRITE)]), (0, 513));
                assert_eq!(driver.look(BUFFERS, 512), sector);
            }
            let body = [[0u32, 8, 0, 0, 0].map(u32::to_ne_bytes)].concat().concat();
            device.send(request::GET_CONFIG, 1, &body, &[]);
            assert_eq!(device.reply(request::GET_CONFIG).unwrap()[12..], 2048u64.to_le_bytes());
            assert_eq!(device.end(), (Some(0), String::new()));
        }
    }
}

/// A front end that goes with writes under way leaves an image in which each of them is there as a whole, or not at all.
#[test]
fn an_image_is_whole_whenever_its_front_end_goes() {
    let disk = image(1 << 20);
    let before = std::fs::read(disk.path()).unwrap();
    for round in 1..20u8 {
        let device = Device::start(disk.path(), &[]);
        device.negotiate(0);
        let driver = Driver::new(&device);
        let mut queue = driver.queue(0, 64, 0);
        for number in 0..20u16 {
            let place = BUFFERS + u64::from(number) * 0x2000;
            driver.put(place, &header_bytes(1, u64::from(number) * 8));
            driver.put(place + 0x1000, &[round; 4096]);
            let parts = [(place, 16, 0), (place + 0x1000, 4096, 0), (place + 16, 1, WRITE)];
            driver.chain(queue.table(), number * 3, &parts);
        }
        driver.offer(&mut queue, &(0..20).map(|number| number * 3).collect::<Vec<u16>>());
        assert_eq!(device.end(), (Some(0), String::new()));
        let image = std::fs::read(disk.path()).unwrap();
        assert_eq!(image.len(), before.len());
        for (number, block) in image.chunks(4096).enumerate() {
            let old = before[number * 4096..][..4096] == *block;
            let written = block.iter().all(|byte| *byte == block[0]) && (1..=round).contains(&block[0]);
            assert!(old || (number < 20 && written), "block {number} in round {round}");
        }
    }
}

#[test]
fn a_reset_forgets_the_rings_and_the_device_serves_again() {
    let (_disk, device) = negotiated(&[]);
    let driver = Driver::new(&device);
    let mut queue = driver.queue(0, 64, 0);
    let data = [(BUFFERS, 512, WRITE)];
    assert_eq!(driver.submit(&mut queue, 0, 0, &data), (0, 513));
    for _ in 0..50 {
        driver.put(BUFFERS - 0x1000, &header_bytes(0, 0));
        driver.offer(&mut queue, &[0]);
        assert!(device.ask(request::RESET_DEVICE, &[], &[]));
        driver.put(queue.available_ring() + 2, &[0; 2]);
        driver.put(queue.used_ring() + 2, &[0; 2]);
        queue = driver.queue(0, 64, 0);
        assert_eq!(driver.submit(&mut queue, 0, 0, &data), (0, 513));
    }
    assert_eq!(device.end().0, Some(0));
}
