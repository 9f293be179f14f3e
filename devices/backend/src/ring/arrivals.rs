//! A running ring of buffers: what arrives at a source of the host is put into the chains that the driver offers.
//!
//! The driver is told of many arrivals at once: elements are written as they come, and the used index that makes them
//! the driver's moves once for all that could be received in one go (at most [`PUBLISH_EVERY`] chains), followed by one
//! call. `virtio-queue`'s `add_used`, which moves it for each, is not used, nor its `needs_notification`, which
//! counts what that added.
//!
//! Between two goes the ring holds no chain. Those that were taken and not filled are put back, by taking the place in the
//! available ring back: they were given to the device, which told nobody of having looked at them. So a ring that
//! stops, or whose process ends, continues at its used index, always; `inflight` says why nothing else is noted. The
//! price is to read those descriptors again at the next go, which is a few for each go and none for each arrival.
//!
//! Nothing is polled for that cannot be used: without room the ring waits for the driver's kick and leaves the source
//! alone, with room it waits for the source and wants no kicks.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, fence};

use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap, VolatileSlice};

use super::{Progress, Ring};
use crate::chain::{Pieces, Table, collect};
use crate::counters::QueueCounters;
use crate::device::OUTSIDE;
use crate::file_io::PIECES;
use crate::pace::Lane;
use crate::{Arrival, Error, Needs, Receiver, Writer, fault_point};

#[cfg(test)]
mod tests;

/// Chains given back before the driver is told, however much there is to receive.
const PUBLISH_EVERY: usize = 64;

/// What the driver lets one arrival be written to: one chain, or several one after the other.
pub struct Room<'a, 'm> {
    slices: &'a [VolatileSlice<'m>],
    chains: &'a [Chain],
    index: u16,
}

impl<'a, 'm> Room<'a, 'm> {
    /// From the beginning.
    #[must_use]
    pub fn writer(&self) -> Writer<'a, 'm> {
        Writer::new(self.slices)
    }

    /// The used index of the first chain, were it used now: a ring that is found there, by this process or the next one,
    /// has not given what was received to the driver.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// How many chains the first `bytes` lie in, at least 1.
    #[must_use]
    pub fn chains(&self, bytes: usize) -> u16 {
        let mut before = 0usize;
        let begun = self.chains.iter().take_while(|chain| {
            let begun = before < bytes;
            before = before.saturating_add(chain.bytes);
            begun
        });
        u16::try_from(begun.count().max(1)).unwrap_or(u16::MAX)
    }
}

/// A chain that was taken and is not filled.
#[derive(Debug, Clone, Copy)]
struct Chain {
    head: u16,
    /// How many of the window's pieces are its.
    pieces: usize,
    /// What may be written.
    bytes: usize,
}

/// The chains that were taken and are not filled, in the order of the available ring.
#[derive(Default)]
struct Window<'m> {
    chains: Vec<Chain>,
    slices: Vec<VolatileSlice<'m>>,
    bytes: usize,
    pieces: Pieces<'m>,
}

impl<'m> Window<'m> {
    /// Whether there is room for an arrival that `needs` so much. Also if the driver can offer no more: a ring that is
    /// full, and as many pieces as one system call takes.
    fn suffices(&self, needs: Needs, ring_size: u16) -> bool {
        let most = usize::from(ring_size).min(PIECES);
        !self.chains.is_empty() && (!needs.spread || self.bytes >= needs.bytes || self.slices.len() >= most)
    }

    fn room(&self, needs: Needs, index: u16) -> Room<'_, 'm> {
        let chains = if needs.spread { self.chains.len() } else { 1 };
        let chains = self.chains.get(..chains).unwrap_or_default();
        let pieces = chains.iter().map(|chain| chain.pieces).fold(0, usize::saturating_add);
        Room { slices: self.slices.get(..pieces).unwrap_or_default(), chains, index }
    }

    /// Takes the first chain out.
    fn pop(&mut self) -> Option<Chain> {
        if self.chains.is_empty() {
            return None;
        }
        let chain = self.chains.remove(0);
        self.slices.drain(..chain.pieces.min(self.slices.len()));
        self.bytes = self.bytes.saturating_sub(chain.bytes);
        Some(chain)
    }
}

impl Ring {
    /// Receives until there is nothing to receive, no room, `stop` is set, or `lane` lets nothing begin.
    pub(crate) fn receive(
        &mut self,
        receiver: &mut dyn Receiver,
        counters: &QueueCounters,
        stop: &AtomicBool,
        lane: &Lane,
    ) -> Result<Progress, Error> {
        let table = Arc::clone(&self.memory);
        let memory = table.memory();
        let needs = receiver.needs(self.features);
        let mut window = Window::default();
        self.queue.disable_notification(memory).map_err(|e| self.broken(e))?;
        // An error leaves the ring broken: what it holds then is looked at no more.
        let progress = loop {
            self.fill(memory, needs, &mut window)?;
            if stop.load(Relaxed) {
                break Progress::Interrupted;
            }
            if !window.suffices(needs, self.queue.size()) {
                // What there is was taken, so that the kick is asked for what comes after it.
                if self.queue.enable_notification(memory).map_err(|e| self.broken(e))? {
                    self.queue.disable_notification(memory).map_err(|e| self.broken(e))?;
                    continue;
                }
                break Progress::Idle;
            }
            if let Err(wait) = lane.admit() {
                break Progress::Paced(wait);
            }
            let unpublished = u16::try_from(self.unpublished).unwrap_or(u16::MAX);
            let room = window.room(needs, self.queue.next_used().wrapping_add(unpublished));
            let queue = self.index;
            match receiver.receive(self.features, &room).map_err(|reason| Error::Ring { queue, reason })? {
                Arrival::None => {
                    lane.withdraw();
                    break Progress::Waiting;
                }
                Arrival::Dropped => lane.withdraw(),
                Arrival::Received(bytes) => {
                    let chains = room.chains(bytes);
                    self.use_chains(memory, &mut window, chains, bytes)?;
                    counters.requests.fetch_add(1, Relaxed);
                    lane.pay(|| u64::try_from(bytes).unwrap_or(u64::MAX));
                }
            }
            if self.unpublished >= PUBLISH_EVERY {
                self.publish(memory, counters)?;
            }
        };
        self.publish(memory, counters)?;
        self.put_back(&window);
        Ok(progress)
    }

    /// Takes chains until there is room, as far as there are any.
    fn fill<'m>(
        &mut self,
        memory: &'m GuestMemoryMmap,
        needs: Needs,
        window: &mut Window<'m>,
    ) -> Result<(), Error> {
        let queue = self.index;
        let table = Table { address: GuestAddress(self.queue.desc_table()), size: self.queue.size() };
        while !window.suffices(needs, table.size) {
            let mut available = self.queue.iter(memory).map_err(|source| Error::Queue { queue, source })?;
            let Some(head) = available.next().map(|chain| chain.head_index()) else { break };
            self.mark(head)?;
            let broken = |reason| Error::Ring { queue, reason };
            collect(memory, table, head, &mut window.pieces).map_err(broken)?;
            if window.pieces.outside {
                return Err(broken(OUTSIDE));
            }
            let slices = &window.pieces.writable;
            let bytes = slices.iter().map(VolatileSlice::len).fold(0, usize::saturating_add);
            if bytes == 0 {
                return Err(broken("a buffer for what arrives has no room"));
            }
            window.chains.push(Chain { head, pieces: slices.len(), bytes });
            window.slices.extend_from_slice(slices);
            window.bytes = window.bytes.saturating_add(bytes);
        }
        Ok(())
    }

    /// Writes the used elements of the first `chains`, over which `bytes` are spread. The driver does not see them yet.
    fn use_chains(
        &mut self,
        memory: &GuestMemoryMmap,
        window: &mut Window<'_>,
        chains: u16,
        bytes: usize,
    ) -> Result<(), Error> {
        let mut left = bytes;
        for chain in (0..chains).map_while(|_| window.pop()) {
            let here = left.min(chain.bytes);
            left = left.saturating_sub(here);
            let place = usize::from(self.queue.next_used()).saturating_add(self.unpublished);
            let slot = place.checked_rem(self.queue.size().into()).and_then(|slot| u64::try_from(slot).ok());
            let at = slot.unwrap_or(0).saturating_mul(8).saturating_add(4);
            let length = u32::try_from(here).unwrap_or(u32::MAX);
            // struct virtq_used_elem: the head, and what was written.
            let element = [u32::from(chain.head).to_le(), length.to_le()];
            let at = self.used_ring(at)?;
            memory.write_obj(element, at).map_err(|source| self.unreachable(source))?;
            self.unpublished = self.unpublished.saturating_add(1);
            if let Some(taken) = self.taken.get_mut(usize::from(chain.head)) {
                *taken = false;
            }
        }
        Ok(())
    }

    /// Makes what was used the driver's, and calls it if it wants to be.
    fn publish(&mut self, memory: &GuestMemoryMmap, counters: &QueueCounters) -> Result<(), Error> {
        let Ok(added) = u16::try_from(std::mem::take(&mut self.unpublished)) else { return Ok(()) };
        if added == 0 {
            return Ok(());
        }
        fault_point!(AfterUsedElement);
        let old = self.queue.next_used();
        let new = old.wrapping_add(added);
        let at = self.used_ring(2)?;
        memory.store(new.to_le(), at, Release).map_err(|source| self.unreachable(source))?;
        self.queue.set_next_used(new);
        fault_point!(AfterUsedIndex);
        // The index is there before the driver's wish is read, as the driver writes its wish before it reads the index.
        fence(SeqCst);
        if self.wants_call_for(memory, old, new).map_err(|e| self.broken(e))? {
            self.call_driver(counters);
        }
        Ok(())
    }

    /// Whether used index `old` to `new` passes what the driver waits for: virtio 1.2, §2.7.10.
    fn wants_call_for(
        &self,
        memory: &GuestMemoryMmap,
        old: u16,
        new: u16,
    ) -> Result<bool, virtio_queue::Error> {
        if !self.queue.event_idx_enabled() {
            return Ok(!self.calls_are_off(memory)?);
        }
        let offset = u64::from(self.queue.size()).saturating_mul(2).saturating_add(4);
        let at = GuestAddress(self.queue.avail_ring()).checked_add(offset);
        let at = at.ok_or(virtio_queue::Error::AddressOverflow)?;
        let event: u16 = memory.load(at, Acquire).map_err(virtio_queue::Error::GuestMemory)?;
        let event = u16::from_le(event);
        Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old))
    }

    fn put_back(&mut self, window: &Window<'_>) {
        for chain in &window.chains {
            if let Some(taken) = self.taken.get_mut(usize::from(chain.head)) {
                *taken = false;
            }
            self.queue.go_to_previous_position();
        }
    }

    fn used_ring(&self, offset: u64) -> Result<GuestAddress, Error> {
        let at = GuestAddress(self.queue.used_ring()).checked_add(offset);
        at.ok_or_else(|| self.broken(virtio_queue::Error::AddressOverflow))
    }

    fn unreachable(&self, source: vm_memory::GuestMemoryError) -> Error {
        self.broken(virtio_queue::Error::GuestMemory(source))
    }
}
