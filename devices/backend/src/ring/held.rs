//! A running ring of one buffer that waits at the device: giving it back asks the driver for the next.
//!
//! It is not taken meanwhile. Like a buffer that waits for an arrival it is looked at, and its place in the available ring
//! taken back, so that nothing is noted of it, and a ring that stops, or whose process ends, continues at its used
//! index: the next process finds the same buffer there, or none if it was just given back and the driver owes
//! another. Nothing about a buffer that is held for days is a standstill: nobody has asked.
//!
//! A driver has one such buffer at a time. One that offers more has them looked at one after the other.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{Progress, Ring};
use crate::chain::{Pieces, Table, collect};
use crate::counters::QueueCounters;
use crate::{Error, Holder, Reader, Turn, fault_point};

impl Ring {
    /// Holds what the driver offers until nothing is there, the device waits for a question, or `stop` is set.
    pub(crate) fn hold(
        &mut self,
        holder: &mut dyn Holder,
        counters: &QueueCounters,
        stop: &AtomicBool,
    ) -> Result<Progress, Error> {
        let table = Arc::clone(&self.memory);
        let memory = table.memory();
        let mut pieces = Pieces::default();
        self.queue.disable_notification(memory).map_err(|e| self.broken(e))?;
        while !stop.load(Relaxed) {
            let Some(head) = self.first(memory)? else {
                if self.queue.enable_notification(memory).map_err(|e| self.broken(e))? {
                    self.queue.disable_notification(memory).map_err(|e| self.broken(e))?;
                    continue;
                }
                return Ok(Progress::Idle);
            };
            let queue = self.index;
            let table = Table { address: GuestAddress(self.queue.desc_table()), size: self.queue.size() };
            collect(memory, table, head, &mut pieces).map_err(|reason| Error::Ring { queue, reason })?;
            // A buffer that is no memory of ours says nothing, and can be given back all the same.
            let known = if pieces.outside { &[][..] } else { &pieces.readable };
            match holder.look(Reader::new(known)) {
                Turn::Hold => {
                    self.queue.go_to_previous_position();
                    return Ok(Progress::Waiting);
                }
                Turn::GiveBack => {
                    self.queue.add_used(memory, head, 0).map_err(|e| self.broken(e))?;
                    fault_point!(AfterUsedIndex);
                    counters.requests.fetch_add(1, Relaxed);
                    self.call(memory, counters)?;
                }
            }
        }
        Ok(Progress::Interrupted)
    }

    fn first(&mut self, memory: &GuestMemoryMmap) -> Result<Option<u16>, Error> {
        let queue = self.index;
        let mut available = self.queue.iter(memory).map_err(|source| Error::Queue { queue, source })?;
        Ok(available.next().map(|chain| chain.head_index()))
    }
}
