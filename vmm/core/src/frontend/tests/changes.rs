//! A back end says on its channel that its configuration has changed, or something else.

use super::attached::{BAR, Bench, bench, bench_of, bench_with};
use super::peer::{PROTOCOL_FEATURES, REPLY, Request, message};
use super::succession::{dies_at, says, serves_again};
use crate::guest_memory::tests::{memfd, sealed};
use crate::pluggable_memory::PluggedSize;
use protocol::MemoryRegion;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::SeqCst;
use vhost::vhost_user::message::{FrontendReq, VhostUserProtocolFeatures};

type Special = Option<ControlFlow<()>>;

const BALLOON: u16 = 5;
const MEM: u16 = 24;
const DEADLY: u8 = 0xEE;
const CHANGE: u32 = 2;
const GENERATION: u64 = 0x15;
const ISR: u64 = 0x1000;
const CONFIG: u64 = 0x2000;

/// Each byte of whose configuration is what `value` is, and that dies when it is asked for one that is [`DEADLY`].
fn configured(value: Arc<AtomicU8>) -> impl FnMut(&mut UnixStream, &Request) -> Special + Send + 'static {
    move |stream, request| {
        request.is(FrontendReq::GET_CONFIG).then(|| {
            let value = value.load(SeqCst);
            if value == DEADLY {
                return ControlFlow::Break(());
            }
            let mut body = request.body.clone();
            body[12..].fill(value);
            let _gone = stream.write_all(&message(request.id, REPLY, &body));
            ControlFlow::Continue(())
        })
    }
}

impl Bench {
    fn announce(&self, flags: u32) {
        (&self.channel).write_all(&message(CHANGE, flags, &[])).unwrap();
    }

    fn byte(&self, offset: u64) -> u8 {
        let mut byte = [0];
        self.host.mmio_read(BAR + offset, &mut byte);
        byte[0]
    }

    fn await_byte(&self, offset: u64, wanted: u8) {
        while self.byte(offset) != wanted {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_driver_reads_what_is_plugged_at_that_moment_and_where_the_core_mapped_it() {
    let page = memfd(4096, sealed());
    let file = File::from(page.try_clone().unwrap());
    let region = MemoryRegion { guest_phys: 20 << 30, size: 64 << 20 };
    let special = configured(Arc::new(AtomicU8::new(7)));
    let bench = bench_with(MEM, Some((region, PluggedSize::map(page).unwrap())), special);
    let words = || {
        let mut words = [[0; 8]; 7];
        for (offset, word) in (CONFIG..).step_by(8).zip(&mut words) {
            bench.host.mmio_read(BAR + offset, word);
        }
        words.map(u64::from_le_bytes)
    };
    let (theirs, generation) = (u64::from_le_bytes([7; 8]), bench.byte(GENERATION));
    for plugged in [0, 2 << 20, u64::MAX] {
        file.write_all_at(&plugged.to_le_bytes(), 0).unwrap();
        let MemoryRegion { guest_phys, size } = region;
        assert_eq!(words(), [theirs, theirs, guest_phys, size, size, plugged, theirs]);
    }
    assert_eq!(bench.byte(GENERATION), generation, "the driver has made the change");
    bench.end();
}

#[test]
fn a_change_is_read_shown_and_counted() {
    let value = Arc::new(AtomicU8::new(1));
    let bench = bench(configured(Arc::clone(&value)));
    let seen = bench.until(FrontendReq::GET_CONFIG);
    let brought = seen.iter().find(|seen| seen.is(FrontendReq::SET_BACKEND_REQ_FD)).unwrap();
    assert_eq!((brought.fds, brought.body.len()), (1, 0));
    bench.set_up();
    bench.until(FrontendReq::SET_VRING_ENABLE);
    let generation = bench.byte(GENERATION);
    for flags in [1, 1 | 8] {
        let new = value.fetch_add(1, SeqCst) + 1;
        bench.announce(flags);
        bench.await_byte(CONFIG, new);
        assert_eq!(bench.byte(ISR), 2, "the configuration interrupt");
    }
    assert_eq!(bench.byte(GENERATION), generation + 2);
    let mut answer = [0; 20];
    bench.channel.set_nonblocking(false).unwrap();
    (&bench.channel).read_exact(&mut answer).unwrap();
    assert_eq!(answer[..], message(CHANGE, REPLY, &[0; 8]), "the one that was asked for");
    // Nothing has changed, whatever is said.
    bench.announce(1);
    bench.until(FrontendReq::GET_CONFIG);
    bench.write(0x14, 0, 1);
    bench.await_status(0);
    assert_eq!((bench.byte(GENERATION), bench.byte(ISR)), (generation + 2, 0));
    assert!(bench.told.try_recv().is_err(), "nothing is lost");
    bench.end();
}

#[test]
fn whatever_else_is_said_loses_the_back_end_and_its_successor_is_heard() {
    let value = Arc::new(AtomicU8::new(1));
    let mut bench = bench(configured(Arc::clone(&value)));
    bench.set_up();
    bench.until(FrontendReq::SET_VRING_ENABLE);
    let unknown = message(3, 1, &[0; 40]);
    // VHOST_USER_BACKEND_SHMEM_MAP, of a window that nobody has.
    let map = message(9, 1, &[0xFF; 40]);
    let long = message(CHANGE, 1, &[0; 100]);
    let cut = [message(CHANGE, 1, &[]), message(99, 1, &[])[..5].to_vec()].concat();
    for (said, why) in [
        (&unknown, "asked for 3"),
        (&map, "asked for 9"),
        (&long, "100 bytes"),
        (&cut, "closed the connection"),
    ] {
        value.store(DEADLY, SeqCst);
        (&bench.channel).write_all(said).unwrap();
        let text = bench.lost();
        assert!(text.contains(why), "{text}");
        value.store(1, SeqCst);
        bench.succeed(configured(Arc::clone(&value)));
        serves_again(&bench);
    }
    value.store(7, SeqCst);
    bench.announce(1);
    bench.await_byte(CONFIG, 7);
    bench.write(0x14, 0, 1);
    bench.await_status(0);
    bench.end();
}

#[test]
fn what_the_user_may_set_may_differ_after_a_death_and_is_shown() {
    let value = Arc::new(AtomicU8::new(1));
    let mut bench = bench_of(BALLOON, dies_at(FrontendReq::SET_VRING_ENABLE));
    bench.set_up();
    bench.lost();
    bench.succeed(configured(Arc::clone(&value)));
    let text = bench.lost();
    assert!(text.contains("another configuration") && text.contains("byte 4"), "{text}");
    bench.succeed(|stream, request| {
        request.is(FrontendReq::GET_CONFIG).then(|| {
            let mut body = request.body.clone();
            body[12..].fill(0x5A);
            body[12..16].fill(9);
            stream.write_all(&message(request.id, REPLY, &body)).unwrap();
            ControlFlow::Continue(())
        })
    });
    serves_again(&bench);
    assert_eq!((bench.byte(CONFIG), bench.byte(CONFIG + 4)), (9, 0x5A));
    bench.write(0x14, 0, 1);
    bench.await_status(0);
    bench.end();
}

#[test]
fn a_lie_about_the_configuration_does_not_keep_out_who_tells_the_truth() {
    let value = Arc::new(AtomicU8::new(1));
    let mut bench = bench(configured(Arc::clone(&value)));
    bench.set_up();
    bench.until(FrontendReq::SET_VRING_ENABLE);
    value.store(0x66, SeqCst);
    bench.announce(1);
    bench.await_byte(CONFIG, 0x66);
    value.store(DEADLY, SeqCst);
    bench.announce(1);
    bench.lost();
    for (new, fine) in [(0x67, false), (1, true)] {
        value.store(new, SeqCst);
        bench.succeed(configured(Arc::clone(&value)));
        if fine {
            serves_again(&bench);
        } else {
            assert!(bench.lost().contains("another configuration"));
        }
    }
    assert_eq!(bench.byte(CONFIG), 1, "and the driver is shown it");
    bench.write(0x14, 0, 1);
    bench.await_status(0);
    bench.end();
}

#[test]
fn a_back_end_without_the_channel_is_offered_none_and_heard_no_more() {
    let without = PROTOCOL_FEATURES & !VhostUserProtocolFeatures::BACKEND_REQ.bits();
    let bench = bench(says(FrontendReq::GET_PROTOCOL_FEATURES, without));
    bench.set_up();
    // It is not looked at, whatever comes there.
    (&bench.channel).write_all(&[0xFF; 100]).unwrap();
    let seen = bench.until(FrontendReq::SET_VRING_ENABLE);
    assert!(!seen.iter().any(|seen| seen.is(FrontendReq::SET_BACKEND_REQ_FD)), "{seen:?}");
    bench.write(0x14, 0, 1);
    bench.await_status(0);
    assert!(bench.told.try_recv().is_err());
    bench.end();
}
