//! A back end dies and another takes its place: what that one is told, and what the driver sees.

use super::attached::{BAR, Bench, bench};
use super::peer::{FEATURES, PROTOCOL_FEATURES, REPLY, Request, behave, message};
use crate::frontend::Succession;
use protocol::{FromCore, Reconnected};
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::channel;
use vhost::vhost_user::message::FrontendReq;
use vm_memory::{Bytes, GuestAddress};

type Special = Option<ControlFlow<()>>;

const SERVING: u8 = 15;
const NEEDS_RESET: u8 = 0x4F;
const INFLIGHT_SHMFD: u64 = 1 << 12;
const BACKEND_REQ: u64 = 1 << 5;

/// Dies when it gets `last`.
pub fn dies_at(last: FrontendReq) -> impl FnMut(&mut UnixStream, &Request) -> Special + Send + 'static {
    move |_, request| request.is(last).then_some(ControlFlow::Break(()))
}

/// Answers `asked` with a value.
pub fn says(
    asked: FrontendReq,
    value: u64,
) -> impl FnMut(&mut UnixStream, &Request) -> Special + Send + 'static {
    move |stream, request| {
        request.is(asked).then(|| {
            let _gone = stream.write_all(&message(request.id, REPLY, &value.to_ne_bytes()));
            ControlFlow::Continue(())
        })
    }
}

pub fn serves_again(bench: &Bench) {
    assert_eq!(bench.told.recv().unwrap(), FromCore::Reconnected(Reconnected { slot: 1 }));
}

/// A bench whose first back end is dead after it served.
fn bereft() -> Bench {
    let bench = bench(|stream, request| {
        request.is(FrontendReq::SET_VRING_ENABLE).then(|| {
            behave(stream, request);
            ControlFlow::Break(())
        })
    });
    bench.set_up();
    bench.until(FrontendReq::SET_VRING_ENABLE);
    assert_eq!(bench.lost(), "blk0: the back end closed the connection");
    bench
}

#[test]
fn a_successor_goes_on_where_the_used_ring_is_and_the_driver_sees_nothing() {
    let mut bench = bereft();
    // The used index of queue 1: indices run freely, and wrap.
    bench.memory.write_obj(0xFFFE_u16.to_le(), GuestAddress(0x3002)).unwrap();
    bench.succeed(|_, _| None);
    let seen = bench.until(FrontendReq::SET_VRING_ENABLE);
    serves_again(&bench);
    let of = |request| seen.iter().find(|seen| seen.is(request)).unwrap();
    assert_eq!(of(FrontendReq::SET_FEATURES).body, (1_u64 << 32 | 1 << 30).to_ne_bytes());
    assert_eq!(of(FrontendReq::SET_MEM_TABLE).fds, 1);
    assert_eq!(
        (of(FrontendReq::SET_VRING_BASE).word(0), of(FrontendReq::SET_VRING_BASE).word(4)),
        (1, 0xFFFE)
    );
    assert_eq!(of(FrontendReq::SET_VRING_NUM).word(4), 128);
    assert_eq!((of(FrontendReq::SET_VRING_KICK).fds, of(FrontendReq::SET_VRING_CALL).fds), (1, 1));
    let inflight = of(FrontendReq::SET_INFLIGHT_FD);
    assert_eq!((inflight.fds, inflight.body.len(), inflight.word(16)), (1, 24, 2 | 128 << 16));
    assert_eq!(bench.status(), SERVING);
    bench.end();
}

/// What a back end has scribbled into the rings the core does not read, but for one index, of which any value will do.
#[test]
fn rings_full_of_lies_are_the_drivers_and_the_successors_to_judge() {
    let mut bench = bereft();
    bench.memory.write_slice(&[0xFF; 0x4000], GuestAddress(0x1000)).unwrap();
    bench.succeed(|_, _| None);
    let seen = bench.until(FrontendReq::SET_VRING_BASE);
    assert_eq!(seen.last().unwrap().word(4), 0xFFFF);
    serves_again(&bench);
    assert_eq!(bench.status(), SERVING);
    bench.write(0x14, 0, 1);
    bench.await_status(0);
    assert!(bench.told.try_recv().is_err());
    bench.end();
}

#[test]
fn a_successor_may_die_at_any_step_and_the_next_one_serves() {
    let mut bench = bereft();
    for step in [
        FrontendReq::GET_FEATURES,
        FrontendReq::SET_OWNER,
        FrontendReq::GET_PROTOCOL_FEATURES,
        FrontendReq::SET_PROTOCOL_FEATURES,
        FrontendReq::GET_QUEUE_NUM,
        FrontendReq::GET_CONFIG,
        FrontendReq::SET_FEATURES,
        FrontendReq::SET_MEM_TABLE,
        FrontendReq::SET_INFLIGHT_FD,
        FrontendReq::SET_VRING_NUM,
        FrontendReq::SET_VRING_BASE,
        FrontendReq::SET_VRING_ADDR,
        FrontendReq::SET_VRING_CALL,
        FrontendReq::SET_VRING_KICK,
        FrontendReq::SET_VRING_ENABLE,
    ] {
        bench.succeed(dies_at(step));
        assert_eq!(bench.lost(), "blk0: the back end closed the connection", "{step:?}");
        assert_eq!(bench.status(), SERVING, "{step:?}");
    }
    bench.succeed(|_, _| None);
    serves_again(&bench);
    bench.end();
}

#[test]
fn a_successor_that_is_another_device_is_refused_and_the_next_one_serves() {
    let mut bench = bereft();
    let fewer = [
        (FrontendReq::GET_FEATURES, FEATURES & !(1 << 32), "VERSION_1"),
        (FrontendReq::GET_PROTOCOL_FEATURES, PROTOCOL_FEATURES & !INFLIGHT_SHMFD, "INFLIGHT_SHMFD"),
        (FrontendReq::GET_QUEUE_NUM, 1, "offers 1 queues"),
    ];
    for (asked, value, why) in fewer {
        bench.succeed(says(asked, value));
        let text = bench.lost();
        assert!(text.contains(why), "{text}");
    }
    bench.succeed(|stream, request| {
        request.is(FrontendReq::GET_CONFIG).then(|| {
            let mut body = request.body.clone();
            body[12..].fill(0x5A);
            body[12 + 7] = 0;
            stream.write_all(&message(request.id, REPLY, &body)).unwrap();
            ControlFlow::Continue(())
        })
    });
    let text = bench.lost();
    assert!(text.contains("another configuration") && text.contains("byte 7"), "{text}");
    assert_eq!(bench.status(), SERVING);
    bench.succeed(|_, _| None);
    serves_again(&bench);
    bench.end();
}

/// A disk of so many sectors, and the rest of its configuration as ever.
fn with_capacity(sectors: u64) -> impl FnMut(&mut UnixStream, &Request) -> Special + Send + 'static {
    move |stream, request| {
        request.is(FrontendReq::GET_CONFIG).then(|| {
            let mut body = request.body.clone();
            body[12..].fill(0x5A);
            body[12..20].copy_from_slice(&sectors.to_le_bytes());
            stream.write_all(&message(request.id, REPLY, &body)).unwrap();
            ControlFlow::Continue(())
        })
    }
}

#[test]
fn a_disk_may_have_grown_when_its_successor_comes_and_a_smaller_one_is_another() {
    let capacity = |bench: &Bench| {
        let mut bytes = [0; 8];
        bench.host.mmio_read(BAR + 0x2000, &mut bytes[..4]);
        bench.host.mmio_read(BAR + 0x2004, &mut bytes[4..]);
        u64::from_le_bytes(bytes)
    };
    let mut bench = bereft();
    let first = u64::from_le_bytes([0x5A; 8]);
    assert_eq!(capacity(&bench), first);
    let dies = |sectors| {
        let (mut serve, mut die) = (with_capacity(sectors), dies_at(FrontendReq::SET_VRING_ENABLE));
        move |stream: &mut UnixStream, request: &Request| {
            die(stream, request).or_else(|| serve(stream, request))
        }
    };
    for (sectors, fine) in [
        (first - 1, false),
        (first + 1, true),
        (first - 1, false),
        (0, false),
        (u64::MAX, true),
        (first, true),
    ] {
        bench.succeed(dies(sectors));
        let text = bench.lost();
        assert_eq!(!text.contains("another configuration"), fine, "{text}");
        assert!(!fine || capacity(&bench) == sectors, "{sectors}");
    }
    // One of which the core cannot know that it would have said so.
    let (mut serve, mut says) = (
        with_capacity(first + 1),
        says(FrontendReq::GET_PROTOCOL_FEATURES, PROTOCOL_FEATURES & !BACKEND_REQ),
    );
    bench.succeed(move |stream, request| says(stream, request).or_else(|| serve(stream, request)));
    assert!(bench.lost().contains("another configuration"));
    bench.succeed(with_capacity(first + 2));
    serves_again(&bench);
    assert_eq!((capacity(&bench), bench.status()), (first + 2, SERVING));
    bench.end();
}

#[test]
fn what_a_driver_accepted_must_be_offered_again_and_the_rest_is_offered_no_more() {
    let offered = |bench: &Bench| {
        bench.write(0x00, 0, 4);
        let mut features = [0; 4];
        bench.host.mmio_read(BAR + 4, &mut features);
        u32::from_le_bytes(features)
    };
    let mut bench = bereft();
    assert_eq!(offered(&bench), 1 << 29 | 1 << 9);
    // The driver accepted VERSION_1 alone.
    bench.succeed(says(FrontendReq::GET_FEATURES, FEATURES & !(1 << 29)));
    serves_again(&bench);
    assert_eq!(offered(&bench), 1 << 9);
    bench.end();
}

#[test]
fn a_reset_while_nobody_serves_is_done_and_what_is_set_up_then_waits() {
    let mut bench = bereft();
    bench.memory.write_obj(7_u16.to_le(), GuestAddress(0x3002)).unwrap();
    bench.write(0x14, 0, 1);
    bench.await_status(0);
    bench.set_up();
    assert_eq!(bench.status(), SERVING);
    bench.succeed(|_, _| None);
    let seen = bench.until(FrontendReq::SET_VRING_ENABLE);
    serves_again(&bench);
    let base = seen.iter().find(|seen| seen.is(FrontendReq::SET_VRING_BASE)).unwrap();
    assert_eq!(base.word(4), 0, "a driver that begins anew begins at 0");
    bench.write(0x14, 0, 1);
    bench.await_status(0);
    bench.end();
}

#[test]
fn an_idle_device_has_a_successor_too() {
    let mut bench = bench(dies_at(FrontendReq::SET_CONFIG));
    bench.write(0x14, 1, 1);
    bench.write(0x14, 3, 1);
    bench.write(0x2000 + 32, 1, 1);
    bench.lost();
    bench.succeed(|_, _| None);
    serves_again(&bench);
    let mut byte = [0];
    bench.host.mmio_read(BAR + 0x2000 + 32, &mut byte);
    assert_eq!(byte, [0x5A], "what the device has the driver reads back");
    bench.end();
}

/// Has a configuration of zeroes but for byte 32, which can be written.
pub fn with_mode(mode: Arc<AtomicU8>) -> impl FnMut(&mut UnixStream, &Request) -> Special + Send + 'static {
    move |stream, request| {
        if request.is(FrontendReq::SET_CONFIG) && request.word(0) == 32 {
            mode.store(request.body[12], SeqCst);
        }
        request.is(FrontendReq::GET_CONFIG).then(|| {
            let mut body = request.body.clone();
            body[12..].fill(0);
            body[12 + 32] = mode.load(SeqCst);
            let _gone = stream.write_all(&message(request.id, REPLY, &body));
            ControlFlow::Continue(())
        })
    }
}

pub fn shown(bench: &Bench) -> u8 {
    let mut byte = [0xEE];
    bench.host.mmio_read(BAR + 0x2000 + 32, &mut byte);
    byte[0]
}

#[test]
fn a_write_that_a_back_end_did_not_live_to_confirm_its_successor_makes_before_it_has_the_rings() {
    // Whether it was kept or not, and whether the successor begins with it or not.
    for kept in [0, 1] {
        let mode = Arc::new(AtomicU8::new(1));
        let (mut serve, mut dies) = (with_mode(Arc::clone(&mode)), dies_at(FrontendReq::SET_CONFIG));
        let mut bench =
            bench(move |stream, request| dies(stream, request).or_else(|| serve(stream, request)));
        bench.set_up();
        bench.until(FrontendReq::SET_VRING_ENABLE);
        assert_eq!(shown(&bench), 1);
        bench.write(0x2000 + 32, 0, 1);
        assert_eq!(shown(&bench), 1, "nobody has switched it off");
        bench.lost();
        mode.store(kept, SeqCst);
        let kicked = Arc::new(AtomicU8::new(0xEE));
        let (mut serve, seen, now) = (with_mode(Arc::clone(&mode)), Arc::clone(&kicked), mode);
        bench.succeed(move |stream, request| {
            if request.is(FrontendReq::SET_VRING_KICK) {
                seen.store(now.load(SeqCst), SeqCst);
            }
            serve(stream, request)
        });
        serves_again(&bench);
        assert_eq!((kicked.load(SeqCst), shown(&bench)), (0, 0));
        assert_eq!(bench.status(), SERVING);
        bench.end();
    }
}

#[test]
fn a_driver_that_begins_anew_does_not_change_what_became_of_a_write() {
    let mode = Arc::new(AtomicU8::new(1));
    let (mut serve, mut dies) = (with_mode(Arc::clone(&mode)), dies_at(FrontendReq::SET_CONFIG));
    let mut bench = bench(move |stream, request| dies(stream, request).or_else(|| serve(stream, request)));
    bench.set_up();
    bench.until(FrontendReq::SET_VRING_ENABLE);
    bench.write(0x2000 + 32, 0, 1);
    bench.lost();
    mode.store(0, SeqCst);
    bench.write(0x14, 0, 1);
    bench.await_status(0);
    bench.succeed(with_mode(mode));
    serves_again(&bench);
    bench.set_up();
    assert_eq!(shown(&bench), 0);
    bench.end();
}

#[test]
fn what_is_written_while_there_is_no_back_end_the_next_one_makes() {
    let mode = Arc::new(AtomicU8::new(0));
    let mut serve = with_mode(Arc::clone(&mode));
    let mut dies = dies_at(FrontendReq::GET_VRING_BASE);
    let mut bench = bench(move |stream, request| dies(stream, request).or_else(|| serve(stream, request)));
    bench.set_up();
    bench.until(FrontendReq::SET_VRING_ENABLE);
    // It dies of the reset, and the next driver writes while nobody is there.
    bench.write(0x14, 0, 1);
    bench.lost();
    bench.await_status(0);
    bench.write(0x14, 1, 1);
    bench.write(0x14, 3, 1);
    bench.write(0x2000 + 32, 1, 1);
    assert_eq!(shown(&bench), 1, "on is on at once");
    bench.succeed(with_mode(Arc::clone(&mode)));
    serves_again(&bench);
    assert_eq!((mode.load(SeqCst), shown(&bench)), (1, 1));
    bench.end();
}

#[test]
fn a_write_that_no_back_end_survives_is_dropped() {
    let mut bench = bench(dies_at(FrontendReq::SET_CONFIG));
    bench.set_up();
    bench.write(0x2000 + 32, 1, 1);
    bench.lost();
    bench.succeed(dies_at(FrontendReq::SET_CONFIG));
    bench.lost();
    bench.succeed(dies_at(FrontendReq::SET_CONFIG));
    serves_again(&bench);
    assert_eq!(shown(&bench), 0x5A);
    bench.end();
}

#[test]
fn a_device_that_is_given_up_needs_a_reset_and_stays_failed() {
    let mut bench = bereft();
    assert!(bench.host.succeed(1, Succession::Abandoned));
    bench.await_status(NEEDS_RESET);
    bench.write(0x14, 0, 1);
    bench.await_status(0);
    bench.set_up();
    bench.await_status(NEEDS_RESET);
    bench.succeed(|_, _| panic!("nobody speaks to it"));
    bench.write(0x14, 0, 1);
    bench.await_status(0);
    assert!(bench.told.try_recv().is_err());
    bench.end();
}

#[test]
fn a_driver_resets_what_hangs_and_is_given_up() {
    let mut bench = bench(|stream, request| {
        behave(stream, request);
        if request.is(FrontendReq::SET_VRING_ENABLE) {
            // Nobody asked for this. It keeps its connection and listens no more.
            stream.write_all(&message(request.id, REPLY, &[0; 8])).unwrap();
        }
        Some(ControlFlow::Continue(()))
    });
    bench.set_up();
    bench.until(FrontendReq::SET_VRING_ENABLE);
    bench.lost();
    assert!(bench.host.succeed(1, Succession::Abandoned));
    bench.await_status(NEEDS_RESET);
    bench.write(0x14, 0, 1);
    bench.await_status(0);
    bench.succeed(|_, _| panic!("nobody speaks to it"));
    bench.end();
}

#[test]
fn what_a_driver_has_set_up_outlives_a_back_end_that_dies_before_it_hears_of_it() {
    let (release, released) = channel::<()>();
    let (tell, told) = channel();
    let mut writes = 0;
    let mut bench = bench(move |stream, request| {
        if !request.is(FrontendReq::SET_CONFIG) {
            return None;
        }
        writes += 1;
        if writes == 2 {
            return Some(ControlFlow::Break(()));
        }
        tell.send(()).unwrap();
        released.recv().unwrap();
        behave(stream, request);
        Some(ControlFlow::Continue(()))
    });
    bench.write(0x14, 1, 1);
    bench.write(0x14, 3, 1);
    bench.write(0x2000 + 32, 1, 1);
    told.recv().unwrap();
    // While the front end waits for that: another write, and all that the driver has to set up.
    bench.write(0x2000 + 32, 1, 1);
    bench.set_up();
    release.send(()).unwrap();
    bench.lost();
    while bench.requests.try_recv().is_ok() {}
    bench.succeed(|_, _| None);
    serves_again(&bench);
    let seen: Vec<Request> = bench.requests.try_iter().collect();
    assert!(seen.iter().any(|seen| seen.is(FrontendReq::SET_VRING_ENABLE)), "nobody started it: {seen:?}");
    bench.end();
}

#[test]
fn without_an_account_of_requests_the_driver_begins_anew() {
    let no_account = |stream: &mut UnixStream, request: &Request| {
        says(FrontendReq::GET_PROTOCOL_FEATURES, PROTOCOL_FEATURES & !INFLIGHT_SHMFD)(stream, request)
    };
    let mut bench = bench(move |stream, request| {
        if request.is(FrontendReq::SET_VRING_ENABLE) {
            return Some(ControlFlow::Break(()));
        }
        no_account(stream, request)
    });
    bench.set_up();
    let before = bench.until(FrontendReq::SET_VRING_ENABLE);
    assert!(!before.iter().any(|seen| seen.is(FrontendReq::SET_INFLIGHT_FD)));
    let text = bench.lost();
    assert!(text.contains("kept no account") && text.contains("reset the device"), "{text}");
    bench.await_status(NEEDS_RESET);
    bench.succeed(no_account);
    serves_again(&bench);
    assert_eq!(bench.status(), NEEDS_RESET);
    bench.write(0x14, 0, 1);
    bench.await_status(0);
    bench.set_up();
    let after = bench.until(FrontendReq::SET_VRING_ENABLE);
    let base = after.iter().rfind(|seen| seen.is(FrontendReq::SET_VRING_BASE)).unwrap();
    assert_eq!((base.word(4), bench.status()), (0, SERVING));
    bench.end();
}

#[test]
fn there_is_no_successor_for_a_slot_without_a_device() {
    let bench = bench(|_, _| None);
    for slot in [0, 2, 31, 32, 255] {
        assert!(!bench.host.succeed(slot, Succession::Abandoned), "{slot}");
    }
    bench.end();
}
