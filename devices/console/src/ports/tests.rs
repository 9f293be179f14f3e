//! What is said, in which order, how often, and what a successor makes of it.

use super::*;

fn described() -> Vec<Description> {
    let port = |name: &str, console| Description { name: name.to_owned(), console };
    vec![port("", true), port("agent", false), port("log", false)]
}

const SIZE: ConsoleSize = ConsoleSize { columns: 132, rows: 43 };

fn ports() -> Ports {
    Ports::new(described(), Some(SIZE))
}

fn says(id: u32, event: u16, value: u16) -> Control {
    Control { id, event, value }
}

/// What is said from used index `index` on, as port, event and value.
fn said(ports: &mut Ports, index: u16) -> Vec<(u32, u16, u16)> {
    let mut all = Vec::new();
    for index in (0..=u16::MAX).map(|step| index.wrapping_add(step)) {
        let Some(message) = ports.next(index) else { break };
        let Control { id, event, value } = Control::parse(message[..8].try_into().unwrap());
        all.push((id, event, value));
    }
    all
}

/// A driver that has all it wants: both sides of the port 1 are open.
fn settled() -> (Ports, u16) {
    let mut ports = ports();
    assert!(ports.heard(says(u32::MAX, event::DEVICE_READY, 1)));
    assert_eq!(said(&mut ports, 0), [(0, 1, 1), (1, 1, 1), (2, 1, 1)]);
    for id in 0..3 {
        assert!(ports.heard(says(id, event::PORT_READY, 1)));
    }
    let all = [(0, 4, 1), (0, 5, 1), (0, 6, 1), (1, 6, 1), (1, 7, 1), (2, 6, 1), (2, 7, 1)];
    assert_eq!(said(&mut ports, 3), all);
    assert!(ports.heard(says(1, event::PORT_OPEN, 1)));
    (ports, 10)
}

#[test]
fn a_driver_is_told_of_each_port_once_and_of_what_it_is() {
    let (mut ports, index) = settled();
    assert_eq!(said(&mut ports, index), []);
    assert!(ports.takes_input(0) && ports.takes_input(1) && !ports.takes_input(2) && !ports.takes_input(3));
    assert!(ports.heard(says(1, event::PORT_OPEN, 0)) && !ports.takes_input(1));
    assert!(!ports.heard(says(1, event::PORT_OPEN, 0)), "no news");
}

#[test]
fn names_and_sizes_follow_their_message() {
    let mut ports = ports();
    ports.heard(says(0, event::DEVICE_READY, 1));
    said(&mut ports, 0);
    ports.heard(says(0, event::PORT_READY, 1));
    ports.heard(says(1, event::PORT_READY, 1));
    let messages: Vec<Vec<u8>> = (3..8).map_while(|index| ports.next(index)).collect();
    assert_eq!(messages[1], [&[0, 0, 0, 0, 5, 0, 1, 0][..], &[132, 0, 43, 0]].concat());
    assert_eq!(messages[4], [&[1, 0, 0, 0, 7, 0, 1, 0][..], b"agent"].concat());
}

#[test]
fn whatever_a_driver_says_there_is_a_bound_to_what_it_is_told() {
    let mut ports = ports();
    // Before anything else was said, of ports that are not there, of events that are none, and all of it over and over.
    for round in 0..3u32 {
        for event in (0..32).chain([u16::MAX]) {
            for value in [0, 1, 2, u16::MAX] {
                for id in [0, 1, 2, 3, 31, u32::MAX - 1, u32::MAX] {
                    ports.heard(says(id, event, value));
                }
            }
        }
        for port in 0..5 {
            ports.set_host_open(port, round % 2 == 0);
        }
        ports.resize(ConsoleSize { columns: 1, rows: u16::try_from(round).unwrap() + 1 });
    }
    assert!(said(&mut ports, 7).len() <= 3 * MESSAGES.len());
    assert_eq!(said(&mut ports, 99), []);
    for _ in 0..10_000 {
        ports.heard(says(2, event::DEVICE_READY, 1));
    }
    assert_eq!(said(&mut ports, 100).len(), 3);
}

#[test]
fn a_failure_of_the_driver_is_no_readiness() {
    let mut ports = ports();
    assert!(!ports.heard(says(0, event::DEVICE_READY, 0)));
    assert!(!ports.heard(says(1, event::PORT_READY, 0)));
    assert_eq!(said(&mut ports, 0), []);
}

#[test]
fn changes_are_told_once_and_as_they_are_then() {
    let (mut ports, index) = settled();
    assert!(ports.set_host_open(1, false) && ports.set_host_open(1, true) && ports.set_host_open(1, false));
    assert!(!ports.set_host_open(1, false));
    let other = ConsoleSize { columns: 80, rows: 24 };
    assert!(ports.resize(other) && !ports.resize(other));
    assert_eq!(said(&mut ports, index), [(0, 5, 1), (1, 6, 0)]);
    // Of a port that the driver does not know yet it hears with the port.
    ports.reset();
    assert!(ports.set_host_open(2, false) && ports.resize(SIZE));
    assert_eq!(said(&mut ports, 0), []);
    assert!(ports.heard(says(2, event::PORT_READY, 1)));
    assert_eq!(
        said(&mut ports, 0),
        [(2, 7, 1)],
        "a port that came up without being asked for, as after hibernation"
    );
}

/// Each process dies after each message, with the driver having got it or not.
#[test]
fn over_deaths_nothing_is_lost_and_nothing_said_twice() {
    let whole = |deaths: u32| {
        let mut ports = ports();
        ports.heard(says(0, event::DEVICE_READY, 1));
        let (mut index, mut all, mut step) = (0u16, Vec::new(), 0u32);
        loop {
            let Some(message) = ports.next(index) else {
                let Some(&id) = [0u32, 1, 2].iter().find(|id| ports.heard(says(**id, event::PORT_READY, 1)))
                else {
                    return all;
                };
                assert!(id < 3);
                continue;
            };
            let kept = ports.kept();
            // Two bits of each step: whether it dies there, and whether the driver had got the message.
            let dies = deaths >> (step * 2 % 32) & 1 == 1;
            let got = !dies || deaths >> (step * 2 % 32 + 1) & 1 == 1;
            step += 1;
            if got {
                all.push(message);
                index = index.wrapping_add(1);
            }
            if dies {
                ports = super::tests::ports();
                assert!(ports.restore(&kept));
            }
            assert!(step < 1000, "{deaths:#x}");
        }
    };
    let expected = whole(0);
    assert_eq!(expected.len(), 10);
    // Without a death after which the driver lacks the message for ever: bits 0b01 all over would be that.
    for seed in 1..2000u32 {
        let deaths = seed.wrapping_mul(0x9E37_79B9) & 0x7FFF_FFFF;
        assert_eq!(whole(deaths), expected, "{deaths:#x}");
    }
}

#[test]
fn what_was_taken_before_a_death_is_taken_again_without_a_change() {
    let (ports, index) = settled();
    let successor = || {
        let mut successor = super::tests::ports();
        assert!(successor.restore(&ports.kept()));
        successor
    };
    for (id, event) in [(0, event::DEVICE_READY), (1, event::PORT_READY), (1, event::PORT_OPEN)] {
        let mut successor = successor();
        assert!(!successor.heard(says(id, event, 1)), "{event}");
        assert_eq!(said(&mut successor, index), []);
        assert!(successor.takes_input(1) && !successor.takes_input(2));
    }
    // A driver that says it later begins anew.
    let mut successor = successor();
    successor.heard(says(9, 9, 9));
    assert!(successor.heard(says(0, event::DEVICE_READY, 1)));
    assert_eq!(said(&mut successor, index).len(), 3);
}

#[test]
fn a_client_that_went_with_the_process_is_told_of() {
    let (ports, index) = settled();
    let mut successor = super::tests::ports();
    successor.set_host_open(1, false);
    assert!(successor.restore(&ports.kept()));
    assert_eq!(said(&mut successor, index), [(1, 6, 0)]);
}

#[test]
fn what_a_predecessor_kept_is_parsed_as_what_anybody_wrote() {
    let (ports, _) = settled();
    let kept = ports.kept();
    let mut successor = super::tests::ports();
    assert!(successor.restore(&kept));
    assert_eq!(successor.kept(), kept);
    for size in (0..kept.len()).chain([kept.len() + 1, kept.len() + 2, 2000]) {
        let mut bytes = kept.clone();
        bytes.resize(size, 0);
        assert!(!successor.restore(&bytes), "{size}");
        assert_eq!(said(&mut successor, 0), [], "as if no driver had touched it");
    }
    for at in 0..kept.len() {
        for value in 0..=u8::MAX {
            let mut bytes = kept.clone();
            bytes[at] = value;
            let taken = successor.restore(&bytes);
            assert!(!taken || successor.kept().len() == kept.len());
            assert!(said(&mut successor, 0).len() <= 3 * MESSAGES.len());
        }
    }
}
