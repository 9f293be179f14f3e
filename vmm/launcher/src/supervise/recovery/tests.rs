//! A device goes through its deaths, with a clock that the test sets.

use super::*;

fn disk(options: &str) -> Recovery {
    let words = [format!("blk,path=d{options}").parse().unwrap()];
    Recovery::of(&crate::device::devices(&words).unwrap()).remove(0)
}

const KILLED: Cause = Cause::Signal(9);

fn connection() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

fn after(from: Instant, milliseconds: u64) -> Instant {
    from.checked_add(Duration::from_millis(milliseconds)).unwrap()
}

/// A whole recovery from a death at `now`.
fn recover(recovery: &mut Recovery, now: Instant) {
    recovery.on_lost(now);
    assert_eq!(recovery.due(after(now, 10_000)), Some(Due::Spawn(0, false)));
    recovery.on_spawned(connection(), now);
    recovery.on_ready();
    assert!(recovery.offer().is_some());
    assert!(matches!(recovery.on_reconnected(now), TakenUp::Serves(_)));
}

#[test]
fn processes_are_numbered_without_those_of_others() {
    let words = ["rng,socket=/r", "blk,path=a", "blk,socket=/s", "blk,path=b"];
    let words: Vec<_> = words.iter().map(|word| word.parse().unwrap()).collect();
    let all = Recovery::of(&crate::device::devices(&words).unwrap());
    assert_eq!(all.iter().map(|one| one.process).collect::<Vec<_>>(), [None, Some(0), None, Some(1)]);
    assert!(all.iter().all(Recovery::is_survivable));
}

#[test]
fn a_successor_is_offered_once_the_loss_is_told_and_it_is_ready() {
    let start = Instant::now();
    for told_first in [true, false] {
        let mut disk = disk("");
        if told_first {
            assert!(disk.on_lost(start), "its process may live");
        }
        assert_eq!(disk.on_death(KILLED, start), Decision::Restart);
        assert_eq!(disk.due(start), Some(Due::Spawn(0, false)), "the first at once");
        assert_eq!(disk.due(start), None);
        disk.on_spawned(connection(), start);
        assert!(disk.offer().is_none());
        disk.on_ready();
        if !told_first {
            assert!(disk.offer().is_none());
            assert!(!disk.on_lost(start), "that is the dead one, not its successor");
        }
        assert!(disk.offer().is_some());
        assert!(disk.offer().is_none());
        assert_eq!(disk.on_reconnected(after(start, 7)), TakenUp::Serves(Duration::from_millis(7)));
        assert_eq!(disk.on_reconnected(start), TakenUp::Unasked);
    }
}

#[test]
fn a_successor_that_the_core_loses_is_ended_and_followed() {
    let start = Instant::now();
    let mut disk = disk("");
    disk.on_death(KILLED, start);
    disk.on_lost(start);
    disk.due(start);
    disk.on_spawned(connection(), start);
    disk.on_ready();
    disk.offer();
    assert!(disk.on_lost(start));
    assert_eq!(disk.on_death(KILLED, start), Decision::Restart);
    assert_eq!(disk.due(start), None, "the second in a row waits");
    recover(&mut disk, start);
}

#[test]
fn a_successor_may_be_known_dead_before_the_core_says_that_it_took_it_up() {
    let start = Instant::now();
    for took_up in [true, false] {
        let mut disk = disk("");
        disk.on_death(KILLED, start);
        disk.on_lost(start);
        disk.due(start);
        disk.on_spawned(connection(), start);
        disk.on_ready();
        assert!(disk.offer().is_some());
        assert_eq!(disk.on_death(KILLED, start), Decision::Restart);
        if took_up {
            assert_eq!(disk.on_reconnected(start), TakenUp::TooLate);
        }
        assert!(!disk.on_lost(start), "its death is known");
        assert_eq!(disk.on_reconnected(start), TakenUp::Unasked);
        assert_eq!(disk.due(after(start, 10)), Some(Due::Spawn(0, false)));
        disk.on_spawned(connection(), start);
        disk.on_ready();
        assert!(disk.offer().is_some());
        assert_eq!(disk.on_reconnected(after(start, 9)), TakenUp::Serves(Duration::from_millis(9)));
    }
}

#[test]
fn deaths_in_a_row_are_ever_slower_followed_and_then_not_at_all() {
    let start = Instant::now();
    let mut disk = disk("");
    let mut waits = Vec::new();
    while disk.on_death(KILLED, start) == Decision::Restart {
        waits.push(disk.deadline().unwrap().duration_since(start).as_millis());
        recover(&mut disk, start);
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 320, 640, 1280, 2000]);
}

#[test]
fn deaths_far_apart_are_not_in_a_row() {
    let mut now = Instant::now();
    let mut disk = disk("");
    for _ in 0..100 {
        now = after(now, 1000);
        assert_eq!(disk.on_death(KILLED, now), Decision::Restart);
        assert_eq!(disk.deadline(), Some(now));
        recover(&mut disk, now);
    }
}

#[test]
fn one_that_is_never_ready_is_ended() {
    let start = Instant::now();
    let mut disk = disk("");
    disk.on_death(KILLED, start);
    disk.due(start);
    disk.on_spawned(connection(), start);
    assert_eq!(disk.due(after(start, 9_999)), None);
    assert_eq!(disk.due(after(start, 10_000)), Some(Due::Kill(0)));
    assert_eq!(disk.on_death(KILLED, after(start, 10_001)), Decision::Restart);
}

#[test]
fn what_the_user_said_is_what_a_death_means() {
    let now = Instant::now();
    assert_eq!(disk(",on-failure=fail").on_death(KILLED, now), Decision::Fail(String::new()));
    assert_eq!(disk(",on-failure=stop").on_death(KILLED, now), Decision::Stop(String::new()));
}

#[test]
fn blame_is_for_a_death_with_the_rings_and_holds_until_somebody_has_them_again() {
    let start = Instant::now();
    let mut now = start;
    let mut blamed = |disk: &mut Recovery, cause| {
        now = after(now, 60_000);
        assert_eq!(disk.on_death(cause, now), Decision::Restart);
        match disk.due(after(now, 2000)) {
            Some(Due::Spawn(0, blamed)) => blamed,
            other => panic!("{other:?}"),
        }
    };
    let mut disk = disk("");
    assert!(blamed(&mut disk, Cause::Signal(11)));
    // It never had the rings: the one before still counts, and whatever this one did does not.
    disk.on_spawned(connection(), start);
    assert!(blamed(&mut disk, KILLED));
    assert!(blamed(&mut disk, Cause::NotSpawned));
    disk.on_spawned(connection(), start);
    disk.on_ready();
    disk.on_lost(start);
    assert!(disk.offer().is_some());
    assert!(!blamed(&mut disk, KILLED), "it had them, and was refused or killed");
    disk.on_spawned(connection(), start);
    assert!(!blamed(&mut disk, Cause::Exit(6)));
}

/// A back end of somebody else.
fn back_end(options: &str) -> Recovery {
    let word = format!("blk,socket=/s{options}").parse().unwrap();
    Recovery::of(&crate::device::devices(&[word]).unwrap()).remove(0)
}

#[test]
fn a_back_end_of_others_is_connected_to_until_it_listens_however_long_that_takes() {
    let start = Instant::now();
    let mut net = back_end("");
    net.on_lost(start);
    assert_eq!(net.on_death(Cause::Disconnected, start), Decision::Restart);
    let (mut now, mut waits) = (start, Vec::new());
    for _ in 0..1000 {
        assert_eq!(net.due(now), Some(Due::Connect(1)));
        assert_eq!(net.on_not_connected(now), None);
        let next = net.deadline().unwrap();
        waits.push(next.duration_since(now).as_millis());
        now = next;
    }
    assert_eq!(waits[..9], [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    assert_eq!(waits[999], 1000);
    assert_eq!(net.due(now), Some(Due::Connect(1)));
    net.on_connected(connection());
    assert!(net.offer().is_some());
    assert_eq!(net.on_reconnected(now), TakenUp::Serves(now.duration_since(start)));
    assert_eq!(net.on_not_connected(now), None, "it serves");
}

#[test]
fn a_back_end_of_others_is_waited_for_as_long_as_the_user_said() {
    let start = Instant::now();
    for (options, over) in [
        (",patience=2", Decision::Stop("; it has not come back within 2 s".to_owned())),
        (",patience=2,give-up=fail", Decision::Fail("; it has not come back within 2 s".to_owned())),
    ] {
        let mut net = back_end(options);
        net.on_death(Cause::Disconnected, start);
        let mut now = start;
        let decision = loop {
            assert_eq!(net.due(now), Some(Due::Connect(1)));
            if let Some(decision) = net.on_not_connected(now) {
                break decision;
            }
            now = net.deadline().unwrap();
        };
        assert_eq!((now, decision), (after(start, 2000), over));
        assert_eq!(net.deadline(), None);
    }
    let mut net = back_end(",patience=0");
    assert_eq!(net.on_death(Cause::Disconnected, start), Decision::Restart, "once is tried");
    assert_eq!(net.due(start), Some(Due::Connect(1)));
    assert!(matches!(net.on_not_connected(start), Some(Decision::Stop(_))));
    // One that is refused over and over is away, too.
    let mut net = back_end(",patience=1");
    net.on_death(Cause::Disconnected, start);
    net.on_lost(start);
    net.due(start);
    net.on_connected(connection());
    assert!(net.offer().is_some());
    assert!(net.on_lost(start));
    assert!(matches!(net.on_death(Cause::Disconnected, after(start, 1000)), Decision::Stop(_)));
}

#[test]
fn programs_that_die_over_and_over_may_cost_the_device_alone() {
    let start = Instant::now();
    let mut disk = disk(",give-up=fail");
    for _ in 0..10 {
        assert_eq!(disk.on_death(KILLED, start), Decision::Restart);
        recover(&mut disk, start);
    }
    assert!(matches!(disk.on_death(KILLED, start), Decision::Fail(why) if why.contains("after 10 others")));
}

/// A second process that the core was offered.
fn offered(now: Instant) -> Second {
    let mut second = Second::new(Some(0), None, 7);
    assert!(second.is_answer_to(7) && !second.is_answer_to(6) && second.offer(now).is_none());
    second.on_spawned(5, connection(), now);
    assert_eq!(second.deadline(), Some(after(now, 10_000)));
    assert!(second.offer(now).is_some());
    assert_eq!((second.offered(), second.deadline()), (Some(now), None));
    second
}

#[test]
fn while_the_core_has_a_choice_there_is_no_third() {
    let start = Instant::now();
    let mut disk = disk("");
    assert_eq!(disk.replaceable(), Ok(0));
    disk.second = Some(offered(start));
    assert!(disk.replaceable().is_err() && disk.owes_a_choice());
    assert_eq!(disk.on_death(KILLED, start), Decision::Restart);
    assert_eq!((disk.deadline(), disk.due(after(start, 60_000))), (None, None));
    // The core refuses it: the old one's death is as any other.
    disk.second = None;
    assert_eq!(disk.due(start), Some(Due::Spawn(0, false)));
    disk.on_lost(start);
    disk.on_spawned(connection(), start);
    disk.on_ready();
    disk.second = Some(offered(start));
    assert!(disk.offer().is_none());
    disk.second = None;
    assert!(disk.offer().is_some());
}

#[test]
fn a_choice_of_the_cores_that_is_none_any_more_is_awaited_once() {
    let start = Instant::now();
    let mut disk = disk(",on-failure=fail");
    disk.second = Some(spare(start));
    assert!(disk.let_go_of_second().is_some());
    assert!(!disk.has_chosen_too_late(), "it was not offered");
    disk.second = Some(offered(start));
    assert!(matches!(disk.on_death(KILLED, start), Decision::Fail(_)));
    assert!(disk.let_go_of_second().is_some());
    assert!(disk.has_chosen_too_late());
    assert!(!disk.has_chosen_too_late(), "it has one word");
}

#[test]
fn what_the_core_has_chosen_serves_whatever_became_of_the_other() {
    let start = Instant::now();
    for dead in [true, false] {
        let mut disk = disk("");
        disk.second = Some(offered(start));
        if dead {
            assert_eq!(disk.on_death(KILLED, start), Decision::Restart);
        }
        let (old, _, within) = disk.on_replaced(after(start, 3)).unwrap();
        assert_eq!((old, within, disk.process), (Some(0), Duration::from_millis(3), Some(5)));
        assert_eq!((disk.state(), disk.due(after(start, 60_000))), ("serving", None));
        assert!(!disk.expects());
        assert!(disk.on_lost(start), "that is news, and about the new one");
        let later = after(start, 60_000);
        assert_eq!(disk.on_death(KILLED, later), Decision::Restart);
        recover(&mut disk, later);
    }
    assert!(back_end("").replaceable().unwrap_err().contains("somebody else's"));
}

/// A spare that is ready.
fn spare(now: Instant) -> Second {
    let mut spare = Second::new(None, None, 8);
    spare.on_spawned(7, connection(), now);
    assert!(!spare.can_take_over());
    spare.keep();
    assert!(spare.can_take_over() && spare.deadline().is_none());
    spare
}

#[test]
fn a_spare_takes_over_at_once_but_not_twice_in_a_row() {
    let start = Instant::now();
    let mut disk = disk(",spare=on");
    assert!(disk.wants_spare());
    disk.second = Some(spare(start));
    assert!(!disk.wants_spare());
    assert_eq!((disk.state(), disk.replaceable()), ("serving", Ok(0)));
    assert_eq!(disk.on_death(Cause::Signal(11), start), Decision::Restart);
    assert_eq!((disk.process, disk.due(after(start, 60_000))), (Some(7), None));
    assert!(!disk.wants_spare(), "it does not serve yet");
    assert!(disk.offer().is_none(), "the core has not told of the loss");
    disk.on_lost(start);
    assert!(disk.offer().is_some());
    assert_eq!(disk.on_reconnected(after(start, 2)), TakenUp::Serves(Duration::from_millis(2)));
    assert!(disk.wants_spare());
    // A request may be to blame for both: the third process is told so, which the spare could not be.
    disk.second = Some(spare(start));
    assert_eq!(disk.on_death(Cause::Signal(11), after(start, 3)), Decision::Restart);
    assert_eq!(disk.due(after(start, 60_000)), Some(Due::Spawn(0, true)));
    assert!(disk.second.is_some(), "it is there for later");
    disk.second = None;
    disk.renounce_spare();
    assert!(!disk.wants_spare());
}

/// A program is refused for what it would skip, and the user is told what that is and how to do without.
#[test]
fn what_an_older_program_does_not_know_of_is_named() {
    for (word, since, what) in [
        ("blk,path=d", None, ""),
        ("net,tap=t,queues=1", None, ""),
        ("blk,path=d,bandwidth=1M", Some(4), "limits need 1.4"),
        ("net,tap=t,queues=2", Some(5), "several pairs of queues need 1.5"),
        ("net,stream=/s", Some(5), "networks on a stream need 1.5"),
        ("net,tap=t,queues=2,bandwidth=1M", Some(5), "or no queues="),
        ("console,pty=on,port.log=path:l", Some(5), "ports with names need 1.5"),
    ] {
        let devices = crate::device::devices(&[word.parse().unwrap()]).unwrap();
        let words = Words::of(&devices[0]);
        assert_eq!(words.map(|words| words.since), since, "{word}");
        let said = words.and_then(|words| super::super::verdict::of_old_program("d", 3, words).text);
        assert!(said.unwrap_or_default().contains(what), "{word}");
    }
}
