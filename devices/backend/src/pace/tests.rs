//! The limits against a clock of the test's.
#![expect(clippy::arithmetic_side_effects, reason = "a test says what it expects by failing")]

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn pace(bandwidth: Option<Rate>, operations: Option<Rate>) -> Pace {
    Pace::new(&Rates { bandwidth, operations }, SECOND)
}

/// Does requests of these sizes, one after the other, each as soon as it may begin; gives what was done in `time`.
fn run(pace: &Pace, time: Duration, mut sizes: impl Iterator<Item = u64>) -> (u64, u64) {
    let (mut now, mut bytes, mut operations) = (SECOND, 0, 0);
    while now < SECOND + time {
        match pace.admit(0, now) {
            Ok(()) => {
                let size = sizes.next().unwrap();
                pace.pay(size, now);
                (bytes, operations) = (bytes + size, operations + 1);
            }
            Err(wait) => now += wait,
        }
    }
    (bytes, operations)
}

/// Whatever comes first of a generator that needs no crate.
fn sizes(most: u64) -> impl Iterator<Item = u64> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        1 + (state >> 33) % most
    })
}

#[test]
fn over_ten_seconds_a_rate_holds_whatever_the_sizes() {
    for (per_second, most) in [(1 << 20, 4096), (1 << 20, 300_000), (50 << 20, 1 << 20), (1000, 3)] {
        let pace = pace(Some(Rate::of(per_second)), None);
        let (bytes, _) = run(&pace, 10 * SECOND, sizes(most));
        let wanted = per_second * 10;
        assert!((wanted..=wanted + most).contains(&bytes), "{bytes} of {wanted}");
    }
}

#[test]
fn operations_are_counted_whatever_their_size() {
    let pace = pace(None, Some(Rate::of(250)));
    assert_eq!(run(&pace, 10 * SECOND, sizes(1 << 30)).1, 2500);
}

#[test]
fn of_two_limits_the_tighter_one_holds() {
    let both = |bytes, operations| pace(Some(Rate::of(bytes)), Some(Rate::of(operations)));
    let fours = || std::iter::repeat(4096);
    assert_eq!(run(&both(4096 * 10, 1000), 10 * SECOND, fours()).1, 100);
    assert_eq!(run(&both(4096 * 1000, 10), 10 * SECOND, fours()).1, 100);
}

#[test]
fn what_was_not_used_is_saved_up_to_a_burst_and_not_at_the_start() {
    let pace = pace(None, Some(Rate { per_second: 10, burst: 5 }));
    let now_can = |now: Duration| std::iter::from_fn(|| pace.admit(0, now).ok()).count();
    assert_eq!(now_can(SECOND), 1, "nothing was saved");
    assert_eq!(now_can(10 * SECOND), 6, "a burst, and the one that makes the debt");
    assert_eq!(pace.admit(0, 10 * SECOND), Err(SECOND / 10));
    pace.leave(0);
    assert_eq!(now_can(10 * SECOND + SECOND / 5), 2);
}

#[test]
fn a_request_that_was_not_there_costs_nothing() {
    let pace = pace(None, Some(Rate { per_second: 1, burst: 1 }));
    for _ in 0..1000 {
        pace.admit(0, SECOND).unwrap();
        pace.withdraw();
    }
    pace.admit(0, SECOND).unwrap();
    assert_eq!(pace.admit(0, SECOND), Err(SECOND));
}

#[test]
fn queues_begin_in_the_order_in_which_they_came() {
    let pace = pace(None, Some(Rate { per_second: 1, burst: 1 }));
    pace.admit(3, SECOND).unwrap();
    for queue in [2, 0, 1, 2, 0] {
        pace.admit(queue, SECOND).unwrap_err();
    }
    let mut begun = Vec::new();
    for round in 2..=7 {
        let now = round * SECOND;
        for queue in 0..3 {
            if pace.admit(queue, now).is_ok() {
                begun.push(queue);
                pace.admit(queue, now).unwrap_err();
            }
        }
    }
    assert_eq!(begun, [2, 0, 1, 2, 0, 1]);
}

#[test]
fn one_that_waits_no_more_holds_nobody_up() {
    let pace = pace(None, Some(Rate { per_second: 1, burst: 1 }));
    pace.admit(0, SECOND).unwrap();
    pace.admit(1, SECOND).unwrap_err();
    pace.admit(2, SECOND).unwrap_err();
    assert_eq!(pace.admit(2, 2 * SECOND), Err(NEXT), "after the other");
    pace.leave(1);
    pace.admit(2, 2 * SECOND).unwrap();
}

#[test]
fn the_largest_requests_of_all_queues_make_no_longer_debt_than_one_can_wait() {
    let rate = Rate::of(8 << 20);
    let pace = pace(Some(rate), None);
    for queue in 0..64 {
        pace.admit(queue, SECOND).unwrap();
    }
    (0..64).for_each(|_| pace.pay(largest_request(rate, 64), SECOND));
    assert!(pace.admit(0, SECOND).unwrap_err() <= LONGEST_DEBT);
}

#[test]
fn no_number_is_too_large() {
    let pace = pace(Some(Rate { per_second: 1, burst: u64::MAX }), Some(Rate::of(u64::MAX)));
    for _ in 0..3 {
        pace.pay(u64::MAX, Duration::MAX);
        assert!(pace.admit(0, SECOND).is_err());
    }
}
