//! Limits on what a device does in a second: token buckets, in the form of one moment each.
//!
//! What is done is paid for when it is done, in full: a bucket that is in debt lets nobody begin, and is out of debt at a
//! moment that is known. That moment is all there is of a bucket. While nothing is done it falls behind, at most by a
//! burst's worth of time; what is done moves it on. So the rate holds exactly over any time, whatever the size of a
//! request, but for the burst and for the request in hand.
//!
//! What waits is left in the driver's ring, where it is not in flight: a ring stops as promptly with a limit as without.
//! Queues that share a limit begin in the order in which they came. A process begins with nothing saved, so that a guest gains
//! nothing by the death of its device.
//!
//! The clock is the caller's, so that tests need none.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::{Rate, Rates};

use crate::{Device, Error};

/// The longest debt that one request may make: a front end may take a device for hung that returns nothing for longer. Ours
/// waits for 30 s.
const LONGEST_DEBT: Duration = Duration::from_secs(15);
/// For whoever is not the first in the line: until then that one has begun, or left.
const NEXT: Duration = Duration::from_millis(1);

/// One limit.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: Rate,
    /// When it is out of debt; before now, as much was saved as has passed since.
    even: Duration,
}

impl Bucket {
    fn new(rate: Rate, now: Duration) -> Self {
        Self { rate, even: now }
    }

    /// How long `amount` takes.
    fn time(&self, amount: u64) -> Duration {
        let nanoseconds =
            u128::from(amount).saturating_mul(1_000_000_000).checked_div(self.rate.per_second.into());
        Duration::from_nanos(nanoseconds.and_then(|time| u64::try_from(time).ok()).unwrap_or(u64::MAX))
    }

    fn pay(&mut self, amount: u64, now: Duration) {
        let saved = self.time(self.rate.burst);
        self.even = self.even.max(now.saturating_sub(saved)).saturating_add(self.time(amount));
    }

    fn take_back(&mut self, amount: u64) {
        self.even = self.even.saturating_sub(self.time(amount));
    }
}

#[derive(Debug)]
struct State {
    bandwidth: Option<Bucket>,
    operations: Option<Bucket>,
    /// Queues that found a bucket in debt, in this order.
    line: VecDeque<u16>,
}

/// The limits that some queues share.
#[derive(Debug)]
pub(crate) struct Pace(Mutex<State>);

impl Pace {
    /// With nothing saved and nothing owed.
    pub(crate) fn new(rates: &Rates, now: Duration) -> Self {
        let bucket = |rate| Bucket::new(rate, now);
        let (bandwidth, operations) = (rates.bandwidth.map(bucket), rates.operations.map(bucket));
        Self(Mutex::new(State { bandwidth, operations, line: VecDeque::new() }))
    }

    /// A panic ends the process, so a poisoned lock is never seen.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `queue` begin one operation, or says how long it has to wait before it asks again.
    fn admit(&self, queue: u16, now: Duration) -> Result<(), Duration> {
        let mut state = self.lock();
        let even = state.bandwidth.iter().chain(&state.operations).map(|bucket| bucket.even).max();
        let debt = even.map_or(Duration::ZERO, |even| even.saturating_sub(now));
        let first = state.line.front().is_none_or(|first| *first == queue);
        if first && debt.is_zero() {
            state.line.pop_front();
            if let Some(operations) = &mut state.operations {
                operations.pay(1, now);
            }
            return Ok(());
        }
        if !state.line.contains(&queue) {
            state.line.push_back(queue);
        }
        Err(debt.max(NEXT))
    }

    fn withdraw(&self) {
        if let Some(operations) = &mut self.lock().operations {
            operations.take_back(1);
        }
    }

    fn pay(&self, bytes: u64, now: Duration) {
        if let Some(bandwidth) = &mut self.lock().bandwidth {
            bandwidth.pay(bytes, now);
        }
    }

    fn leave(&self, queue: u16) {
        self.lock().line.retain(|waiting| *waiting != queue);
    }
}

/// The most bytes that one request of a device with this many queues may move at this rate. When each queue has one in
/// hand, and all are paid for, the debt is not beyond the longest.
pub(crate) fn largest_request(rate: Rate, queues: u16) -> u64 {
    rate.per_second.saturating_mul(LONGEST_DEBT.as_secs()).checked_div(queues.into()).unwrap_or(u64::MAX)
}

/// The lanes of all queues of `device`, which is told what it may be asked for at most.
///
/// # Errors
/// [`Error::Resource`] for limits with which nobody could work.
pub(crate) fn limit(device: &mut impl Device, rates: &Rates) -> Result<Vec<Lane>, Error> {
    let queues = device.queues();
    if rates.any() && !device.can_be_limited() {
        return Err(Error::Resource("this device cannot be limited".to_owned()));
    }
    if let Some(rate) = rates.bandwidth {
        device.bound_requests(largest_request(rate, queues))?;
    }
    let least = u64::from(queues).div_ceil(LONGEST_DEBT.as_secs());
    if let Some(rate) = rates.operations.filter(|rate| rate.per_second < least) {
        let asked = rate.per_second;
        return Err(Error::Resource(format!(
            "{asked} operations a second are too few for {queues} queues: {least} are the least"
        )));
    }
    let (epoch, mut limits) = (Instant::now(), BTreeMap::new());
    let lane = |queue| {
        let shared = || Arc::new(Pace::new(rates, Duration::ZERO));
        let limit =
            rates.any().then(|| Arc::clone(limits.entry(device.limited_with(queue)).or_insert_with(shared)));
        Lane::new(queue, limit, epoch)
    };
    Ok((0..queues).map(lane).collect())
}

/// One queue's place among those that share a limit, or a queue without one.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    queue: u16,
    limit: Option<Arc<Pace>>,
    epoch: Instant,
}

impl Lane {
    /// `epoch`: the clock's zero.
    pub(crate) fn new(queue: u16, limit: Option<Arc<Pace>>, epoch: Instant) -> Self {
        Self { queue, limit, epoch }
    }

    /// How many requests may be taken at one look.
    pub(crate) fn at_once(&self) -> usize {
        if self.limit.is_some() { 1 } else { usize::MAX }
    }

    /// One operation may begin, or may be tried after this time.
    pub(crate) fn admit(&self) -> Result<(), Duration> {
        self.limit.as_ref().map_or(Ok(()), |pace| pace.admit(self.queue, self.epoch.elapsed()))
    }

    /// There was nothing to begin.
    pub(crate) fn withdraw(&self) {
        if let Some(pace) = &self.limit {
            pace.withdraw();
        }
    }

    /// What was begun is done, and was of so many bytes.
    pub(crate) fn pay(&self, bytes: impl FnOnce() -> u64) {
        if let Some(pace) = &self.limit {
            pace.pay(bytes(), self.epoch.elapsed());
        }
    }

    /// The queue does not wait any more.
    pub(crate) fn leave(&self) {
        if let Some(pace) = &self.limit {
            pace.leave(self.queue);
        }
    }
}

#[cfg(test)]
mod tests;
