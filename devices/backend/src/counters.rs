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

/// The sums over all queues, and what the device says of itself.
pub(crate) fn report<'a>(
    queues: impl Iterator<Item = &'a QueueCounters>,
    own: Vec<(&'static str, u64)>,
) -> Counters {
    let (mut requests, mut kicks, mut calls) = (0u64, 0u64, 0u64);
    for queue in queues {
        requests = requests.wrapping_add(queue.requests.load(Relaxed));
        kicks = kicks.wrapping_add(queue.kicks.load(Relaxed));
        calls = calls.wrapping_add(queue.calls.load(Relaxed));
    }
    let entry = |(name, value): (&str, u64)| Counter { name: name.to_owned(), value };
    let counted = [("requests", requests), ("kicks", kicks), ("calls", calls)];
    Counters { entries: counted.into_iter().chain(own).map(entry).collect() }
}
