//! A hostile front end, against the real program of any device: each class of what it can do wrong is one attack, on
//! fresh programs, and one test of each device (`attacks!`).
//!
//! After each attack the program is there, has as many descriptors as before, and serves; or it has ended with one line
//! and the code for a front end that broke the rules. An answer that does not come fails (`Device::spawn`).

pub mod descriptors;
pub mod life;
pub mod messages;
pub mod rings;

use std::fs::File;

use crate::front_end::Device;
use crate::front_end::driver::Driver;

/// Requests that have an answer of their own.
const GETS: [u32; 6] = [1, 11, 15, 17, 24, 31];
/// What the program ends with when a front end broke the rules.
const BROKEN: Option<i32> = Some(7);
const SIZE: u16 = 64;

/// Starts the program under attack, which nobody has negotiated with yet.
pub type Start<'s> = &'s dyn Fn() -> Device;

/// A test for each attack. `$with` prepares what the device serves and calls the attack: it takes the path of the test and
/// the attack.
macro_rules! attacks {
    ($with:path) => {
        #[test]
        fn every_message_number_with_every_size_and_strays() {
            let attack = $crate::hostile_front_end::messages::every_message_number_with_every_size_and_strays;
            $with(concat!(module_path!(), "::every_message_number_with_every_size_and_strays"), attack);
        }

        #[test]
        fn bodies_shorter_and_longer_than_their_structures() {
            let attack = $crate::hostile_front_end::messages::bodies_shorter_and_longer_than_their_structures;
            $with(concat!(module_path!(), "::bodies_shorter_and_longer_than_their_structures"), attack);
        }

        #[test]
        fn broken_framing_ends_the_connection_with_one_line() {
            let attack =
                $crate::hostile_front_end::messages::broken_framing_ends_the_connection_with_one_line;
            $with(concat!(module_path!(), "::broken_framing_ends_the_connection_with_one_line"), attack);
        }

        #[test]
        fn messages_that_were_not_negotiated_are_refused() {
            let attack = $crate::hostile_front_end::messages::messages_that_were_not_negotiated_are_refused;
            $with(concat!(module_path!(), "::messages_that_were_not_negotiated_are_refused"), attack);
        }

        #[test]
        fn descriptors_without_number() {
            let attack = $crate::hostile_front_end::descriptors::descriptors_without_number;
            $with(concat!(module_path!(), "::descriptors_without_number"), attack);
        }

        #[test]
        fn descriptors_stay_as_many_as_they_were() {
            let attack = $crate::hostile_front_end::descriptors::descriptors_stay_as_many_as_they_were;
            $with(concat!(module_path!(), "::descriptors_stay_as_many_as_they_were"), attack);
        }

        #[test]
        fn memory_that_is_not_there_is_refused() {
            let attack = $crate::hostile_front_end::descriptors::memory_that_is_not_there_is_refused;
            $with(concat!(module_path!(), "::memory_that_is_not_there_is_refused"), attack);
        }

        #[test]
        fn what_is_no_event_stops_its_ring() {
            let attack = $crate::hostile_front_end::descriptors::what_is_no_event_stops_its_ring;
            $with(concat!(module_path!(), "::what_is_no_event_stops_its_ring"), attack);
        }

        #[test]
        fn a_kick_that_one_read_does_not_empty_stops_its_ring() {
            let attack =
                $crate::hostile_front_end::descriptors::a_kick_that_one_read_does_not_empty_stops_its_ring;
            $with(concat!(module_path!(), "::a_kick_that_one_read_does_not_empty_stops_its_ring"), attack);
        }

        #[test]
        fn rings_in_one_place_and_full_of_junk() {
            let attack = $crate::hostile_front_end::rings::rings_in_one_place_and_full_of_junk;
            $with(concat!(module_path!(), "::rings_in_one_place_and_full_of_junk"), attack);
        }

        #[test]
        fn accounts_of_requests_that_do_not_fit() {
            let attack = $crate::hostile_front_end::rings::accounts_of_requests_that_do_not_fit;
            $with(concat!(module_path!(), "::accounts_of_requests_that_do_not_fit"), attack);
        }

        #[test]
        fn hanging_up_at_every_step() {
            let attack = $crate::hostile_front_end::life::hanging_up_at_every_step;
            $with(concat!(module_path!(), "::hanging_up_at_every_step"), attack);
        }

        #[test]
        fn a_front_end_that_reads_nothing_is_waited_for_and_nobody_else() {
            let attack =
                $crate::hostile_front_end::life::a_front_end_that_reads_nothing_is_waited_for_and_nobody_else;
            $with(
                concat!(module_path!(), "::a_front_end_that_reads_nothing_is_waited_for_and_nobody_else"),
                attack,
            );
        }

        #[test]
        fn a_ring_that_runs_is_not_changed() {
            let attack = $crate::hostile_front_end::rings::a_ring_that_runs_is_not_changed;
            $with(concat!(module_path!(), "::a_ring_that_runs_is_not_changed"), attack);
        }

        #[test]
        fn rings_out_of_order_and_out_of_range() {
            let attack = $crate::hostile_front_end::rings::rings_out_of_order_and_out_of_range;
            $with(concat!(module_path!(), "::rings_out_of_order_and_out_of_range"), attack);
        }
    };
}
pub(crate) use attacks;

fn negotiated(start: Start<'_>) -> Device {
    let device = start();
    device.negotiate(0);
    device
}

/// It has a ring served, and ends well with its front end.
fn serves(device: Device) {
    let driver = Driver::new(&device);
    let queue = driver.queue(0, SIZE, 0);
    assert_eq!(driver.stop(&queue), 0);
    ends(device, Some(0), 65);
}

/// It ends with `code` and at most so many lines.
fn ends(device: Device, code: Option<i32>, lines: usize) {
    let (found, log) = device.end();
    assert_eq!(found, code, "{log}");
    assert!(log.lines().count() <= lines && !log.contains("panicked"), "{log}");
}

fn nulls(count: usize) -> Vec<File> {
    (0..count).map(|_| File::open("/dev/null").unwrap()).collect()
}
