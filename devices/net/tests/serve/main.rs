//! The real `device-net`, confined as always, between a tap of the host's kernel and a driver written by hand.
//!
//! Each test runs in a network namespace of its own; `unshare` and `ip` are needed, and a /dev/net/tun that can be opened.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test says what it expects by failing"
)]

#[path = "../../../backend/tests/front_end/mod.rs"]
#[expect(dead_code, reason = "a device needs a part of it")]
#[expect(clippy::panic, reason = "as above")]
mod front_end;
#[path = "../../../backend/tests/hostile_front_end/mod.rs"]
#[expect(clippy::panic, reason = "as above")]
mod hostile_front_end;
mod network;
mod pairs;
mod stream;
mod successors;

use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use front_end::driver::{BUFFERS, Driver, MEMORY, Queue, WRITE, wait_for};
use front_end::{Device, bytes_of, request, sealed, state};
use network::{GUEST, HEADERS, HOST, frame, ip, socket, sum, with_tap};
use nix::sys::eventfd::{EfdFlags, EventFd};

const PROGRAM: &str = env!("CARGO_BIN_EXE_device-net");
const TAP: [&str; 2] = ["--tap=tap0", "--mac=52:54:00:00:00:02"];
/// Feature bits.
const CSUM: u64 = 1 << 0;
const MRG_RXBUF: u64 = 1 << 15;
const HOST_USO: u64 = 1 << 56;
/// GUEST_TSO4, _TSO6, _ECN, _USO4, _USO6: what takes 64 KiB of room.
const LARGE: u64 = 1 << 7 | 1 << 8 | 1 << 9 | 1 << 54 | 1 << 55;
/// Buffers of the transmit queue; those of the receive queue come before.
const OUT: u64 = BUFFERS + 0x40_0000;
const SIZE: u16 = 64;

fn started(arguments: &[&str]) -> Device {
    Device::spawn(PROGRAM, &[&TAP[..], arguments].concat())
}

/// Where receive buffer `head` is.
fn buffer(head: u32) -> u64 {
    BUFFERS + u64::from(head) * 0x1_0000
}

/// Offers receive buffers `heads` of `bytes` each.
fn offer(driver: &Driver<'_>, queue: &mut Queue, heads: std::ops::Range<u16>, bytes: u32) {
    for head in heads.clone() {
        driver.chain(queue.table(), head, &[(buffer(head.into()), bytes, WRITE)]);
    }
    driver.offer(queue, &heads.collect::<Vec<_>>());
}

/// Sends a frame with a virtio-net header in front and waits until it comes back.
fn send(driver: &Driver<'_>, queue: &mut Queue, header: [u8; 12], frame: &[u8]) {
    driver.put(OUT, &[&header, frame].concat());
    let size = u32::try_from(frame.len()).unwrap();
    // Cut where no header ends.
    driver.chain(queue.table(), 0, &[(OUT, 7, 0), (OUT + 7, 30, 0), (OUT + 37, size + 12 - 37, 0)]);
    driver.offer(queue, &[0]);
    assert_eq!(driver.used(queue), (0, 0));
}

/// A datagram of the guest's with `text` in it.
fn send_text(driver: &Driver<'_>, queue: &mut Queue, source: [u8; 6], text: &str) {
    send(driver, queue, [0; 12], &frame(source, text.as_bytes(), false));
}

fn heard(socket: &std::net::UdpSocket) -> Vec<u8> {
    let mut room = [0; 70000];
    let size = socket.recv(&mut room).expect("a datagram within 20 s");
    room[..size].to_vec()
}

fn ends_well(device: Device) {
    assert_eq!(device.end(), (Some(0), String::new()));
}

/// A fresh program for each of what a hostile front end does.
fn under_attack(test: &str, attack: fn(hostile_front_end::Start<'_>)) {
    let (_crate, name) = test.split_once("::").unwrap();
    with_tap(name, || attack(&|| started(&[])));
}

hostile_front_end::attacks!(under_attack);

#[test]
fn frames_go_both_ways() {
    with_tap("frames_go_both_ways", || {
        let device = started(&[]);
        device.negotiate(LARGE);
        let driver = Driver::new(&device);
        let (mut receive, mut transmit) = (driver.queue(0, SIZE, 0), driver.queue(1, SIZE, 0));
        let socket = socket();
        for round in 0..200u32 {
            let text = format!("datagram {round}");
            send_text(&driver, &mut transmit, GUEST, &text);
            assert_eq!(heard(&socket), text.as_bytes());
            socket.send(text.as_bytes()).unwrap();
            offer(&driver, &mut receive, 0..1, 2048);
            let size = u32::try_from(HEADERS + text.len()).unwrap();
            assert_eq!(driver.used(&mut receive), (0, size));
            let got = driver.look(buffer(0), size as usize);
            assert_eq!(
                (&got[12..18], &got[18..24], &got[HEADERS..]),
                (&GUEST[..], &HOST[..], text.as_bytes())
            );
            assert_eq!(got[10..12], [1, 0], "num_buffers");
        }
        assert_eq!((driver.stop(&receive), driver.stop(&transmit)), (200, 200));
        ends_well(device);
    });
}

/// What a guest's kernel makes of a frame that is sent without a copy from persistent memory.
#[test]
fn a_frame_in_memory_of_others_is_lost_and_the_next_one_is_sent() {
    with_tap("a_frame_in_memory_of_others_is_lost_and_the_next_one_is_sent", || {
        let device = started(&[]);
        device.negotiate(0);
        let driver = Driver::new(&device);
        let mut transmit = driver.queue(1, SIZE, 0);
        let socket = socket();
        driver.put(OUT, &[&[0; 12], &frame(GUEST, b"lost", false)[..]].concat());
        for beyond in [MEMORY, MEMORY - 2, 20 << 30] {
            driver.chain(transmit.table(), 0, &[(OUT, 54, 0), (beyond, 4, 0)]);
            driver.offer(&mut transmit, &[0]);
            assert_eq!(driver.used(&mut transmit), (0, 0));
        }
        send_text(&driver, &mut transmit, GUEST, "next");
        assert_eq!(heard(&socket), b"next");
        ends_well(device);
    });
}

#[test]
fn many_frames_are_one_call() {
    with_tap("many_frames_are_one_call", || {
        let device = started(&[]);
        device.negotiate(LARGE);
        let driver = Driver::new(&device);
        let socket = socket();
        // They wait in the tap until there is room.
        (0..50u8).for_each(|number| assert_eq!(socket.send(&[number; 300]).unwrap(), 300));
        let mut receive = Queue::new(0, SIZE, 0);
        for head in 0..SIZE {
            driver.chain(receive.table(), head, &[(buffer(head.into()), 2048, WRITE)]);
        }
        driver.offer(&mut receive, &(0..SIZE).collect::<Vec<_>>());
        assert!(driver.calls_for_next(&receive));
        driver.start(&receive, 0);
        assert_eq!(wait_for(&receive.call), 1);
        for number in 0..50u8 {
            let (head, size) = driver.take_used(&mut receive).expect("all of them, told of by one call");
            assert_eq!(driver.look(buffer(head), size as usize)[HEADERS..], [number; 300]);
        }
        assert_eq!(driver.stop(&receive), 50, "what was not filled was put back");
        ends_well(device);
    });
}

#[test]
fn a_frame_is_spread_over_buffers_that_are_merged() {
    with_tap("a_frame_is_spread_over_buffers_that_are_merged", || {
        let device = started(&["--mtu=9000"]);
        let features = device.negotiate(LARGE);
        assert_ne!(features & MRG_RXBUF, 0);
        let driver = Driver::new(&device);
        let mut receive = driver.queue(0, SIZE, 0);
        let socket = socket();
        let payload: Vec<u8> = (0..8000u32).map(|at| (at % 251) as u8).collect();
        socket.send(&payload).unwrap();
        // 9,000 bytes and the headers are wanted: not yet.
        offer(&driver, &mut receive, 0..8, 1000);
        offer(&driver, &mut receive, 8..16, 1000);
        let mut whole = Vec::new();
        for head in 0..9 {
            let (used, size) = driver.used(&mut receive);
            assert_eq!(used, head);
            whole.extend(driver.look(buffer(used), size as usize));
        }
        assert_eq!((&whole[10..12], &whole[HEADERS..]), (&[9, 0][..], &payload[..]));
        assert_eq!(driver.stop(&receive), 9);
        ends_well(device);
    });
}

#[test]
fn a_frame_that_does_not_fit_is_dropped_and_no_other() {
    with_tap("a_frame_that_does_not_fit_is_dropped_and_no_other", || {
        let device = started(&[]);
        device.negotiate(LARGE | MRG_RXBUF);
        let driver = Driver::new(&device);
        let mut receive = driver.queue(0, SIZE, 0);
        let socket = socket();
        for size in [3000, 1000, 3000, 900] {
            assert_eq!(socket.send(&vec![7; size]).unwrap(), size);
        }
        offer(&driver, &mut receive, 0..4, 1526);
        for (head, size) in [(0, 1000), (1, 900)] {
            assert_eq!(driver.used(&mut receive), (head, u32::try_from(HEADERS).unwrap() + size));
        }
        assert_eq!(driver.stop(&receive), 2);
        ends_well(device);
    });
}

#[test]
fn checksums_are_left_to_whoever_agreed_to_make_them() {
    with_tap("checksums_are_left_to_whoever_agreed_to_make_them", || {
        // With VIRTIO_NET_F_GUEST_CSUM the host's kernel leaves the sum to the driver; without, it is there.
        for (refuse, flags) in [(LARGE, 1u8), (LARGE | 1 << 1, 0)] {
            let device = started(&[]);
            device.negotiate(refuse);
            let driver = Driver::new(&device);
            let (mut receive, mut transmit) = (driver.queue(0, SIZE, 0), driver.queue(1, SIZE, 0));
            let socket = socket();
            offer(&driver, &mut receive, 0..2, 2048);
            send_text(&driver, &mut transmit, GUEST, "there?");
            assert_eq!(heard(&socket), b"there?");
            // Who hands on a frame has set the offloads before; of this one the host may have thought earlier.
            socket.send(b"the first").unwrap();
            assert_eq!(driver.used(&mut receive).0, 0);
            socket.send(b"an odd number").unwrap();
            let (_, size) = driver.used(&mut receive);
            let got = driver.look(buffer(1), size as usize);
            let udp = &got[46..];
            let pseudo = [&got[38..46], &[0, 17], &udp[4..6]].concat();
            assert_eq!(got[0], flags);
            let whole = sum(&[&pseudo, udp].concat()) == 0xffff;
            assert_eq!(whole, flags == 0, "the sum is whole");
            let start_and_offset = if flags == 1 { [34, 0, 6, 0] } else { [0; 4] };
            assert_eq!(got[6..10], start_and_offset);
            ends_well(device);
        }
    });
}

#[test]
fn a_large_datagram_is_cut_by_the_host() {
    with_tap("a_large_datagram_is_cut_by_the_host", || {
        let device = started(&[]);
        let features = device.negotiate(LARGE);
        let driver = Driver::new(&device);
        let mut transmit = driver.queue(1, SIZE, 0);
        let socket = socket();
        let payload: Vec<u8> = (0..2500u32).map(|at| (at % 251) as u8).collect();
        // NEEDS_CSUM, UDP_L4, hdr_len 42, gso_size 1000, csum_start 34, csum_offset 6.
        let header = [1, 5, 42, 0, 0xe8, 3, 34, 0, 6, 0, 0, 0];
        send(&driver, &mut transmit, header, &frame(GUEST, &payload, true));
        send_text(&driver, &mut transmit, GUEST, "and after it");
        // USO is offered where the host has it (Linux 6.2); elsewhere the frame is one that nobody agreed to.
        if features & HOST_USO != 0 {
            for part in payload.chunks(1000) {
                assert_eq!(heard(&socket), part);
            }
        }
        assert_eq!(heard(&socket), b"and after it");
        ends_well(device);
    });
}

#[test]
fn lies_in_a_header_send_nothing_and_stop_nothing() {
    with_tap("lies_in_a_header_send_nothing_and_stop_nothing", || {
        let device = started(&[]);
        assert_ne!(device.negotiate(LARGE) & CSUM, 0);
        let driver = Driver::new(&device);
        let mut transmit = driver.queue(1, SIZE, 0);
        let socket = socket();
        let lies: [[u8; 12]; 5] = [
            [1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
            [1, 1, 0xff, 0xff, 0xe8, 3, 34, 0, 6, 0, 0, 0],
            [1, 5, 42, 0, 0, 0, 34, 0, 6, 0, 0, 0],
            [0, 5, 42, 0, 0xe8, 3, 0, 0, 0, 0, 0, 0],
            [0, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        for lie in lies {
            send(&driver, &mut transmit, lie, &frame(GUEST, &[7; 1200], true));
        }
        // Shorter than the headers, nothing at all, writable where it should not be, and in a thousand pieces.
        let shapes: [&[(u64, u32, u16)]; 4] =
            [&[(OUT, 12, 0)], &[(OUT, 3, 0)], &[(OUT, 64, WRITE)], &[(OUT, 25, 0), (OUT, 0, 0)]];
        for shape in shapes {
            driver.chain(transmit.table(), 0, shape);
            driver.offer(&mut transmit, &[0]);
            assert_eq!(driver.used(&mut transmit), (0, 0));
        }
        driver.chain(transmit.table(), 0, &[(OUT, 4 << 20, 0); 32]);
        driver.offer(&mut transmit, &[0]);
        assert_eq!(driver.used(&mut transmit), (0, 0), "128 MiB");
        send_text(&driver, &mut transmit, GUEST, "an honest one");
        assert_eq!(heard(&socket), b"an honest one");
        ends_well(device);
    });
}

#[test]
fn a_forged_source_is_not_sent_unless_any_will_do() {
    with_tap("a_forged_source_is_not_sent_unless_any_will_do", || {
        let forged = [0x52, 0x54, 0, 0, 0, 3];
        for (arguments, passes) in [(&[][..], false), (&["--any-source"], true)] {
            let device = started(arguments);
            device.negotiate(LARGE);
            let driver = Driver::new(&device);
            let mut transmit = driver.queue(1, SIZE, 0);
            let socket = socket();
            for _ in 0..3 {
                send_text(&driver, &mut transmit, forged, "forged");
            }
            send_text(&driver, &mut transmit, GUEST, "own");
            let first = heard(&socket);
            assert_eq!(first == b"forged", passes, "{first:?}");
            let (code, log) = device.end();
            assert_eq!((code, log.lines().count()), (Some(0), usize::from(!passes)), "{log}");
            assert!(passes || log.contains("52:54:00:00:00:03"), "{log}");
        }
    });
}

/// The in-flight area of a process that died: it had taken two frames and begun the first.
#[test]
fn what_a_predecessor_began_to_send_is_not_sent_again() {
    with_tap("what_a_predecessor_began_to_send_is_not_sent_again", || {
        let device = started(&[]);
        device.negotiate(LARGE);
        let driver = Driver::new(&device);
        let socket = socket();
        let part = 16 + 16 * u64::from(SIZE);
        let part = part.next_multiple_of(64);
        let area = sealed(part * 2);
        // Of ring 1: version 1, its size; head 0 in flight and being handled, head 1 in flight, in this order.
        let mut noted = vec![0u8; 48];
        noted[8..12].copy_from_slice(&[1, 0, 64, 0]);
        noted[16..20].copy_from_slice(&[1, 0, 1, 0]);
        noted[32..36].copy_from_slice(&[1, 0, 0, 0]);
        noted[40] = 1;
        std::os::unix::fs::FileExt::write_all_at(&area, &noted, part).unwrap();
        let mut body = (part * 2).to_ne_bytes().to_vec();
        body.extend(0u64.to_ne_bytes());
        body.extend([2u16, SIZE, 0, 0].iter().flat_map(|word| word.to_ne_bytes()));
        assert!(device.ask(request::SET_INFLIGHT_FD, &body, &[area.as_fd()]));
        let mut transmit = Queue::new(1, SIZE, 0);
        for (head, text) in [(0u16, "begun"), (1, "taken"), (2, "new..")] {
            let at = OUT + u64::from(head) * 0x1000;
            driver.put(at, &[&[0; 12], &frame(GUEST, text.as_bytes(), false)[..]].concat());
            driver.chain(transmit.table(), head, &[(at, 12 + 47, 0)]);
        }
        driver.offer(&mut transmit, &[0, 1, 2]);
        driver.start(&transmit, 2);
        for head in 0..3 {
            assert_eq!(driver.used(&mut transmit), (head, 0));
        }
        assert_eq!((heard(&socket), heard(&socket)), (b"taken".to_vec(), b"new..".to_vec()));
        assert_eq!(bytes_of(&area, part + 16, 4), [0; 4], "given back");
        let (code, log) = device.end();
        assert_eq!((code, log.lines().count()), (Some(0), 1), "{log}");
        assert!(log.contains("head 0") && log.contains("not repeated"), "{log}");
    });
}

#[test]
fn an_interface_that_is_removed_stops_the_receive_queue_and_says_so() {
    with_tap("an_interface_that_is_removed_stops_the_receive_queue_and_says_so", || {
        let device = started(&[]);
        device.negotiate(LARGE);
        let driver = Driver::new(&device);
        let broken = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
        assert!(device.ask(request::SET_VRING_ERR, &0u64.to_ne_bytes(), &[broken.as_fd()]));
        let mut receive = driver.queue(0, SIZE, 0);
        offer(&driver, &mut receive, 0..4, 2048);
        ip("link delete tap0");
        assert_eq!(wait_for(&broken), 1);
        let (code, log) = device.end();
        assert_eq!((code, log.lines().count()), (Some(0), 1), "{log}");
        assert!(log.contains("the source of what arrives") || log.contains("removed"), "{log}");
    });
}

#[test]
fn there_are_three_queues_and_a_configuration() {
    with_tap("there_are_three_queues_and_a_configuration", || {
        let device = started(&["--mtu=1400"]);
        device.negotiate(0);
        assert_eq!(device.get(request::GET_QUEUE_NUM), 3);
        assert!(!device.ask(request::SET_VRING_NUM, &state(3, 4), &[]), "a fourth ring");
        let read =
            [0u32, 12, 0].iter().flat_map(|word| word.to_ne_bytes()).chain([0; 12]).collect::<Vec<_>>();
        device.send(request::GET_CONFIG, 1, &read, &[]);
        let config = device.reply(request::GET_CONFIG).unwrap();
        assert_eq!(config[12..], [GUEST.as_slice(), &[1, 0, 1, 0, 0x78, 5]].concat());
        assert_eq!(device.end().0, Some(0));
    });
}

#[test]
fn taps_that_cannot_be_used_are_one_line_and_a_code() {
    with_tap("taps_that_cannot_be_used_are_one_line_and_a_code", || {
        let run = |arguments: &[&str]| {
            let output = Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            (output.status.code(), String::from_utf8(said).unwrap())
        };
        // It has the tap as soon as it answers.
        let user = started(&[]);
        user.negotiate(0);
        ip("tuntap add tap1 mode tap");
        let to = "--socket-path=/nowhere/at/all";
        let mac = TAP[1];
        let cases: [(&[&str], i32, &str); 16] = [
            (&[to, mac], 2, "--tap=NAME"),
            (&[to, mac, "--tap=tap0", "--stream=/s"], 2, "one of --tap=NAME and --stream=PATH"),
            (&[to, mac, "--stream=/s", "--queues=2"], 2, "one pair of queues"),
            (&[to, mac, "--stream=/s", "--mtu=32747"], 2, "32746"),
            (&[to, mac, "--stream=/nowhere/s"], 3, "/nowhere/s"),
            (&[to, "--tap=tap0"], 2, "--mac=ADDRESS"),
            (&[to, "--tap=tap0", "--mac=ff:ff:ff:ff:ff:ff"], 2, "ff:ff:ff:ff:ff:ff"),
            (&[to, "--tap=tap0", mac, "--mtu=67"], 2, "67"),
            (&[to, "--tap=tap0", mac, "--serial=x"], 2, "serial"),
            (&[to, "--tap=tap0", mac, "--queues=0"], 2, "1 to 16"),
            (&[to, "--tap=tap0", mac, "--queues=17"], 2, "1 to 16"),
            (&[to, "--tap=tap1", mac, "--queues=2"], 3, "multi_queue"),
            (&[to, "--tap=tap9", mac], 3, "no such interface"),
            (&[to, "--tap=a-name-far-too-long-for-one", mac], 3, "a-name-far"),
            (&[to, "--tap=tap0", mac], 3, "another program uses it"),
            (&[to, "--tap=lo", mac], 3, "lo"),
        ];
        for (arguments, code, part) in cases {
            let (ended, said) = run(arguments);
            assert_eq!((ended, said.lines().count()), (Some(code), 1), "{arguments:?}: {said}");
            assert!(said.contains(part), "{arguments:?}: {said}");
        }
        assert_eq!(
            run(&["--print-capabilities"]),
            (Some(0), "{\"type\":\"net\",\"features\":[]}\n".to_owned())
        );
        assert!(run(&["--help"]).1.contains("--any-source"));
    });
}
