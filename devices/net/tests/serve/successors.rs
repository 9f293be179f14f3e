//! Processes of a device that die while frames arrive, each followed by another on the same rings.

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::front_end::driver::{Driver, MEMORY, Memory, Queue, WRITE};
use crate::front_end::{memory_table, request, sealed};
use crate::network::{HEADERS, socket, with_tap};
use crate::{LARGE, SIZE, buffer, started};

const DEATHS: u32 = 22;
/// Frames that are sent around a death.
const BURST: u32 = 10;

/// Whether `number` more are used than were taken, after having waited for a call a while.
fn has_used(driver: &Driver<'_>, receive: &Queue, number: u16) -> bool {
    driver.calls_for_next(receive);
    let mut fds = [PollFd::new(receive.call.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(20u16)).unwrap();
    let _ = receive.call.read();
    driver.used_index(receive).wrapping_sub(receive.used) >= number
}

#[test]
fn no_frame_comes_twice_through_any_number_of_deaths() {
    with_tap("successors::no_frame_comes_twice_through_any_number_of_deaths", || {
        let socket = socket();
        let part = (16 + 16 * u64::from(SIZE)).next_multiple_of(64);
        let area = sealed(part * 2);
        let mut memory = Memory::new();
        let mut receive = Queue::new(0, SIZE, 0);
        for head in 0..SIZE {
            memory.chain(receive.table(), head, &[(buffer(head.into()), 2048, WRITE)]);
        }
        memory.offer(&mut receive, &(0..SIZE).collect::<Vec<_>>());
        let (mut sent, mut last, mut received) = (0u32, 0u32, 0u32);
        for death in 0..DEATHS {
            let device = started(&[]);
            device.negotiate(LARGE);
            assert!(device.ask(request::SET_MEM_TABLE, &memory_table(&[(0, MEMORY, 0)]), &[memory.as_fd()]));
            let mut body = (part * 2).to_ne_bytes().to_vec();
            body.extend(0u64.to_ne_bytes());
            body.extend([2u16, SIZE, 0, 0].iter().flat_map(|word| word.to_ne_bytes()));
            assert!(device.ask(request::SET_INFLIGHT_FD, &body, &[area.as_fd()]));
            let driver = Driver { device: &device, memory };
            driver.start(&receive, driver.used_index(&receive));
            receive.kick.write(1).unwrap();
            let mut send = || {
                sent += 1;
                assert_eq!(socket.send(&sent.to_le_bytes()).unwrap(), 4);
            };
            // The host's kernel sends none before it has seen that the interface has a user again.
            while !has_used(&driver, &receive, 1) {
                send();
            }
            // It dies when it has given back none of them, all, or any number in between.
            (0..BURST).for_each(|_| send());
            while !has_used(&driver, &receive, 1 + u16::try_from(death % (BURST + 1)).unwrap()) {}
            kill(Pid::from_raw(device.confined_pid()), Signal::SIGKILL).unwrap();
            memory = driver.memory;
            let (code, log) = device.end();
            assert_ne!(code, Some(0), "death {death}: {log}");
            let mut heads = Vec::new();
            while let Some((head, size)) = memory.take_used(&mut receive) {
                // In the order in which they were offered, each once.
                assert_eq!(head, received % u32::from(SIZE));
                received += 1;
                let frame = memory.look(buffer(head), size as usize);
                let number = u32::from_le_bytes(frame[HEADERS..HEADERS + 4].try_into().unwrap());
                assert!(number > last && number <= sent, "{number} after {last} of {sent}");
                last = number;
                heads.push(u16::try_from(head).unwrap());
            }
            assert!(!heads.is_empty());
            memory.offer(&mut receive, &heads);
        }
        assert!(received > u32::from(SIZE), "more than once around the ring: {received}");
    });
}
