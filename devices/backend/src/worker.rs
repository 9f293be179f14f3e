//! One thread per queue, for the life of the process: it serves the ring that it was given, or waits for one.
//!
//! It waits for one thing beside orders: the driver's kick, or, where there is room for it, an arrival, or a question where
//! there is somebody to ask. What could not be
//! used is not waited for, so that it does not wake the thread again and again. A ring that may not do more for now waits
//! for that time to pass, and its driver's kicks with it.
//!
//! Threads are started before the serving filter, which has no clone. The control thread changes nothing
//! in a ring that runs: it stops the worker, which hands the ring back drained (no request taken and not given
//! back), and starts it with another. That is how GET_VRING_BASE, a new kick descriptor and a new memory table all
//! work, and why no lock is held while requests are served.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

use crate::counters::QueueCounters;
use crate::device::Choice;
use crate::file_io::{is_emptied_by_one_read, take_event};
use crate::inflight::Kept;
use crate::pace::Lane;
use crate::ring::{Progress, Ring};
use crate::{Error, Handler, Holder, Receiver, Service, log};

/// What the two threads tell each other. One at a time: the control thread waits for each answer.
enum Slot {
    Empty,
    Start(Box<Ring>),
    Stop,
    Stopped(Option<Box<Ring>>),
    Confined(Result<(), Error>),
}

struct Shared {
    slot: Mutex<Slot>,
    changed: Condvar,
    /// Set with each order, so that a busy worker looks into the slot.
    ordered: AtomicBool,
    wake: EventFd,
    counters: QueueCounters,
}

impl Shared {
    /// A panic ends the process, so a poisoned lock is never seen.
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, slot: Slot) {
        *self.lock() = slot;
        self.changed.notify_all();
    }
}

/// The control thread's end.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    kept: KeptByFeatures,
}

/// Whether a driver that accepted these features has the second of two.
type IsSecond = fn(u64) -> bool;

/// What rings keep in the in-flight area, for a service and what it is for some drivers.
struct KeptByFeatures {
    usual: Kept,
    /// The feature with which its rings keep nothing, if there is one.
    held_with: u64,
    other: Option<(IsSecond, Kept)>,
}

impl KeptByFeatures {
    fn of(service: &Service) -> Self {
        let usual = |usual| Self { usual, held_with: 0, other: None };
        match service {
            Service::ByFeatures(choice) => {
                let (first, second) = &choice.services;
                let second = (choice.second, Self::of(second).usual);
                Self { other: Some(second), ..usual(Self::of(first).usual) }
            }
            Service::Requests(handler) => usual(Self::of_requests(handler.as_ref())),
            Service::Arrivals(_) => usual(Kept::Nothing),
            Service::Held { feature, otherwise, .. } => {
                Self { held_with: *feature, ..usual(Self::of_requests(otherwise.as_ref())) }
            }
        }
    }

    fn of_requests(handler: &dyn Handler) -> Kept {
        if handler.repeats() { Kept::Requests } else { Kept::RequestsOnce }
    }
}

impl Worker {
    /// Starts the thread. It calls `confine` first, and serves only when that succeeds.
    pub(crate) fn spawn(
        service: Service,
        lane: Lane,
        confine: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Result<Self, Error> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_value_and_flags(0, flags).map_err(Error::system("create an eventfd"))?;
        let shared = Arc::new(Shared {
            slot: Mutex::new(Slot::Empty),
            changed: Condvar::new(),
            ordered: AtomicBool::new(false),
            wake,
            counters: QueueCounters::default(),
        });
        let kept = KeptByFeatures::of(&service);
        let theirs = Arc::clone(&shared);
        let body = move || {
            theirs.put(Slot::Confined(confine()));
            run(&theirs, service, &lane);
        };
        std::thread::Builder::new().spawn(body).map_err(|error| Error::System {
            action: "start a queue's thread",
            errno: Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        })?;
        Ok(Self { shared, kept })
    }

    /// What its rings keep in the in-flight area, for a driver that accepted `features`.
    pub(crate) fn kept(&self, features: u64) -> Kept {
        match self.kept.other {
            _ if features & self.kept.held_with != 0 => Kept::Nothing,
            Some((is_other, kept)) if is_other(features) => kept,
            _ => self.kept.usual,
        }
    }

    /// Waits until the thread is confined.
    pub(crate) fn confined(&self) -> Result<(), Error> {
        let mut slot = self.shared.lock();
        loop {
            match std::mem::replace(&mut *slot, Slot::Empty) {
                Slot::Confined(result) => return result,
                other => *slot = other,
            }
            slot = self.shared.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Serves `ring` from now on. The worker must have been stopped.
    pub(crate) fn start(&self, ring: Ring) {
        self.order(Slot::Start(Box::new(ring)));
        let mut slot = self.shared.lock();
        while matches!(*slot, Slot::Start(_)) {
            slot = self.shared.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Stops serving and returns the ring, with nothing in flight unless it is broken.
    pub(crate) fn stop(&self) -> Option<Box<Ring>> {
        self.order(Slot::Stop);
        let mut slot = self.shared.lock();
        loop {
            match std::mem::replace(&mut *slot, Slot::Empty) {
                Slot::Stopped(ring) => return ring,
                other => *slot = other,
            }
            slot = self.shared.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn counters(&self) -> &QueueCounters {
        &self.shared.counters
    }

    fn order(&self, slot: Slot) {
        self.shared.put(slot);
        self.shared.ordered.store(true, Release);
        let _ = self.shared.wake.write(1);
    }
}

/// What a thread waits for beside orders.
enum Awaited<'a> {
    Nothing,
    Time(Duration),
    Kick(BorrowedFd<'a>),
    Arrival(BorrowedFd<'a>),
}

/// The thread's life.
fn run(shared: &Shared, mut service: Service, lane: &Lane) {
    let mut current: Option<Box<Ring>> = None;
    let mut broken = false;
    loop {
        if shared.ordered.swap(false, Acquire) {
            take_event(&shared.wake);
            if obey(shared, &mut current) {
                broken = current.as_deref().is_some_and(keeps_busy);
            }
            // It may be that nothing is served any more, and others must not wait for that.
            lane.leave();
        }
        let mut progress = Progress::Idle;
        if let Some(ring) = current.as_deref_mut().filter(|_| !broken) {
            match serve(ring, &mut service, shared, lane) {
                Ok(Progress::Interrupted) => continue,
                Ok(made) => progress = made,
                Err(error) => {
                    log::line(&error);
                    ring.report_broken();
                    lane.leave();
                    broken = true;
                }
            }
        }
        let ring = current.as_deref().filter(|_| !broken);
        let awaited = match (ring.and_then(|ring| Some((ring, ring.events.kick.as_ref()?))), progress) {
            (None, _) => Awaited::Nothing,
            (Some(_), Progress::Paced(time)) => Awaited::Time(time),
            (Some((ring, kick)), Progress::Waiting) => match whom(&mut service, ring.features()) {
                Some(Either::Receiver(receiver)) => Awaited::Arrival(receiver.source()),
                Some(Either::Holder(holder)) => Awaited::Arrival(holder.source()),
                _ => Awaited::Kick(kick.as_fd()),
            },
            (Some((_, kick)), _) => Awaited::Kick(kick.as_fd()),
        };
        if !wait(shared, &awaited) {
            if let Some(ring) = ring {
                ring.report_broken();
            }
            broken = true;
        }
    }
}

fn serve(ring: &mut Ring, service: &mut Service, shared: &Shared, lane: &Lane) -> Result<Progress, Error> {
    let (counters, stop) = (&shared.counters, &shared.ordered);
    match whom(service, ring.features()) {
        Some(Either::Handler(handler)) => ring.serve(handler, counters, stop, lane),
        Some(Either::Receiver(receiver)) => ring.receive(receiver, counters, stop, lane),
        Some(Either::Holder(holder)) => ring.hold(holder, counters, stop),
        None => Ok(Progress::Idle),
    }
}

/// Who serves a ring.
pub(crate) enum Either<'a> {
    Handler(&'a mut dyn Handler),
    Receiver(&'a mut dyn Receiver),
    Holder(&'a mut dyn Holder),
}

/// Who of `service` serves a driver that accepted `features`. None for a choice within a choice, which there is not.
pub(crate) fn whom(service: &mut Service, features: u64) -> Option<Either<'_>> {
    let chosen = match service {
        Service::ByFeatures(choice) => {
            let Choice { second, services } = choice.as_mut();
            if second(features) { &mut services.1 } else { &mut services.0 }
        }
        only => only,
    };
    match chosen {
        Service::Requests(handler) => Some(Either::Handler(handler.as_mut())),
        Service::Arrivals(receiver) => Some(Either::Receiver(receiver.as_mut())),
        Service::Held { holder, feature, .. } if features & *feature != 0 => {
            Some(Either::Holder(holder.as_mut()))
        }
        Service::Held { otherwise, .. } => Some(Either::Handler(otherwise.as_mut())),
        Service::ByFeatures(_) => None,
    }
}

/// Returns whether there is another ring to serve.
fn obey(shared: &Shared, current: &mut Option<Box<Ring>>) -> bool {
    let mut slot = shared.lock();
    let mut starts = false;
    match std::mem::replace(&mut *slot, Slot::Empty) {
        Slot::Start(ring) => {
            *current = Some(ring);
            starts = true;
        }
        Slot::Stop => *slot = Slot::Stopped(current.take()),
        other => *slot = other,
    }
    drop(slot);
    shared.changed.notify_all();
    starts
}

/// Whether its kicks would wake this thread more often than somebody kicks: then it is not served at all. A kick that
/// was taken in looking is not lost, for what is available is looked at before the first wait.
fn keeps_busy(ring: &Ring) -> bool {
    let busy = ring.events.kick.as_ref().is_some_and(|kick| !is_emptied_by_one_read(kick));
    if busy {
        log::line("a kick descriptor is no event descriptor that one read empties: its ring stops");
        ring.report_broken();
    }
    busy
}

/// Waits for an order or what else is awaited. Returns false when that cannot be waited for.
fn wait(shared: &Shared, awaited: &Awaited<'_>) -> bool {
    let wake = PollFd::new(shared.wake.as_fd(), PollFlags::POLLIN);
    let other = match *awaited {
        Awaited::Kick(other) | Awaited::Arrival(other) => other,
        Awaited::Nothing | Awaited::Time(_) => {
            let time = if let Awaited::Time(time) = *awaited { Some(TimeSpec::from(time)) } else { None };
            let _ = ppoll(&mut [wake], time, None);
            return true;
        }
    };
    let mut fds = [wake, PollFd::new(other, PollFlags::POLLIN)];
    if ppoll(&mut fds, None, None).is_err() {
        return true;
    }
    let [_, happened] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::POLLERR));
    if happened.contains(PollFlags::POLLIN) {
        let Awaited::Kick(kick) = awaited else { return true };
        shared.counters.kicks.fetch_add(1, Relaxed);
        if take_event(kick) {
            return true;
        }
    }
    if !happened.is_empty() {
        let what =
            if let Awaited::Kick(_) = awaited { "a kick descriptor" } else { "the source of what arrives" };
        log::line(format_args!("{what} cannot be waited for: its ring stops"));
    }
    happened.is_empty()
}
