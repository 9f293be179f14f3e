//! What a successor does with what its predecessor left in the in-flight area.

use super::front_end::{bytes_of, sealed};
use super::*;

/// The in-flight area of a process that died: it had taken two requests and begun the first.
#[test]
fn what_was_begun_is_written_again_and_what_was_acknowledged_is_not() {
    let place = Place::new();
    let device = started(&[&place.option("path")]);
    let driver = Driver::new(&device);
    let part = (16 + 16 * u64::from(SIZE)).next_multiple_of(64);
    let area = sealed(part * 2);
    // Of ring 1: version 1, its size; heads 1 and 2 in flight in this order, the first being handled.
    let mut noted = vec![0u8; 64];
    noted[8..12].copy_from_slice(&[1, 0, 64, 0]);
    noted[32..36].copy_from_slice(&[1, 0, 1, 0]);
    noted[48..52].copy_from_slice(&[1, 0, 0, 0]);
    noted[40] = 1;
    noted[56] = 2;
    // One was acknowledged before.
    noted[14..16].copy_from_slice(&[1, 0]);
    std::os::unix::fs::FileExt::write_all_at(&area, &noted, part).unwrap();
    let mut body = (part * 2).to_ne_bytes().to_vec();
    body.extend(0u64.to_ne_bytes());
    body.extend([2u16, SIZE, 0, 0].iter().flat_map(|word| word.to_ne_bytes()));
    assert!(device.ask(request::SET_INFLIGHT_FD, &body, &[area.as_fd()]));
    let mut transmit = Queue::new(1, SIZE, 0);
    for (head, text) in [(0u16, "acknowledged "), (1, "begun "), (2, "taken "), (3, "new")] {
        let at = OUT + u64::from(head) * 0x1000;
        driver.put(at, text.as_bytes());
        driver.chain(transmit.table(), head, &[(at, u32::try_from(text.len()).unwrap(), 0)]);
    }
    driver.offer(&mut transmit, &[0, 1, 2, 3]);
    // The driver has seen one used element.
    driver.put(transmit.used_ring() + 2, &1u16.to_le_bytes());
    transmit.used = 1;
    driver.start(&transmit, 1);
    for head in 1..4 {
        assert_eq!(driver.used(&mut transmit), (head, 0));
    }
    assert_eq!(std::fs::read(&place.path).unwrap(), b"begun taken new");
    assert_eq!(bytes_of(&area, part + 32, 4)[0], 0, "given back");
    ends_well(device);
}

/// A process after another on one open file: nothing that was acknowledged is missing, in whatever way each ended.
#[test]
fn nothing_acknowledged_is_lost_by_kills() {
    let place = Place::new();
    let mut expected = Vec::new();
    for round in 0..10u32 {
        let device = started(&[&place.option("path")]);
        let driver = Driver::new(&device);
        let mut transmit = driver.queue(1, SIZE, 0);
        for line in 0..20 {
            let text = format!("round {round} line {line}\n");
            write(&driver, &mut transmit, text.as_bytes());
            expected.extend_from_slice(text.as_bytes());
        }
        let killed = nix::unistd::Pid::from_raw(device.confined_pid());
        nix::sys::signal::kill(killed, nix::sys::signal::Signal::SIGKILL).unwrap();
        let (code, log) = device.end();
        assert_eq!(code, Some(7), "{log}");
    }
    assert_eq!(std::fs::read(&place.path).unwrap(), expected);
}
