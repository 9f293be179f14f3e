//! What a message is: its number, its size, its framing, and whether it was agreed on.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::EventFd;

use super::{BROKEN, GETS, Start, ends, negotiated, nulls, serves};
use crate::front_end::driver::MEMORY;
use crate::front_end::{NEED_REPLY, borrow, memory_table, request, sealed, state};

pub fn every_message_number_with_every_size_and_strays(start: Start<'_>) {
    let device = negotiated(start);
    let before = device.descriptors();
    let strays = nulls(40);
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
    // What SET_VRING_CALL, SET_VRING_ERR and SET_BACKEND_REQ_FD left is one descriptor each, not one per message.
    assert!(device.descriptors() <= before + 3, "{before} descriptors have become {}", device.descriptors());
    serves(device);
}

pub fn bodies_shorter_and_longer_than_their_structures(start: Start<'_>) {
    let device = negotiated(start);
    let event = EventFd::new().unwrap();
    let memory = sealed(MEMORY);
    let one = memory_table(&[(0, MEMORY, 0)]);
    let inflight = [&208u64.to_ne_bytes()[..], &[0; 8], &1u16.to_ne_bytes(), &12u16.to_ne_bytes()].concat();
    let config = [0u32, 4, 0, 0].map(u32::to_ne_bytes).concat();
    let number = [0; 8].to_vec();
    let bodies: [(u32, &[u8], Option<BorrowedFd<'_>>); 19] = [
        (request::GET_FEATURES, &[], None),
        (request::SET_FEATURES, &number, None),
        (request::SET_OWNER, &[], None),
        (request::SET_MEM_TABLE, &one, Some(memory.as_fd())),
        (request::SET_VRING_NUM, &number, None),
        (request::SET_VRING_ADDR, &[0; 40], None),
        (request::SET_VRING_BASE, &number, None),
        (request::GET_VRING_BASE, &number, None),
        (request::SET_VRING_KICK, &number, Some(event.as_fd())),
        (request::SET_VRING_CALL, &number, Some(event.as_fd())),
        (request::SET_VRING_ERR, &number, Some(event.as_fd())),
        (request::GET_PROTOCOL_FEATURES, &[], None),
        (request::SET_PROTOCOL_FEATURES, &number, None),
        (request::GET_QUEUE_NUM, &[], None),
        (request::SET_VRING_ENABLE, &number, None),
        (request::GET_CONFIG, &config, None),
        (request::SET_CONFIG, &config, None),
        (request::SET_INFLIGHT_FD, &inflight, Some(memory.as_fd())),
        (request::RESET_DEVICE, &[], None),
    ];
    for (number, body, fd) in bodies {
        let shorter = (0..body.len()).map(|size| body[..size].to_vec());
        let longer = [1, 3, 8, 40].map(|more| [body, &vec![0; more]].concat());
        for wrong in shorter.chain(longer) {
            device.send(number, 1 | NEED_REPLY, &wrong, fd.as_slice());
            let reply = device.reply(number).unwrap();
            let refused = if GETS.contains(&number) { Vec::new() } else { 1u64.to_ne_bytes().to_vec() };
            assert_eq!(reply, refused, "request {number} with {} bytes", wrong.len());
        }
    }
    for count in [0, 2, 33, 1 << 16, u32::MAX] {
        let mut table = one.clone();
        table[..4].copy_from_slice(&count.to_ne_bytes());
        assert!(!device.ask(request::SET_MEM_TABLE, &table, &[memory.as_fd()]), "{count} regions announced");
    }
    serves(device);
}

pub fn broken_framing_ends_the_connection_with_one_line(start: Start<'_>) {
    let cases = [[1u32, 1, 0x1001], [1, 1, u32::MAX], [1, 0, 0], [1, 2, 0], [1, 5, 0], [1, 0x11, 0]];
    for header in cases {
        let device = negotiated(start);
        device.send_raw(header, &[], &[]);
        assert_eq!(device.reply(1), None, "{header:?}");
        ends(device, BROKEN, 1);
    }
    // A refusal that the front end did not want to be told of.
    let device = negotiated(start);
    device.send(request::SET_VRING_NUM, 1, &state(0, 3), &[]);
    assert_eq!(device.reply(request::SET_VRING_NUM), None);
    ends(device, BROKEN, 1);
}

pub fn messages_that_were_not_negotiated_are_refused(start: Start<'_>) {
    let device = start();
    // Nothing but acknowledgements.
    device.send(request::SET_PROTOCOL_FEATURES, 1, &8u64.to_ne_bytes(), &[]);
    for number in [17u32, 24, 31] {
        let body = if number == 24 { vec![0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0] } else { Vec::new() };
        device.send(number, 1, &body, &[]);
        assert_eq!(device.reply(number), Some(Vec::new()), "request {number}");
    }
    let event = EventFd::new().unwrap();
    assert!(!device.ask(request::RESET_DEVICE, &[], &[]));
    assert!(!device.ask(21, &[], &[event.as_fd()]), "a channel for the back end");
    assert!(!device.ask(request::SET_PROTOCOL_FEATURES, &u64::MAX.to_ne_bytes(), &[]));
    // What is never offered, in the form that it would have; of the first, address and size overflow.
    let memory = sealed(4096);
    for (number, size) in [(6, 16), (7, 0), (19, 8), (20, 8), (22, 40), (23, 8), (29, 0), (37, 40), (42, 8)] {
        assert!(!device.ask(number, &vec![0xFF; size], &[memory.as_fd()]), "request {number}");
    }
    serves(device);
}
