//! A driver that lies, one that floods, and a host that does not read.

use std::os::fd::AsFd;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::front_end::driver::{Driver, MEMORY, wait_for};
use super::*;

#[test]
fn a_pipe_that_nobody_reads_stops_nobody() {
    let place = Place::new();
    let reader = place.pipe();
    let device = started(&[&place.option("path")]);
    let driver = Driver::new(&device);
    let mut transmit = driver.queue(1, SIZE, 0);
    // 64 MiB in one request, then some thousands of the usual size: all come back.
    driver.chain(transmit.table(), 0, &[(0, u32::try_from(MEMORY).unwrap(), 0); 4]);
    driver.offer(&mut transmit, &[0]);
    assert_eq!(driver.used(&mut transmit), (0, 0));
    for head in 0..SIZE {
        driver.chain(transmit.table(), head, &[(OUT, 4096, 0)]);
    }
    for _ in 0..50 {
        driver.offer(&mut transmit, &(0..SIZE).collect::<Vec<_>>());
        for head in 0..SIZE {
            assert_eq!(driver.used(&mut transmit), (head.into(), 0));
        }
    }
    // Whoever reads at last gets what the pipe held, and then what comes.
    let mut drained = 0;
    let mut room = vec![0; 1 << 20];
    while let Ok(count) = (&reader).read(&mut room) {
        drained += count;
    }
    assert!(drained > 0 && drained <= 1 << 20, "{drained}");
    write(&driver, &mut transmit, b"and on it goes");
    assert_eq!(read_exactly(&reader, 14), b"and on it goes");
    assert_eq!(driver.stop(&transmit), u32::from(transmit.used));
    let (code, log) = device.end();
    assert_eq!((code, log.lines().count()), (Some(0), 2), "{log}");
    let dropped = (64 << 20) + 50 * 64 * 4096 - drained;
    assert!(log.contains("dropped: nobody reads it"), "{log}");
    assert!(log.contains(&format!("passed on again; {dropped} bytes were dropped")), "{drained}: {log}");
}

#[test]
fn input_that_the_driver_has_no_buffer_for_stays_with_the_host() {
    let place = Place::new();
    let listener = UnixListener::bind(&place.path).unwrap();
    let device = started(&[&place.option("connect")]);
    let (mut host, _) = listener.accept().unwrap();
    let driver = Driver::new(&device);
    let mut receive = driver.queue(0, SIZE, 0);
    host.write_all(b"abcdefgh").unwrap();
    // Three bytes at a time, as the driver says.
    for part in [&b"abc"[..], b"def", b"gh"] {
        offer(&driver, &mut receive, 0..1, 3);
        assert_eq!(driver.used(&mut receive), (0, u32::try_from(part.len()).unwrap()));
        assert_eq!(driver.look(buffer(0), part.len()), part);
    }
    assert_eq!(driver.look(buffer(0) + 3, 16), [0; 16], "not a byte beyond what was offered");
    ends_well(device);
}

#[test]
fn broken_rings_stop_and_can_be_started_again() {
    let place = Place::new();
    let device = started(&[&place.option("path")]);
    let driver = Driver::new(&device);
    // Nothing to write to, for input; a chain in a loop, one outside memory, one of the wrong order, for output.
    let loops: &[(u64, u32, u16)] = &[(OUT, 4, WRITE), (OUT, 4, 0)];
    let beyond: &[(u64, u32, u16)] = &[(MEMORY - 1, 2, 0)];
    let input: &[(u64, u32, u16)] = &[(OUT, 4, 0)];
    for (queue, chain) in [(0, input), (1, loops), (1, beyond)] {
        let broken = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
        assert!(device.ask(request::SET_VRING_ERR, &u64::from(queue).to_ne_bytes(), &[broken.as_fd()]));
        let mut ring = driver.queue(queue, SIZE, 0);
        driver.chain(ring.table(), 0, chain);
        driver.offer(&mut ring, &[0]);
        assert_eq!(wait_for(&broken), 1, "{chain:?}");
        driver.stop(&ring);
        driver.put(ring.available_ring() + 2, &[0; 2]);
        driver.put(ring.used_ring() + 2, &[0; 2]);
    }
    let mut transmit = driver.queue(1, SIZE, 0);
    // What it may write to is left alone, and nothing at all is nothing.
    driver.put(OUT + 64, &[7; 64]);
    driver.chain(transmit.table(), 0, &[(OUT + 64, 64, WRITE)]);
    driver.offer(&mut transmit, &[0]);
    assert_eq!((driver.used(&mut transmit), driver.look(OUT + 64, 64)), ((0, 0), vec![7; 64]));
    write(&driver, &mut transmit, b"an honest one");
    assert_eq!(std::fs::read(&place.path).unwrap(), b"an honest one");
    let (code, log) = device.end();
    assert_eq!((code, log.lines().count()), (Some(0), 3), "{log}");
}
