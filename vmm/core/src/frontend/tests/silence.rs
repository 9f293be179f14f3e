//! Back ends that take a request and say nothing: the wait for them ends with its deadline, and no vCPU is a part of it.

use super::attached::{BAR, bench};
use super::peer::{back_end, behave};
use crate::frontend::connection::{Connection, Deadline};
use crate::frontend::session::{self, From, QueueEvents, Shares};
use crate::frontend::{Fault, InflightRegion, MemoryTable};
use crate::guest_memory::tests::guest;
use crate::interrupts::SharedEventFd;
use crate::virtio_pci::{Activation, Ring, VERSION_1};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;
use vhost::vhost_user::message::FrontendReq;

const SHORT: Duration = Duration::from_millis(20);

/// The requests behind the handshake, in their order.
const STEPS: [FrontendReq; 11] = [
    FrontendReq::SET_FEATURES,
    FrontendReq::SET_MEM_TABLE,
    FrontendReq::SET_INFLIGHT_FD,
    FrontendReq::SET_VRING_NUM,
    FrontendReq::SET_VRING_BASE,
    FrontendReq::SET_VRING_ADDR,
    FrontendReq::SET_VRING_CALL,
    FrontendReq::SET_VRING_KICK,
    FrontendReq::SET_VRING_ENABLE,
    FrontendReq::SET_CONFIG,
    FrontendReq::GET_VRING_BASE,
];

fn shares() -> Shares {
    let events = |count| (0..count).map(|_| SharedEventFd::new().unwrap()).collect();
    Shares {
        memory: Arc::new(MemoryTable::of(&guest(1 << 20)).unwrap()),
        events: QueueEvents { kicks: events(1), calls: events(2) },
        inflight: Some(InflightRegion::new(1, 2).unwrap()),
    }
}

/// All that is said to a back end until its ring is stopped.
fn life(connection: &Connection, shares: &Shares) -> Result<(), Fault> {
    let ring = Ring { index: 0, size: 2, descriptors: 0x1000, available: 0x2000, used: 0x3000 };
    let activation = Activation { features: VERSION_1, rings: vec![ring] };
    session::prepare(connection, &activation, shares, SHORT)?;
    session::start(connection, &activation, shares, From::Reset, SHORT)?;
    session::write_config(connection, 32, &[1], Deadline::after(SHORT))?;
    session::stop(connection, &activation.rings, SHORT).map(drop)
}

#[test]
fn silence_behind_the_handshake_ends_with_the_deadline_too() {
    let shares = shares();
    for step in STEPS {
        let (socket, thread) = back_end(move |stream, request| {
            if !request.is(step) {
                behave(stream, request);
            }
            ControlFlow::Continue(())
        });
        let mut connection = Connection::new(socket);
        connection.set_acknowledged(true);
        let result = life(&connection, &shares);
        assert!(matches!(result, Err(Fault::Deadline(_))), "{step:?}: {result:?}");
        drop(connection);
        thread.join().unwrap();
    }
}

/// With a vCPU that waited, this would: the back end is let go only behind the accesses.
#[test]
fn no_access_waits_for_a_back_end_that_says_nothing() {
    for step in STEPS {
        let (release, released) = channel::<()>();
        let bench = bench(move |_, request| {
            if request.is(step) {
                let _released = released.recv();
            }
            None
        });
        bench.set_up();
        if matches!(step, FrontendReq::SET_CONFIG | FrontendReq::GET_VRING_BASE) {
            bench.until(FrontendReq::SET_VRING_ENABLE);
            let (offset, value) = if step == FrontendReq::SET_CONFIG { (0x2020, 1) } else { (0x14, 0) };
            bench.write(offset, value, 1);
        }
        bench.until(step);
        for offset in (0..0x8000).step_by(4) {
            assert!(bench.host.mmio_read(BAR + offset, &mut [0; 4]).is_some());
        }
        for _ in 0..1000 {
            for (offset, width) in [(0x3000, 2), (0x2020, 1), (0x08, 4), (0x0C, 4), (0x16, 2), (0x14, 1)] {
                assert!(bench.write(offset, 0, width).is_some());
            }
        }
        assert_ne!(bench.status(), 0, "{step:?}: the reset has to wait, not who asks for it");
        drop(release);
        bench.await_status(0);
        assert!(bench.told.try_recv().is_err(), "{step:?}: nothing is lost");
        bench.end();
    }
}
