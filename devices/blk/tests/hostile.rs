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

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use front_end::driver::{BUFFERS, Driver, INDIRECT, MEMORY, NEXT, WRITE, wait_for};
use front_end::{
    Device, NEED_REPLY, borrow, header_bytes, image, memfd, memory_table, request, ring_address, sealed,
    state,
};
use nix::fcntl::SealFlag;
use nix::sys::eventfd::EventFd;

const GETS: [u32; 6] = [1, 11, 15, 17, 24, 31];

fn negotiated(arguments: &[&str]) -> (tempfile::NamedTempFile, Device) {
    let disk = image(1 << 20);
    let device = Device::start(disk.path(), arguments);
    device.negotiate(0);
    (disk, device)
}

/// Still there: it answers.
fn lives(device: &Device) {
    assert_eq!(device.get(request::GET_QUEUE_NUM), 1);
}

#[test]
fn every_message_number_with_every_size_and_strays() {
    let (_disk, device) = negotiated(&[]);
    let before = device.descriptors();
    let strays: Vec<File> = (0..40).map(|_| File::open("/dev/null").unwrap()).collect();
    for number in 0..=255 {
        for size in [0, 1, 8, 40, 0x1000] {
            for count in [0, 1, 40] {
                // Owner and features are negotiation, which would end in another session.
                if [2, 3, 4, 16].contains(&number) && size <= 8 {
                    continue;
                }
                device.send(number, 1 | NEED_REPLY, &vec![0; size], &borrow(&strays[..count]));
                let reply =
                    device.reply(number).unwrap_or_else(|| panic!("hung up on {number}, {size} bytes"));
                assert!(GETS.contains(&number) || reply.len() == 8, "{number}: {} bytes", reply.len());
            }
        }
    }
    lives(&device);
    // What a repeated, valid SET_VRING_CALL or KICK left is a descriptor or two, not one per message.
    assert!(device.descriptors() <= before + 3, "{before} descriptors have become {}", device.descriptors());
    let (code, log) = device.end();
    assert_eq!(code, Some(0));
    assert!(log.lines().count() <= 65, "{log}");
}

#[test]
fn descriptors_stay_as_many_as_they_were() {
    let (_disk, device) = negotiated(&[]);
    let driver = Driver::new(&device);
    let queue = driver.queue(0, 64, 0);
    let before = device.descriptors();
    let table = memory_table(&[(0, MEMORY, 0)]);
    for round in 0..2000u32 {
        let index = u64::from(0u32).to_ne_bytes();
        assert!(device.ask(request::SET_MEM_TABLE, &table, &[driver.memory.as_fd()]));
        assert!(device.ask(request::SET_VRING_CALL, &index, &[queue.call.as_fd()]));
        assert!(device.ask(request::SET_VRING_KICK, &index, &[queue.kick.as_fd()]));
        assert!(!device.ask(request::SET_VRING_NUM, &state(0, round), &[queue.kick.as_fd()]));
        assert!(!device.ask(
            request::SET_MEM_TABLE,
            &memory_table(&[(0, MEMORY + 4096, 0)]),
            &[driver.memory.as_fd()]
        ));
    }
    assert_eq!(device.descriptors(), before);
    assert_eq!(device.end().0, Some(0));
}

#[test]
fn broken_framing_ends_the_connection_with_one_line() {
    let cases = [[1u32, 1, 0x1001], [1, 1, u32::MAX], [1, 0, 0], [1, 2, 0], [1, 5, 0], [1, 0x11, 0]];
    for header in cases {
        let (_disk, device) = negotiated(&[]);
        device.send_raw(header, &[], &[]);
        assert_eq!(device.reply(1), None, "{header:?}");
        let (code, log) = device.end();
        assert_eq!((code, log.lines().count()), (Some(7), 1), "{log}");
    }
}

#[test]
fn a_refusal_that_cannot_be_told_ends_the_connection() {
    let (_disk, device) = negotiated(&[]);
    device.send(request::SET_VRING_NUM, 1, &state(0, 3), &[]);
    assert_eq!(device.reply(request::SET_VRING_NUM), None);
    let (code, log) = device.end();
    assert_eq!(code, Some(7));
    assert!(log.contains("size 3 is not a power of two"), "{log}");
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
fn memory_that_is_not_there_is_refused() {
    let (_disk, device) = negotiated(&[]);
    let file = sealed(1 << 20);
    let unsealed = memfd(1 << 20, SealFlag::empty());
    let (pipe, _writer) = nix::unistd::pipe().unwrap();
    let regular = tempfile::tempfile().unwrap();
    regular.set_len(1 << 20).unwrap();
    let ask = |regions: &[(u64, u64, u64)], fds: &[BorrowedFd<'_>]| {
        device.ask(request::SET_MEM_TABLE, &memory_table(regions), fds)
    };
    let one = file.as_fd();
    assert!(ask(&[(0, 1 << 20, 0)], &[one]));
    assert!(!ask(&[(0, (1 << 20) + 1, 0)], &[one]), "larger than its file");
    assert!(!ask(&[(0, 4096, 1 << 20)], &[one]), "behind the end of its file");
    assert!(!ask(&[(0, 4096, u64::MAX)], &[one]), "offset + size overflows");
    assert!(!ask(&[(u64::MAX - 4095, 8192, 0)], &[one]), "address + size overflows");
    assert!(!ask(&[(0, 0, 0)], &[one]), "empty");
    assert!(!ask(&[(0, 4096, 1)], &[one]), "unaligned offset");
    assert!(!ask(&[], &[]), "no region");
    assert!(!ask(&[(0, 8192, 0), (4096, 8192, 0)], &[one, one]), "overlapping");
    assert!(!ask(&[(0, 4096, 0)], &[one, one]), "too many descriptors");
    assert!(!ask(&[(0, 4096, 0), (8192, 4096, 0)], &[one]), "too few descriptors");
    assert!(!ask(&[(0, 1 << 20, 0)], &[unsealed.as_fd()]), "may shrink");
    assert!(!ask(&[(0, 1 << 20, 0)], &[regular.as_fd()]), "may shrink");
    assert!(!ask(&[(0, 4096, 0)], &[pipe.as_fd()]), "a pipe");
    for seal in [SealFlag::F_SEAL_WRITE, SealFlag::F_SEAL_FUTURE_WRITE] {
        let sealed = memfd(4096, SealFlag::F_SEAL_SHRINK | seal);
        assert!(!ask(&[(0, 4096, 0)], &[sealed.as_fd()]), "cannot be written");
    }
    let many: Vec<(u64, u64, u64)> = (0..33).map(|i| (i * 8192, 4096, 0)).collect();
    assert!(ask(&many[..32], &[one; 32]));
    assert!(!ask(&many, &[one; 33]));
    lives(&device);
    assert_eq!(device.end().0, Some(0));
}

#[test]
fn unsealed_memory_is_taken_when_the_user_says_so() {
    let (_disk, device) = negotiated(&["--unsealed-memory"]);
    let file = memfd(1 << 20, SealFlag::empty());
    assert!(device.ask(request::SET_MEM_TABLE, &memory_table(&[(0, 1 << 20, 0)]), &[file.as_fd()]));
    assert_eq!(device.end().0, Some(0));
}

#[test]
fn rings_out_of_order_out_of_range_and_while_running() {
    let (_disk, device) = negotiated(&[]);
    let event = EventFd::new().unwrap();
    let fd = [event.as_fd()];
    let ask = |request, body: &[u8]| device.ask(request, body, &[]);
    assert!(!device.ask(request::SET_VRING_KICK, &0u64.to_ne_bytes(), &fd), "before all else");
    assert!(!ask(request::SET_VRING_ADDR, &ring_address(0, 0, 0x2000, 0x3000)), "before memory");
    let driver = Driver::new(&device);
    assert!(!ask(request::SET_VRING_ADDR, &ring_address(0, 0, 0x2000, 0x3000)), "before its size");
    for size in [0, 3, 100, 2048, 32768, 65536, u32::MAX] {
        assert!(!ask(request::SET_VRING_NUM, &state(0, size)), "size {size}");
    }
    assert!(ask(request::SET_VRING_NUM, &state(0, 1024)));
    let outside = [
        (MEMORY, 0x2000, 0x3000),
        (MEMORY - 16, 0x2000, 0x3000),
        (0, MEMORY - 2, 0x3000),
        (0, 0x2000, MEMORY - 4),
        (8, 0x2000, 0x3000),
        (0, 0x2001, 0x3000),
        (0, 0x2000, 0x3002),
    ];
    for (table, available, used) in outside {
        assert!(
            !ask(request::SET_VRING_ADDR, &ring_address(0, table, available, used)),
            "{table:#x} {used:#x}"
        );
    }
    assert!(!ask(request::SET_VRING_BASE, &state(0, 0x10000)));
    for request in [8, 10, 18] {
        assert!(!ask(request, &state(1, 1)), "request {request} for a ring that is not there");
        assert!(!ask(request, &state(u32::MAX, 1)));
    }
    assert!(!ask(request::SET_VRING_ENABLE, &state(0, 2)));
    assert!(!ask(request::SET_VRING_KICK, &0x100u64.to_ne_bytes()), "no polling");
    let _queue = driver.queue(0, 64, 0);
    assert!(!ask(request::SET_VRING_NUM, &state(0, 128)), "while running");
    assert!(!ask(request::SET_VRING_BASE, &state(0, 5)), "while running");
    assert!(!ask(request::SET_VRING_ADDR, &ring_address(0, 0, 0x2000, 0x3000)), "while running");
    assert!(!ask(request::SET_FEATURES, &0u64.to_ne_bytes()), "while running");
    let away = memory_table(&[(1 << 30, 4096, 0)]);
    assert!(
        !device.ask(request::SET_MEM_TABLE, &away, &[driver.memory.as_fd()]),
        "the ring's memory taken away"
    );
    assert!(!ask(request::SET_FEATURES, &(1u64 << 63).to_ne_bytes()), "never offered");
    assert!(!ask(request::SET_OWNER, &[]), "twice");
    assert_eq!(device.end().0, Some(0));
}

#[test]
fn messages_that_were_not_negotiated_are_refused() {
    let disk = image(1 << 20);
    let device = Device::start(disk.path(), &[]);
    // Nothing but acknowledgements.
    device.send(request::SET_PROTOCOL_FEATURES, 1, &8u64.to_ne_bytes(), &[]);
    for number in [17u32, 24, 31] {
        let body = if number == 24 { vec![0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0] } else { Vec::new() };
        device.send(number, 1, &body, &[]);
        assert_eq!(device.reply(number), Some(Vec::new()), "request {number}");
    }
    assert!(!device.ask(request::RESET_DEVICE, &[], &[]));
    assert!(!device.ask(request::SET_PROTOCOL_FEATURES, &u64::MAX.to_ne_bytes(), &[]));
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
