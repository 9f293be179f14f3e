//! What the driver has chosen by commands, and the user while the machine runs: how many pairs of queues are in use, which
//! offloads, whether the link is up. All of it outlives the process, and the host's tap is made to follow it.
//!
//! # Which queues of the tap are attached
//!
//! The host's kernel spreads frames over those queues that are attached, so that exactly those must be which somebody reads:
//! the first always, another while the front end lets its receive queue be served and, where the control queue is this
//! device's, the driver uses that pair. Under a front end that serves the control queue itself, as QEMU does, the driver's
//! number shows in which rings it lets be served. A process that takes over does not know how far its predecessor came, and
//! sets each queue once more as its ring begins.
//!
//! Changes are made one at a time, and kept before anybody is told that they are made: by the lock, under which also the tap's
//! offloads are set, for they are those of the interface and not of a queue.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use device_backend::{Keeper, Kept, log_line};
use nix::errno::Errno;

use crate::control::Command;
use crate::wire::{GUEST_OFFLOADS, feature};

/// Of the kept bytes: pairs and offloads, little-endian, and the link.
const KEPT_VERSION: u16 = 1;

/// What of the host has to follow: the queues of a tap, by the number of their pair from 0.
pub trait Follows {
    /// Lets the kernel put frames into a queue, or no more.
    fn set_queue(&self, pair: u16, attached: bool) -> Result<(), Errno>;
    /// Lets the kernel hand over what a driver with these features takes unfinished.
    fn set_offload(&self, features: u64) -> Result<(), Errno>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chosen {
    pairs: u16,
    offloads: u64,
    link_up: bool,
}

impl Chosen {
    /// Of a device that no driver has touched.
    const FRESH: Self = Self { pairs: 1, offloads: GUEST_OFFLOADS, link_up: true };

    fn kept(self) -> Kept {
        let mut state = self.pairs.to_le_bytes().to_vec();
        state.extend(self.offloads.to_le_bytes());
        state.push(self.link_up.into());
        Kept { version: KEPT_VERSION, state }
    }

    /// From what a predecessor kept, which may have been taken over.
    fn restored(kept: &Kept, most: u16) -> Option<Self> {
        let [a, b, c, d, e, f, g, h, i, j, link] = *<&[u8; 11]>::try_from(kept.state.as_slice()).ok()?;
        let pairs = u16::from_le_bytes([a, b]);
        let offloads = u64::from_le_bytes([c, d, e, f, g, h, i, j]);
        let fits = (1..=most).contains(&pairs) && offloads & !GUEST_OFFLOADS == 0 && link <= 1;
        (fits && kept.version == KEPT_VERSION).then_some(Self { pairs, offloads, link_up: link == 1 })
    }
}

#[derive(Debug)]
struct State {
    chosen: Chosen,
    /// By pair: the front end lets its receive queue be served.
    enabled: Vec<bool>,
    /// The driver's commands come to this device.
    commanded: bool,
    /// By pair: what the host was last told of its queue. A guest that gives the same command over and over is not to
    /// have the host's kernel do anything for it.
    told: Vec<Option<bool>>,
}

impl State {
    /// Whether the queue of `pair` is to have frames when the driver uses `pairs`.
    fn wants(&self, pair: u16, pairs: u16) -> bool {
        let enabled = self.enabled.get(usize::from(pair)).is_some_and(|enabled| *enabled);
        pair == 0 || enabled && (!self.commanded || pair < pairs)
    }

    /// Attaches or detaches the queue of `pair` for a driver that uses `pairs`. The first is as it was opened.
    fn follow(&mut self, host: &impl Follows, pair: u16, pairs: u16) -> Result<(), Errno> {
        let wanted = self.wants(pair, pairs);
        match self.told.get_mut(usize::from(pair)) {
            Some(told) if pair > 0 && *told != Some(wanted) => {
                *told = None;
                host.set_queue(pair, wanted)?;
                *told = Some(wanted);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The same for all.
    fn follow_all(&mut self, host: &impl Follows, pairs: u16) -> Result<(), Errno> {
        let most = u16::try_from(self.enabled.len()).unwrap_or(u16::MAX);
        (1..most).try_for_each(|pair| self.follow(host, pair, pairs))
    }
}

/// See above.
pub struct Choices {
    state: Mutex<State>,
    /// What of it each frame asks for.
    offloads: AtomicU64,
    link_up: AtomicBool,
    keeper: OnceLock<Keeper>,
}

impl Choices {
    /// For a device of `most` pairs.
    #[must_use]
    pub fn new(most: u16) -> Self {
        let enabled = vec![false; most.into()];
        Self {
            state: Mutex::new(State {
                chosen: Chosen::FRESH,
                enabled,
                commanded: false,
                told: vec![None; most.into()],
            }),
            offloads: AtomicU64::new(Chosen::FRESH.offloads),
            link_up: AtomicBool::new(Chosen::FRESH.link_up),
            keeper: OnceLock::new(),
        }
    }

    /// Where they are to be kept.
    pub fn keep_with(&self, keeper: Keeper) {
        // It is called once.
        let _ = self.keeper.set(keeper);
    }

    /// Whether frames pass.
    #[must_use]
    pub fn link_up(&self) -> bool {
        self.link_up.load(Relaxed)
    }

    /// Of the features that the driver accepted, those that are in use.
    #[must_use]
    pub fn in_use(&self, accepted: u64) -> u64 {
        accepted & (!GUEST_OFFLOADS | self.offloads.load(Relaxed))
    }

    /// Sets the host's offloads for a driver that accepted `accepted`, and returns the features by which.
    ///
    /// # Errors
    /// What the host says.
    pub fn set_offload(&self, host: &impl Follows, accepted: u64) -> Result<u64, Errno> {
        // The lock: what is set last is what is in use.
        let _state = self.lock();
        let in_use = self.in_use(accepted);
        host.set_offload(in_use).map(|()| in_use)
    }

    /// Does what the driver, which accepted `features`, asks for, as a whole or not at all.
    #[must_use]
    pub fn obey(&self, host: &impl Follows, command: Command, features: u64) -> bool {
        let mut state = self.lock();
        let old = state.chosen;
        match command {
            Command::Pairs(pairs) => {
                if state.follow_all(host, pairs).is_err() {
                    // What can be had is what there was.
                    let _ = state.follow_all(host, old.pairs);
                    return false;
                }
                self.choose(&mut state, Chosen { pairs, ..old })
            }
            Command::Offloads(offloads) => {
                host.set_offload(features & (!GUEST_OFFLOADS | offloads)).is_ok()
                    && self.choose(&mut state, Chosen { offloads, ..old })
            }
        }
    }

    /// The user plugs the cable in, or out.
    pub fn set_link(&self, link_up: bool) {
        let mut state = self.lock();
        let chosen = Chosen { link_up, ..state.chosen };
        self.choose(&mut state, chosen);
    }

    /// The driver is gone, and with it what it chose; the link is the user's.
    pub fn reset(&self, host: &impl Follows) {
        let mut state = self.lock();
        let chosen = Chosen { link_up: state.chosen.link_up, ..Chosen::FRESH };
        state.enabled.fill(false);
        note(state.follow_all(host, chosen.pairs));
        self.choose(&mut state, chosen);
    }

    /// The front end lets the receive queue of `pair` be served, or no more.
    pub fn enable(&self, host: &impl Follows, pair: u16, enabled: bool, features: u64) {
        let mut state = self.lock();
        state.commanded = features & feature::CTRL_VQ != 0;
        if let Some(place) = state.enabled.get_mut(usize::from(pair)) {
            *place = enabled;
        }
        let pairs = state.chosen.pairs;
        note(state.follow(host, pair, pairs));
    }

    /// As they are.
    #[must_use]
    pub fn kept(&self) -> Kept {
        self.lock().chosen.kept()
    }

    /// Takes up what a predecessor kept. The host is left alone: the predecessor may serve still.
    #[must_use]
    pub fn restore(&self, kept: &Kept) -> bool {
        let mut state = self.lock();
        let most = u16::try_from(state.enabled.len()).unwrap_or(u16::MAX);
        let restored = Chosen::restored(kept, most);
        self.publish(&mut state, restored.unwrap_or(Chosen::FRESH));
        restored.is_some()
    }

    /// Keeps what is chosen, and goes by it. Whether it is kept.
    fn choose(&self, state: &mut State, chosen: Chosen) -> bool {
        let keeper = self.keeper.get().filter(|_| chosen != state.chosen);
        if keeper.is_some_and(|keeper| keeper.keep(&chosen.kept()).is_err()) {
            return false;
        }
        self.publish(state, chosen);
        true
    }

    fn publish(&self, state: &mut State, chosen: Chosen) {
        state.chosen = chosen;
        self.offloads.store(chosen.offloads, Relaxed);
        self.link_up.store(chosen.link_up, Relaxed);
    }

    /// A panic ends the process, so a poisoned lock is never seen.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// There is nobody to be told but the log.
fn note(result: Result<(), Errno>) {
    if let Err(errno) = result {
        log_line(format_args!("a queue of the tap cannot be attached or detached: {errno}"));
    }
}

#[cfg(test)]
mod tests;
