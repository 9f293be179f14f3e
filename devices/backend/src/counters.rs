//! What a device counts, one set per queue, read by the control thread at any time.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use protocol::{Counter, Counters};

/// Counts of one queue. Each on its own: a reader may see one ahead of another.
#[derive(Debug, Default)]
pub(crate) struct QueueCounters {
    /// Requests given back to the driver.
    pub(crate) requests: AtomicU64,
    /// Kicks taken from the driver.
    pub(crate) kicks: AtomicU64,
    /// Calls sent to the driver.
    pub(crate) calls: AtomicU64,
}

/// The sums over all queues.
pub(crate) fn report<'a>(queues: impl Iterator<Item = &'a QueueCounters>) -> Counters {
    let (mut requests, mut kicks, mut calls) = (0u64, 0u64, 0u64);
    for queue in queues {
        requests = requests.wrapping_add(queue.requests.load(Relaxed));
        kicks = kicks.wrapping_add(queue.kicks.load(Relaxed));
        calls = calls.wrapping_add(queue.calls.load(Relaxed));
    }
    let entry = |(name, value): (&str, u64)| Counter { name: name.to_owned(), value };
    Counters { entries: [("requests", requests), ("kicks", kicks), ("calls", calls)].map(entry).to_vec() }
}
