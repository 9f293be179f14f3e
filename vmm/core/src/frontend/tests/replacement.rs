//! A back end is replaced while it serves: what both are told, in which order, and what the launcher hears.

use super::attached::{Bench, bench, hung_up};
use super::peer::{FEATURES, PROTOCOL_FEATURES, REPLY, Request, behave, message};
use super::succession::{dies_at, says, serves_again};
use crate::frontend::Succession;
use protocol::{FromCore, Refused};
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use vhost::vhost_user::message::FrontendReq;

type Special = Option<ControlFlow<()>>;

const SERVING: u8 = 15;

/// Says of its queue that it stands there.
fn stands_at(base: u32) -> impl FnMut(&mut UnixStream, &Request) -> Special + Send + 'static {
    move |stream, request| {
        request.is(FrontendReq::GET_VRING_BASE).then(|| {
            let body = [request.word(0), base].map(u32::to_ne_bytes);
            stream.write_all(&message(request.id, REPLY, body.as_flattened())).unwrap();
            ControlFlow::Continue(())
        })
    }
}

/// A bench whose back end serves.
fn serving(special: impl FnMut(&mut UnixStream, &Request) -> Special + Send + 'static) -> Bench {
    let bench = bench(special);
    bench.set_up();
    bench.until(FrontendReq::SET_VRING_ENABLE);
    bench
}

fn refused(bench: &Bench) -> String {
    match bench.told.recv().unwrap() {
        FromCore::Refused(Refused { slot: 1, text }) => text,
        other => panic!("{other:?}"),
    }
}

/// The back end that is there is asked to stop, and not before.
fn still_serves(bench: &Bench) {
    assert_eq!(bench.status(), SERVING);
    bench.write(0x14, 0, 1);
    let seen = bench.until(FrontendReq::GET_VRING_BASE);
    let stops = seen.iter().filter(|request| request.is(FrontendReq::GET_VRING_BASE)).count();
    assert_eq!(stops, 1, "{seen:?}");
    bench.await_status(0);
    assert!(bench.told.try_recv().is_err(), "nothing is lost");
}

#[test]
fn a_replacement_is_ready_before_the_rings_are_drained_and_starts_where_they_stand() {
    let mut bench = serving(stands_at(0xFFFE));
    bench.replace(|_, _| None);
    let seen = bench.until(FrontendReq::SET_VRING_ENABLE);
    serves_again(&bench);
    let at = |wanted| seen.iter().position(|seen| seen.is(wanted)).unwrap();
    let drained = at(FrontendReq::GET_VRING_BASE);
    for before in [FrontendReq::GET_CONFIG, FrontendReq::SET_FEATURES, FrontendReq::SET_MEM_TABLE] {
        assert!(at(before) < drained, "{before:?}");
    }
    for after in [FrontendReq::SET_INFLIGHT_FD, FrontendReq::SET_VRING_ADDR, FrontendReq::SET_VRING_KICK] {
        assert!(at(after) > drained, "{after:?}");
    }
    let base = &seen[at(FrontendReq::SET_VRING_BASE)];
    assert_eq!((base.word(0), base.word(4)), (1, 0xFFFE));
    still_serves(&bench);
    bench.end();
}

#[test]
fn the_old_one_keeps_its_connection_until_the_launcher_knows_of_the_new_one() {
    let (tell, connections) = channel();
    let mut bench = serving(move |stream, request| {
        if request.is(FrontendReq::GET_VRING_BASE) {
            tell.send(stream.try_clone().unwrap()).unwrap();
        }
        None
    });
    *bench.closed_then.lock().unwrap() = Some(Vec::new());
    bench.replace(|_, _| None);
    serves_again(&bench);
    let old = connections.recv().unwrap();
    // Whatever the front end does after that: it is the control loop that says the word.
    bench.write(0x2000 + 32, 1, 1);
    bench.until(FrontendReq::SET_CONFIG);
    assert!(!hung_up(&old), "closed before the word was said");
    *bench.closed_then.lock().unwrap() = None;
    assert!(hung_up(&old));
    bench.end();
}

#[test]
fn a_replacement_that_will_not_do_leaves_the_one_that_serves_alone() {
    let mut bench = serving(|_, _| None);
    let bad = [
        (FrontendReq::GET_FEATURES, FEATURES & !(1 << 32), "VERSION_1"),
        (FrontendReq::GET_PROTOCOL_FEATURES, PROTOCOL_FEATURES & !(1 << 12), "INFLIGHT_SHMFD"),
        (FrontendReq::GET_QUEUE_NUM, 1, "offers 1 queues"),
        (FrontendReq::SET_MEM_TABLE, 1, "refused"),
    ];
    for (asked, value, why) in bad {
        bench.replace(says(asked, value));
        let text = refused(&bench);
        assert!(text.contains(why), "{text}");
    }
    for step in [
        FrontendReq::GET_FEATURES,
        FrontendReq::SET_PROTOCOL_FEATURES,
        FrontendReq::GET_CONFIG,
        FrontendReq::SET_FEATURES,
        FrontendReq::SET_MEM_TABLE,
    ] {
        bench.replace(dies_at(step));
        assert_eq!(refused(&bench), "the back end closed the connection", "{step:?}");
    }
    while bench.requests.try_recv().is_ok() {}
    still_serves(&bench);
    bench.end();
}

#[test]
fn one_that_fails_while_it_is_replaced_is_lost_and_the_replacement_refused() {
    for special in [Some(0x1_0000), None] {
        let mut bench = serving(move |stream, request| match special {
            Some(base) => stands_at(base)(stream, request),
            None => dies_at(FrontendReq::GET_VRING_BASE)(stream, request),
        });
        bench.replace(|_, _| None);
        assert!(refused(&bench).contains("the one that serves failed"));
        let text = bench.lost();
        assert!(text.contains(if special.is_some() { "stands at 0x10000" } else { "closed" }), "{text}");
        assert_eq!(bench.status(), SERVING);
        bench.succeed(|_, _| None);
        serves_again(&bench);
        bench.end();
    }
}

/// Of one that lies about where its rings stand the successor is never told, and the next one looks for itself.
#[test]
fn where_a_ring_cannot_stand_none_is_taken_up() {
    for base in [0x1_0000, u32::MAX] {
        let mut bench = serving(stands_at(base));
        bench.replace(|_, request| {
            assert!(!request.is(FrontendReq::SET_VRING_BASE), "told of it");
            None
        });
        assert!(refused(&bench).contains("failed when its rings were to be drained"));
        let text = bench.lost();
        assert!(text.contains(&format!("{base:#x}")) || text.contains(&base.to_string()), "{text}");
        bench.succeed(|_, _| None);
        let seen = bench.until(FrontendReq::SET_VRING_BASE);
        serves_again(&bench);
        assert_eq!(seen.last().unwrap().word(4), 0);
        still_serves(&bench);
        bench.end();
    }
}

#[test]
fn a_replacement_that_dies_once_it_has_the_rings_is_lost_as_any_other() {
    for step in [
        FrontendReq::SET_INFLIGHT_FD,
        FrontendReq::SET_VRING_NUM,
        FrontendReq::SET_VRING_ADDR,
        FrontendReq::SET_VRING_KICK,
        FrontendReq::SET_VRING_ENABLE,
    ] {
        let mut bench = serving(stands_at(0));
        bench.replace(dies_at(step));
        serves_again(&bench);
        assert_eq!(bench.lost(), "blk0: the back end closed the connection", "{step:?}");
        assert_eq!(bench.status(), SERVING, "{step:?}");
        bench.succeed(|_, _| None);
        serves_again(&bench);
        bench.end();
    }
}

#[test]
fn what_is_idle_is_replaced_and_what_is_lost_is_not() {
    let mut bench = bench(|_, _| None);
    bench.replace(|_, _| None);
    serves_again(&bench);
    bench.set_up();
    let seen = bench.until(FrontendReq::SET_VRING_ENABLE);
    assert!(!seen.iter().any(|seen| seen.is(FrontendReq::GET_VRING_BASE)), "there was nothing to drain");
    bench.end();

    let mut bench = serving(|stream, request| {
        request.is(FrontendReq::SET_VRING_ENABLE).then(|| {
            behave(stream, request);
            ControlFlow::Break(())
        })
    });
    bench.lost();
    bench.replace(|_, _| panic!("nobody speaks to it"));
    assert!(refused(&bench).contains("no back end"));
    assert!(bench.host.succeed(1, Succession::Abandoned));
    bench.end();
}
