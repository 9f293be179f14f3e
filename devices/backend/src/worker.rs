//! One thread per queue, for the life of the process: it serves the ring that it was given, or waits for one.
//!
//! Threads are started before the serving filter, which has no clone. The control thread changes nothing
//! in a ring that runs: it stops the worker, which hands the ring back drained (no request taken and not given
//! back), and starts it with another. That is how GET_VRING_BASE, a new kick descriptor and a new memory table all
//! work, and why no lock is held while requests are served.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::counters::QueueCounters;
use crate::file_io::take_event;
use crate::ring::{Progress, Ring};
use crate::{Error, Handler, log};

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
pub(crate) struct Worker(Arc<Shared>);

impl Worker {
    /// Starts the thread. It calls `confine` first, and serves only when that succeeds.
    pub(crate) fn spawn(
        handler: Box<dyn Handler>,
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
        let theirs = Arc::clone(&shared);
        let body = move || {
            theirs.put(Slot::Confined(confine()));
            run(&theirs, handler);
        };
        std::thread::Builder::new().spawn(body).map_err(|error| Error::System {
            action: "start a queue's thread",
            errno: Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        })?;
        Ok(Self(shared))
    }

    /// Waits until the thread is confined.
    pub(crate) fn confined(&self) -> Result<(), Error> {
        let mut slot = self.0.lock();
        loop {
            match std::mem::replace(&mut *slot, Slot::Empty) {
                Slot::Confined(result) => return result,
                other => *slot = other,
            }
            slot = self.0.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Serves `ring` from now on. The worker must have been stopped.
    pub(crate) fn start(&self, ring: Ring) {
        self.order(Slot::Start(Box::new(ring)));
        let mut slot = self.0.lock();
        while matches!(*slot, Slot::Start(_)) {
            slot = self.0.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Stops serving and returns the ring, with nothing in flight unless it is broken.
    pub(crate) fn stop(&self) -> Option<Box<Ring>> {
        self.order(Slot::Stop);
        let mut slot = self.0.lock();
        loop {
            match std::mem::replace(&mut *slot, Slot::Empty) {
                Slot::Stopped(ring) => return ring,
                other => *slot = other,
            }
            slot = self.0.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn counters(&self) -> &QueueCounters {
        &self.0.counters
    }

    fn order(&self, slot: Slot) {
        self.0.put(slot);
        self.0.ordered.store(true, Release);
        let _ = self.0.wake.write(1);
    }
}

/// The thread's life.
fn run(shared: &Shared, mut handler: Box<dyn Handler>) {
    let mut current: Option<Box<Ring>> = None;
    let mut broken = false;
    loop {
        if shared.ordered.swap(false, Acquire) {
            take_event(&shared.wake);
            obey(shared, &mut current, &mut broken);
        }
        if let Some(ring) = current.as_deref_mut().filter(|_| !broken) {
            match ring.serve(handler.as_mut(), &shared.counters, &shared.ordered) {
                Ok(Progress::Interrupted) => continue,
                Ok(Progress::Idle) => {}
                Err(error) => {
                    log::line(&error);
                    ring.report_broken();
                    broken = true;
                }
            }
        }
        let kick = current.as_deref().filter(|_| !broken).and_then(|ring| ring.events.kick.clone());
        broken |= !wait(shared, kick.as_deref());
    }
}

fn obey(shared: &Shared, current: &mut Option<Box<Ring>>, broken: &mut bool) {
    let mut slot = shared.lock();
    match std::mem::replace(&mut *slot, Slot::Empty) {
        Slot::Start(ring) => {
            *current = Some(ring);
            *broken = false;
        }
        Slot::Stop => *slot = Slot::Stopped(current.take()),
        other => *slot = other,
    }
    drop(slot);
    shared.changed.notify_all();
}

/// Waits for an order or a kick. Returns false when the kick descriptor cannot be waited for.
fn wait(shared: &Shared, kick: Option<&OwnedFd>) -> bool {
    let wake = PollFd::new(shared.wake.as_fd(), PollFlags::POLLIN);
    let Some(kick) = kick else {
        let _ = ppoll(&mut [wake], None, None);
        return true;
    };
    let mut fds = [wake, PollFd::new(kick.as_fd(), PollFlags::POLLIN)];
    if ppoll(&mut fds, None, None).is_err() {
        return true;
    }
    let [_, kicked] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::POLLERR));
    if kicked.contains(PollFlags::POLLIN) {
        shared.counters.kicks.fetch_add(1, Relaxed);
        take_event(kick);
    } else if !kicked.is_empty() {
        log::line("a kick descriptor cannot be waited for: its ring stops");
        return false;
    }
    true
}
