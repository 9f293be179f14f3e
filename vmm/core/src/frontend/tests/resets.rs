//! A driver begins anew: whoever serves, or serves next, hears of that before anything of the next driver's.

use super::attached::{bench, bench_of};
use super::peer::{PROTOCOL_FEATURES, REPLY, Request, message};
use super::succession::{dies_at, serves_again, shown, with_mode};
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::SeqCst;
use vhost::vhost_user::message::{FrontendReq, VhostUserProtocolFeatures};

const WRITEBACK: u64 = 0x2000 + 32;

fn resets(seen: &[Request]) -> usize {
    seen.iter().filter(|request| request.is(FrontendReq::RESET_DEVICE)).count()
}

/// Whose driver may set one byte, which is 0 after a reset.
fn settable(value: Arc<AtomicU8>) -> impl FnMut(&mut UnixStream, &Request) -> Option<ControlFlow<()>> + Send {
    let mut serve = with_mode(Arc::clone(&value));
    move |stream, request| {
        if request.is(FrontendReq::RESET_DEVICE) {
            value.store(0, SeqCst);
        }
        serve(stream, request)
    }
}

#[test]
fn every_type_hears_of_it_before_the_driver_sees_its_reset() {
    for id in [1, 2, 3, 5, 8, 19, 26] {
        let bench = bench_of(id, |_, _| None);
        bench.set_up();
        let seen = bench.until(FrontendReq::SET_FEATURES);
        assert_eq!(resets(&seen), 1, "{id}: another machine may have had it before");
        bench.until(FrontendReq::SET_VRING_ENABLE);
        bench.write(0x14, 0, 1);
        bench.await_status(0);
        let seen: Vec<Request> = bench.requests.try_iter().collect();
        assert_eq!(resets(&seen), 1, "{id}");
        let place = |request| seen.iter().rposition(|seen| seen.is(request));
        assert!(place(FrontendReq::GET_VRING_BASE) < place(FrontendReq::RESET_DEVICE), "{id}: {seen:?}");
        bench.end();
    }
}

#[test]
fn what_an_earlier_driver_set_is_not_shown_to_the_next_and_what_that_sets_stays() {
    let bench = bench(settable(Arc::default()));
    bench.set_up();
    bench.write(WRITEBACK, 7, 1);
    bench.until(FrontendReq::SET_CONFIG);
    bench.write(0x14, 0, 1);
    bench.await_status(0);
    assert_eq!(shown(&bench), 0);
    // Before it is started, as a driver may.
    bench.write(0x14, 1, 1);
    bench.write(0x14, 3, 1);
    bench.write(WRITEBACK, 9, 1);
    bench.until(FrontendReq::SET_CONFIG);
    bench.set_up();
    let seen = bench.until(FrontendReq::SET_VRING_ENABLE);
    assert_eq!((resets(&seen), shown(&bench)), (0, 9));
    bench.end();
}

#[test]
fn a_back_end_that_dies_of_it_has_a_successor_that_hears_of_it() {
    let mut bench = bench(dies_at(FrontendReq::RESET_DEVICE));
    bench.set_up();
    bench.lost();
    bench.until(FrontendReq::RESET_DEVICE);
    bench.succeed(|_, _| None);
    let seen = bench.until(FrontendReq::SET_FEATURES);
    assert_eq!(resets(&seen), 1);
    serves_again(&bench);
    bench.end();
}

#[test]
fn a_successor_hears_of_it_before_what_the_next_driver_wrote_meanwhile() {
    let value: Arc<AtomicU8> = Arc::default();
    let (mut serve, mut dies) = (settable(Arc::clone(&value)), dies_at(FrontendReq::GET_VRING_BASE));
    let mut bench = bench(move |stream, request| dies(stream, request).or_else(|| serve(stream, request)));
    bench.set_up();
    bench.until(FrontendReq::SET_VRING_ENABLE);
    bench.write(0x14, 0, 1);
    bench.lost();
    bench.await_status(0);
    bench.write(0x14, 1, 1);
    bench.write(0x14, 3, 1);
    bench.write(WRITEBACK, 1, 1);
    bench.succeed(settable(Arc::clone(&value)));
    serves_again(&bench);
    let seen: Vec<Request> = bench.requests.try_iter().collect();
    assert_eq!((resets(&seen), value.load(SeqCst), shown(&bench)), (1, 1, 1));
    bench.end();
}

#[test]
fn who_does_not_want_to_hear_of_it_does_not() {
    let bench = bench(|stream, request| {
        request.is(FrontendReq::GET_PROTOCOL_FEATURES).then(|| {
            let offered = PROTOCOL_FEATURES & !VhostUserProtocolFeatures::RESET_DEVICE.bits();
            let _gone = stream.write_all(&message(request.id, REPLY, &offered.to_ne_bytes()));
            ControlFlow::Continue(())
        })
    });
    for _ in 0..2 {
        bench.set_up();
        let seen = bench.until(FrontendReq::SET_VRING_ENABLE);
        assert_eq!(resets(&seen), 0);
        bench.write(0x14, 0, 1);
        bench.await_status(0);
    }
    assert_eq!(resets(&bench.requests.try_iter().collect::<Vec<_>>()), 0);
    bench.end();
}
