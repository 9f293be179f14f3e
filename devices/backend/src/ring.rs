//! A running split ring (virtio 1.2, §2.7): takes what the driver made available, has it handled, gives it back. This
//! file serves rings of requests, `arrivals` those of buffers, `held` those of one buffer that is held.
//!
//! Indices, used elements and notifications are `virtio-queue`'s. An error from its `iter` (an available index
//! that jumped) or from [`collect`] means a broken ring: it stops, and says so once. What the crate lets pass
//! and we do not: the same head twice in flight.
//!
//! A batch is what is available at one look. Each request is published as soon as it is done, and the driver
//! is called every [`CALL_EVERY`] requests and at the end: often enough for a slow disk, seldom enough for a
//! fast one.
//!
//! Taking and giving back are noted in the in-flight area, in an order that `inflight` argues. A request that ended
//! [`REFUSED_AFTER`] processes of this device is refused: a guest that found one keeps its device for all others. So is
//! one that was begun and is not to be repeated.

mod arrivals;
mod held;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, VolatileSlice};

use crate::chain::{Pieces, Table, collect};
use crate::counters::QueueCounters;
use crate::inflight::{BEGUN, InflightRing, Part, Taken};
use crate::memory::{GuestPages, MemoryTable};
use crate::pace::Lane;
use crate::{Error, Handler, Outside, Reader, Writer, fault_point, log};

pub use arrivals::Room;

/// Requests between two looks at whether the driver wants to be called.
const CALL_EVERY: usize = 8;
/// Processes that a request may end. The next one does not handle it.
const REFUSED_AFTER: u8 = 2;
/// The driver does not want to be called (without VIRTIO_F_EVENT_IDX).
const VRING_AVAIL_F_NO_INTERRUPT: u16 = 1;

/// The ring's three parts as the front end gave them, translated to guest-physical addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) size: u16,
    pub(crate) descriptors: GuestAddress,
    pub(crate) available: GuestAddress,
    pub(crate) used: GuestAddress,
}

/// A ring's event descriptors.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events {
    pub(crate) kick: Option<Arc<OwnedFd>>,
    pub(crate) call: Option<Arc<OwnedFd>>,
    pub(crate) err: Option<Arc<OwnedFd>>,
}

/// Whether there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing is available, or too little for anything to arrive, and the driver will kick.
    Idle,
    /// Nothing has arrived.
    Waiting,
    /// The device has done as much as it may: more after this time.
    Paced(Duration),
    /// Interrupted by `stop`.
    Interrupted,
}

/// Everything that a worker needs to serve one queue.
pub(crate) struct Ring {
    pub(crate) index: u16,
    pub(crate) events: Events,
    features: u64,
    memory: Arc<MemoryTable>,
    queue: Queue,
    inflight: Option<InflightRing<Part>>,
    /// To do again before anything new is taken.
    again: Vec<Taken>,
    /// By head: taken and not given back.
    taken: Vec<bool>,
    /// Used elements that were written and are not the driver's yet.
    unpublished: usize,
}

impl Ring {
    /// A ring that continues at available index `base`, and at the used index that guest memory holds. With an
    /// in-flight area, that area decides what was taken, and `base` is not used; `blamed` says whether what it notes
    /// as being handled may be the fault of the request.
    pub(crate) fn new(
        index: u16,
        layout: Layout,
        base: u16,
        events: Events,
        (features, event_idx): (u64, bool),
        memory: Arc<MemoryTable>,
        (mut inflight, blamed): (Option<InflightRing<Part>>, bool),
    ) -> Result<Self, Error> {
        let wrap = |source| Error::Queue { queue: index, source };
        let mut queue = Queue::new(layout.size).map_err(wrap)?;
        queue.try_set_desc_table_address(layout.descriptors).map_err(wrap)?;
        queue.try_set_avail_ring_address(layout.available).map_err(wrap)?;
        queue.try_set_used_ring_address(layout.used).map_err(wrap)?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        if !queue.is_valid(memory.memory()) {
            return Err(Error::Ring { queue: index, reason: "it is not in guest memory" });
        }
        let used = queue.used_idx(memory.memory(), Acquire).map_err(wrap)?.0;
        queue.set_next_used(used);
        let again = inflight.as_mut().map(|area| area.recover(used, blamed)).transpose()?;
        let resumed = again.as_ref().and_then(|heads| u16::try_from(heads.len()).ok());
        queue.set_next_avail(resumed.map_or(base, |count| used.wrapping_add(count)));
        let again = again.unwrap_or_default();
        let taken = vec![false; layout.size.into()];
        Ok(Self { index, events, features, memory, queue, inflight, again, taken, unpublished: 0 })
    }

    /// What the driver accepted.
    pub(crate) fn features(&self) -> u64 {
        self.features
    }

    /// Where a successor would continue.
    pub(crate) fn base(&self) -> u16 {
        self.queue.next_avail()
    }

    /// Serves until nothing is available, `stop` is set, or `lane` lets nothing begin. Between two requests of a batch
    /// `stop` is not looked at: what was taken is given back.
    pub(crate) fn serve(
        &mut self,
        handler: &mut dyn Handler,
        counters: &QueueCounters,
        stop: &AtomicBool,
        lane: &Lane,
    ) -> Result<Progress, Error> {
        let pages = GuestPages::new(Arc::clone(&self.memory));
        handler.attach(&pages);
        let memory = pages.table().memory();
        let mut pieces = Pieces::default();
        let mut requests = std::mem::take(&mut self.again);
        // The area has them, in their order, which a second note would change.
        requests.iter().try_for_each(|request| self.mark(request.head))?;
        loop {
            handler.begin_batch();
            self.handle(memory, &requests, handler, &mut pieces, (counters, lane))?;
            if stop.load(Relaxed) {
                return Ok(Progress::Interrupted);
            }
            if let Err(wait) = lane.admit() {
                return Ok(Progress::Paced(wait));
            }
            self.take(memory, &mut requests, lane.at_once())?;
            if requests.is_empty() {
                lane.withdraw();
                if !self.queue.enable_notification(memory).map_err(|e| self.broken(e))? {
                    return Ok(Progress::Idle);
                }
            }
        }
    }

    /// Tells the front end that this ring has stopped for good.
    pub(crate) fn report_broken(&self) {
        if let Some(err) = &self.events.err {
            let _ = nix::unistd::write(err.as_fd(), &1u64.to_ne_bytes());
        }
    }

    /// Takes what is available, in order, at most so many, into `requests`.
    fn take(
        &mut self,
        memory: &GuestMemoryMmap,
        requests: &mut Vec<Taken>,
        most: usize,
    ) -> Result<(), Error> {
        requests.clear();
        let queue = self.index;
        self.queue.disable_notification(memory).map_err(|source| Error::Queue { queue, source })?;
        let available = self.queue.iter(memory).map_err(|source| Error::Queue { queue, source })?;
        requests.extend(available.take(most).map(|chain| Taken::new(chain.head_index())));
        requests.iter().try_for_each(|request| {
            self.mark(request.head)?;
            self.inflight.as_mut().map_or(Ok(()), |area| area.taken(request.head))
        })
    }

    fn mark(&mut self, head: u16) -> Result<(), Error> {
        let queue = self.index;
        match self.taken.get_mut(usize::from(head)) {
            Some(taken) if !*taken => *taken = true,
            Some(_) => return Err(Error::Ring { queue, reason: "the same head is in flight twice" }),
            None => return Err(Error::Ring { queue, reason: "a head is beyond the ring" }),
        }
        Ok(())
    }

    fn handle<'m>(
        &mut self,
        memory: &'m GuestMemoryMmap,
        requests: &[Taken],
        handler: &mut dyn Handler,
        pieces: &mut Pieces<'m>,
        (counters, lane): (&QueueCounters, &Lane),
    ) -> Result<(), Error> {
        for group in requests.chunks(CALL_EVERY) {
            for request in group {
                let written = self.answer(memory, *request, handler, pieces)?;
                lane.pay(|| bytes(&pieces.readable).saturating_add(written.into()));
                self.give_back(memory, request.head, written)?;
            }
            counters.requests.fetch_add(u64::try_from(group.len()).unwrap_or(0), Relaxed);
            self.call(memory, counters)?;
        }
        Ok(())
    }

    /// Returns the bytes written. From `handling` on the process's end may be this request's doing: also that of
    /// looking at its chain, which the driver wrote.
    fn answer<'m>(
        &mut self,
        memory: &'m GuestMemoryMmap,
        request: Taken,
        handler: &mut dyn Handler,
        pieces: &mut Pieces<'m>,
    ) -> Result<u32, Error> {
        let queue = self.index;
        let broken = |reason| Error::Ring { queue, reason };
        let table = Table { address: GuestAddress(self.queue.desc_table()), size: self.queue.size() };
        let Taken { head, ended } = request;
        if let Some(area) = &self.inflight {
            area.handling(request)?;
        }
        collect(memory, table, head, pieces).map_err(broken)?;
        let (reader, writer) = (Reader::new(&pieces.readable), Writer::new(&pieces.writable));
        if pieces.outside {
            let request = Outside { reader, before: Writer::new(pieces.before()), behind: writer };
            return handler.refuse_outside(request).map_err(broken);
        }
        if ended < REFUSED_AFTER {
            return handler.handle(self.features, reader, writer).map_err(broken);
        }
        log_refusal(queue, request);
        handler.refuse(writer).map_err(broken)
    }

    fn give_back(&mut self, memory: &GuestMemoryMmap, head: u16, written: u32) -> Result<(), Error> {
        let (index, queue) = (self.index, &mut self.queue);
        let mut publish = || {
            let broken = |source| Error::Queue { queue: index, source };
            #[cfg(feature = "fault-points")]
            write_used_element(queue, memory, head, written).map_err(broken)?;
            fault_point!(AfterUsedElement);
            queue.add_used(memory, head, written).map_err(broken)?;
            Ok(queue.next_used())
        };
        match &self.inflight {
            Some(area) => area.give_back(head, publish)?,
            None => publish().map(drop)?,
        }
        if let Some(taken) = self.taken.get_mut(usize::from(head)) {
            *taken = false;
        }
        Ok(())
    }

    fn call(&mut self, memory: &GuestMemoryMmap, counters: &QueueCounters) -> Result<(), Error> {
        if self.wants_call(memory).map_err(|e| self.broken(e))? {
            self.call_driver(counters);
        }
        Ok(())
    }

    fn call_driver(&self, counters: &QueueCounters) {
        if let Some(call) = &self.events.call {
            counters.calls.fetch_add(1, Relaxed);
            fault_point!(BeforeCall);
            // A full counter has not been read yet: the driver is being called already.
            let _ = nix::unistd::write(call.as_fd(), &1u64.to_ne_bytes());
            fault_point!(AfterCall);
        }
    }

    /// `needs_notification`, and VRING_AVAIL_F_NO_INTERRUPT, which it leaves out (§2.7.7).
    fn wants_call(&mut self, memory: &GuestMemoryMmap) -> Result<bool, virtio_queue::Error> {
        if !self.queue.needs_notification(memory)? {
            return Ok(false);
        }
        Ok(self.queue.event_idx_enabled() || !self.calls_are_off(memory)?)
    }

    /// VRING_AVAIL_F_NO_INTERRUPT.
    fn calls_are_off(&self, memory: &GuestMemoryMmap) -> Result<bool, virtio_queue::Error> {
        let flags: u16 = memory
            .load(GuestAddress(self.queue.avail_ring()), Acquire)
            .map_err(virtio_queue::Error::GuestMemory)?;
        Ok(u16::from_le(flags) & VRING_AVAIL_F_NO_INTERRUPT != 0)
    }

    fn broken(&self, source: virtio_queue::Error) -> Error {
        Error::Queue { queue: self.index, source }
    }
}

/// What the driver gave to be read.
fn bytes(slices: &[VolatileSlice<'_>]) -> u64 {
    slices.iter().fold(0, |sum, slice| sum.saturating_add(u64::try_from(slice.len()).unwrap_or(u64::MAX)))
}

fn log_refusal(queue: u16, Taken { head, ended }: Taken) {
    if ended == BEGUN {
        log::line(format_args!(
            "queue {queue}: the request at head {head} was begun by a process of this device that ended: it is not repeated"
        ));
    } else {
        log::line(format_args!(
            "queue {queue}: the request at head {head} was being handled when {ended} processes of this device \
             ended: it is refused"
        ));
    }
}

/// The first of `add_used`'s two stores, which it then makes again: for the fault point between them.
#[cfg(feature = "fault-points")]
fn write_used_element(
    queue: &Queue,
    memory: &GuestMemoryMmap,
    head: u16,
    written: u32,
) -> Result<(), virtio_queue::Error> {
    use vm_memory::Address;
    let slot = queue.next_used().checked_rem(queue.size()).map_or(0, u64::from);
    let at = GuestAddress(queue.used_ring()).checked_add(slot.saturating_mul(8).saturating_add(4));
    let at = at.ok_or(virtio_queue::Error::AddressOverflow)?;
    let element = (u64::from(written) << 32 | u64::from(head)).to_le();
    memory.write_obj(element, at).map_err(virtio_queue::Error::GuestMemory)
}
