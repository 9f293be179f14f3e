//! When a front end goes, and what it leaves unread.

use std::io::Write;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, send};

use super::{BROKEN, SIZE, Start, ends, negotiated};
use crate::front_end::driver::Driver;
use crate::front_end::{request, state};

pub fn hanging_up_at_every_step(start: Start<'_>) {
    let message = [&[8u32, 1, 8].map(u32::to_ne_bytes).concat()[..], &state(0, 64)].concat();
    for cut in [0, 1, 11, 12, 13, 19] {
        let device = negotiated(start);
        (&device.socket).write_all(&message[..cut]).unwrap();
        ends(device, if cut == 0 { Some(0) } else { BROKEN }, 1);
    }
    // A step more each time, and gone before the answer to the last of them.
    for steps in 0..6 {
        let device = start();
        if steps > 0 {
            device.negotiate(0);
        }
        let driver = (steps > 1).then(|| Driver::new(&device));
        if let Some(driver) = driver.filter(|_| steps > 2) {
            let queue = driver.queue(0, SIZE, 0);
            if steps > 3 {
                queue.kick.write(1).unwrap();
            }
            if steps > 4 {
                driver.stop(&queue);
            }
        }
        device.send(request::GET_FEATURES, 1, &[], &[]);
        ends(device, Some(0), 0);
    }
}

/// The program waits until its answers are read, and not beyond the front end's end.
pub fn a_front_end_that_reads_nothing_is_waited_for_and_nobody_else(start: Start<'_>) {
    let device = negotiated(start);
    let question = [request::GET_FEATURES, 1, 0].map(u32::to_ne_bytes).concat();
    let raw = device.socket.as_raw_fd();
    // Until both directions are full, or as good as that.
    for _ in 0..100_000 {
        if send(raw, &question, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) != Ok(question.len()) {
            break;
        }
    }
    ends(device, Some(0), 0);
}
