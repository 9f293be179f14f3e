//! Rings and the account of their requests: out of order, out of range, at odds with each other.

use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::SealFlag;
use nix::sys::eventfd::EventFd;

use super::{SIZE, Start, ends, negotiated, serves};
use crate::front_end::driver::{Driver, MEMORY, Queue};
use crate::front_end::{memfd, memory_table, request, ring_address, sealed, state};

/// SET_INFLIGHT_FD and GET_INFLIGHT_FD.
pub fn accounts_of_requests_that_do_not_fit(start: Start<'_>) {
    let device = negotiated(start);
    let driver = Driver::new(&device);
    let (file, unsealed) = (sealed(1 << 16), memfd(1 << 16, SealFlag::empty()));
    let (pipe, _writer) = std::io::pipe().unwrap();
    let body = |size: u64, offset: u64, queues: u16, queue_size: u16| {
        let sizes = [queues, queue_size, 0, 0].map(u16::to_ne_bytes);
        [&size.to_ne_bytes()[..], &offset.to_ne_bytes(), sizes.as_flattened()].concat()
    };
    let ask = |body: &[u8], fd: BorrowedFd<'_>| device.ask(request::SET_INFLIGHT_FD, body, &[fd]);
    for (size, offset, queues, queue_size) in [
        (1, 0, 1, SIZE),
        (1024, 0, 1, SIZE),
        (1 << 16, 0, 64, 1024),
        (1 << 16, 0, u16::MAX, u16::MAX),
        ((1 << 16) + 4096, 0, 1, SIZE),
        (1 << 16, 4096, 1, SIZE),
        (1 << 12, 1, 1, SIZE),
        (1 << 12, u64::MAX, 1, SIZE),
        (u64::MAX, 1, 1, SIZE),
        (u64::MAX, 0, 1, SIZE),
    ] {
        let body = body(size, offset, queues, queue_size);
        assert!(!ask(&body, file.as_fd()), "{size} {offset} {queues} {queue_size}");
    }
    let good = body(1 << 16, 0, 8, SIZE);
    assert!(!ask(&good, unsealed.as_fd()), "may shrink");
    assert!(!ask(&good, pipe.as_fd()));
    assert!(!device.ask(request::SET_INFLIGHT_FD, &good, &[]));
    assert!(!device.ask(request::SET_INFLIGHT_FD, &good, &[file.as_fd(); 2]));
    device.send(request::GET_INFLIGHT_FD, 1, &body(0, 0, u16::MAX, u16::MAX), &[]);
    assert_eq!(device.reply(request::GET_INFLIGHT_FD), Some(Vec::new()));
    // At odds with the ring, which is refused as a whole, however often.
    assert!(ask(&body(192, 0, 1, 8), file.as_fd()));
    let queue = Queue::new(0, SIZE, 0);
    let (index, kick) = (0u64.to_ne_bytes(), [queue.kick.as_fd()]);
    for _ in 0..3 {
        assert!(device.ask(request::SET_VRING_NUM, &state(0, SIZE.into()), &[]));
        let rings = ring_address(0, queue.table(), queue.available_ring(), queue.used_ring());
        assert!(device.ask(request::SET_VRING_ADDR, &rings, &[]));
        assert!(device.ask(request::SET_VRING_KICK, &index, &kick), "it is not enabled yet");
        assert!(!device.ask(request::SET_VRING_ENABLE, &state(0, 1), &[]));
        assert!(device.ask(request::SET_VRING_KICK, &index, &kick), "nor is it by a refusal");
        assert_eq!(driver.stop(&queue), 0);
        assert!(device.ask(request::SET_VRING_ENABLE, &state(0, 1), &[]), "it has not started");
        assert!(!device.ask(request::SET_VRING_KICK, &index, &kick));
        assert!(device.ask(request::SET_VRING_NUM, &state(0, 8), &[]), "nor has it by a refusal");
        assert!(device.ask(request::SET_VRING_ENABLE, &state(0, 0), &[]));
    }
    assert!(ask(&good, file.as_fd()));
    serves(device);
}

pub fn a_ring_that_runs_is_not_changed(start: Start<'_>) {
    let device = negotiated(start);
    let driver = Driver::new(&device);
    let ask = |request, body: &[u8]| device.ask(request, body, &[]);
    let queue = driver.queue(0, SIZE, 0);
    assert!(!ask(request::SET_VRING_NUM, &state(0, 128)), "while running");
    assert!(!ask(request::SET_VRING_BASE, &state(0, 5)), "while running");
    assert!(!ask(request::SET_VRING_ADDR, &ring_address(0, 0, 0x2000, 0x3000)), "while running");
    assert!(!ask(request::SET_FEATURES, &0u64.to_ne_bytes()), "while running");
    let away = memory_table(&[(1 << 30, 4096, 0)]);
    let memory = [driver.memory.as_fd()];
    assert!(!device.ask(request::SET_MEM_TABLE, &away, &memory), "the ring's memory taken away");
    assert!(!ask(request::SET_FEATURES, &(1u64 << 63).to_ne_bytes()), "never offered");
    assert!(!ask(request::SET_OWNER, &[]), "twice");
    assert_eq!((driver.stop(&queue), driver.stop(&queue)), (0, 0), "twice");
    serves(device);
}

pub fn rings_out_of_order_and_out_of_range(start: Start<'_>) {
    let device = negotiated(start);
    let event = EventFd::new().unwrap();
    let fd = [event.as_fd()];
    let ask = |request, body: &[u8]| device.ask(request, body, &[]);
    assert!(!device.ask(request::SET_VRING_KICK, &0u64.to_ne_bytes(), &fd), "before all else");
    assert!(!ask(request::SET_VRING_ADDR, &ring_address(0, 0, 0x2000, 0x3000)), "before memory");
    let _driver = Driver::new(&device);
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
    let queues = u32::try_from(device.get(request::GET_QUEUE_NUM)).unwrap();
    for index in [queues, 255, 0x100, u32::MAX] {
        for request in [8, 10, 18] {
            assert!(!ask(request, &state(index, 1)), "request {request} for a ring that is not there");
        }
        assert!(!device.ask(request::SET_VRING_CALL, &u64::from(index).to_ne_bytes(), &fd));
        device.send(request::GET_VRING_BASE, 1, &state(index, 0), &[]);
        assert_eq!(device.reply(request::GET_VRING_BASE), Some(Vec::new()), "where ring {index} stands");
    }
    assert!(!ask(request::SET_VRING_ENABLE, &state(0, 2)));
    assert!(!ask(request::SET_VRING_KICK, &0x100u64.to_ne_bytes()), "no polling");
    serves(device);
}

/// Nothing says that the parts of a ring lie apart, or what is in them: whatever the device makes of it, it can be stopped.
pub fn rings_in_one_place_and_full_of_junk(start: Start<'_>) {
    let device = negotiated(start);
    let driver = Driver::new(&device);
    let queues = u32::try_from(device.get(request::GET_QUEUE_NUM)).unwrap();
    for (number, junk) in (0..=255u8).step_by(15).chain([1, 2, 3, 4]).enumerate() {
        driver.put(0, &[junk; 0x8000]);
        let parts = [(0, 0, 0), (0x10, 0x14, 0x18), (0x1000, 0x1000, 0x1000), (0, 0x400, 0x402 & !3)];
        let (table, available, used) = parts[number % parts.len()];
        for index in 0..queues {
            let queue = Queue::new(index, SIZE, 0);
            let event = u64::from(index).to_ne_bytes();
            assert!(device.ask(request::SET_VRING_NUM, &state(index, SIZE.into()), &[]));
            let address = ring_address(index, table, available, used);
            assert!(device.ask(request::SET_VRING_ADDR, &address, &[]));
            assert!(device.ask(request::SET_VRING_BASE, &state(index, junk.into()), &[]));
            assert!(device.ask(request::SET_VRING_CALL, &event, &[queue.call.as_fd()]));
            assert!(device.ask(request::SET_VRING_KICK, &event, &[queue.kick.as_fd()]));
            assert!(device.ask(request::SET_VRING_ENABLE, &state(index, 1), &[]));
            queue.kick.write(1).unwrap();
            driver.stop(&queue);
        }
    }
    driver.put(0, &[0; 0x8000]);
    let queue = driver.queue(0, SIZE, 0);
    assert_eq!(driver.stop(&queue), 0);
    // A line for each ring that broke.
    ends(device, Some(0), usize::MAX);
}
