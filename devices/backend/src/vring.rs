//! One ring as the front end set it up: size, addresses, base, event descriptors, started, enabled.
//!
//! Holds what is needed to make a [`Ring`] for the worker, and takes back from it where it stopped.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use vhost::vhost_user::message::VhostUserVringAddr;

use crate::Error;
use crate::inflight::InflightArea;
use crate::memory::MemoryTable;
use crate::message::RingEvent;
use crate::ring::{Events, Layout, Ring};
use crate::session::VIRTIO_F_EVENT_IDX;
use crate::worker::Worker;

/// Largest ring that a front end may ask for. vhost-user has no word for a device's own limit.
pub(crate) const MAX_QUEUE_SIZE: u16 = protocol::limits::MAX_QUEUE_SIZE;

/// What of the session a ring needs to run.
#[derive(Default, Clone)]
pub(crate) struct Active {
    pub(crate) features: u64,
    /// Protocol features are in use, so rings are born disabled.
    pub(crate) protocol: bool,
    pub(crate) memory: Option<Arc<MemoryTable>>,
    pub(crate) inflight: Option<InflightArea>,
}

pub(crate) struct Vring {
    index: u16,
    worker: Worker,
    size: u16,
    address: Option<VhostUserVringAddr>,
    base: u16,
    events: Events,
    started: bool,
    enabled: bool,
    /// The worker has this ring.
    served: bool,
    /// The end of the process before this one may be the fault of a request that this ring has in flight. True until
    /// the ring has begun: what it has in flight when it begins again is this process's.
    blamed: bool,
}

impl Vring {
    pub(crate) fn new(index: usize, worker: Worker, blamed: bool) -> Self {
        Self {
            index: u16::try_from(index).unwrap_or(u16::MAX),
            worker,
            size: 0,
            address: None,
            base: 0,
            events: Events::default(),
            started: false,
            enabled: false,
            served: false,
            blamed,
        }
    }

    #[cfg(feature = "fuzzing")]
    pub(crate) fn into_worker(self) -> Worker {
        self.worker
    }

    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    pub(crate) fn started(&self) -> bool {
        self.started
    }

    pub(crate) fn born_enabled(&mut self) {
        self.enabled = true;
    }

    pub(crate) fn set_num(&mut self, size: u32) -> Result<(), Error> {
        self.refuse_started("SET_VRING_NUM")?;
        match u16::try_from(size) {
            Ok(valid) if valid.is_power_of_two() && valid <= MAX_QUEUE_SIZE => {
                self.size = valid;
                Ok(())
            }
            _ => Err(Error::RingSize { index: self.index.into(), size, limit: MAX_QUEUE_SIZE }),
        }
    }

    pub(crate) fn set_addr(&mut self, address: VhostUserVringAddr, active: &Active) -> Result<(), Error> {
        self.refuse_started("SET_VRING_ADDR")?;
        let memory = active.memory.as_ref().ok_or_else(|| order("SET_VRING_ADDR", "SET_MEM_TABLE"))?;
        if self.size == 0 {
            return Err(order("SET_VRING_ADDR", "SET_VRING_NUM"));
        }
        layout(self.index, self.size, &address, memory)?;
        self.address = Some(address);
        Ok(())
    }

    pub(crate) fn set_base(&mut self, base: u32) -> Result<(), Error> {
        self.refuse_started("SET_VRING_BASE")?;
        let index = self.index.into();
        // Any 16-bit value is a place in the ring: indices run freely, and wrap.
        self.base = u16::try_from(base).map_err(|_| Error::RingBase { index, base })?;
        Ok(())
    }

    pub(crate) fn set_event(
        &mut self,
        event: RingEvent,
        fd: Option<OwnedFd>,
        active: &Active,
    ) -> Result<(), Error> {
        if event == RingEvent::Kick {
            if fd.is_none() {
                return Err(Error::NoKick { index: self.index.into() });
            }
            let memory = active.memory.as_ref().ok_or_else(|| order("SET_VRING_KICK", "SET_MEM_TABLE"))?;
            self.layout(memory)?;
        }
        let fd = fd.map(never_blocking).transpose()?.map(Arc::new);
        let before = (self.events.clone(), self.started);
        self.pause();
        match event {
            RingEvent::Kick => {
                self.events.kick = fd;
                self.started = true;
            }
            RingEvent::Call => self.events.call = fd,
            RingEvent::Err => self.events.err = fd,
        }
        self.serve(active).inspect_err(|_| (self.events, self.started) = before)
    }

    pub(crate) fn set_enable(&mut self, value: u32, active: &Active) -> Result<(), Error> {
        match value {
            0 => {
                self.enabled = false;
                self.pause();
            }
            1 => {
                let before = std::mem::replace(&mut self.enabled, true);
                self.serve(active).inspect_err(|_| self.enabled = before)?;
            }
            _ => return Err(Error::RingEnable { index: self.index.into(), value }),
        }
        Ok(())
    }

    /// GET_VRING_BASE: drains, stops, and says where to continue.
    pub(crate) fn stop(&mut self) -> u16 {
        self.pause();
        self.started = false;
        self.events.kick = None;
        self.base
    }

    pub(crate) fn reset(&mut self) {
        self.stop();
        self.events = Events::default();
        (self.size, self.address, self.base, self.enabled) = (0, None, 0, false);
    }

    /// Takes the ring away from the worker, drained. Returns whether it had it.
    pub(crate) fn pause(&mut self) -> bool {
        let served = std::mem::take(&mut self.served);
        if served && let Some(ring) = self.worker.stop() {
            self.base = ring.base();
        }
        served
    }

    /// Gives the ring to the worker, if it is started and enabled and the worker does not have it.
    pub(crate) fn serve(&mut self, active: &Active) -> Result<(), Error> {
        if !self.started || !self.enabled || self.served {
            return Ok(());
        }
        let memory = active.memory.as_ref().ok_or_else(|| order("a running ring", "SET_MEM_TABLE"))?;
        let layout = self.layout(memory)?;
        let kept = self.worker.kept(active.features);
        let inflight =
            active.inflight.as_ref().map(|area| area.ring(self.index, self.size, kept)).transpose()?;
        let features = (active.features, active.features & VIRTIO_F_EVENT_IDX != 0);
        let events = self.events.clone();
        let inflight = (inflight, self.blamed);
        let ring = Ring::new(self.index, layout, self.base, events, features, Arc::clone(memory), inflight)?;
        self.blamed = false;
        self.worker.start(ring);
        self.served = true;
        Ok(())
    }

    /// The ring's parts in guest-physical addresses under `memory`.
    pub(crate) fn layout(&self, memory: &MemoryTable) -> Result<Layout, Error> {
        let address = self.address.as_ref().ok_or_else(|| order("SET_VRING_KICK", "SET_VRING_ADDR"))?;
        layout(self.index, self.size, address, memory)
    }

    fn refuse_started(&self, message: &'static str) -> Result<(), Error> {
        if self.started { Err(Error::Running { message, index: self.index.into() }) } else { Ok(()) }
    }
}

fn order(message: &'static str, missing: &'static str) -> Error {
    Error::Order { message, missing }
}

/// Sizes and alignments of the three parts: virtio 1.2, §2.7.
fn layout(
    index: u16,
    size: u16,
    address: &VhostUserVringAddr,
    memory: &MemoryTable,
) -> Result<Layout, Error> {
    let entries = u64::from(size);
    let part = |part, user: u64, alignment: u64, bytes: u64| {
        memory
            .translate(user, bytes)
            .filter(|guest| guest.0.is_multiple_of(alignment))
            .ok_or(Error::RingAddress { index: index.into(), part, address: user })
    };
    Ok(Layout {
        size,
        descriptors: part("the descriptor table", address.descriptor, 16, entries.saturating_mul(16))?,
        available: part(
            "the available ring",
            address.available,
            2,
            entries.saturating_mul(2).saturating_add(6),
        )?,
        used: part("the used ring", address.used, 4, entries.saturating_mul(8).saturating_add(6))?,
    })
}

/// Sets O_NONBLOCK, lest a counter that the peer filled or emptied holds up a queue. The flag is shared with
/// the peer, who may clear it: then it holds up its own queue.
fn never_blocking(fd: OwnedFd) -> Result<OwnedFd, Error> {
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(Error::system("set up an event descriptor"))?;
    Ok(fd)
}
