//! The vhost-user session: what each request does to the rings, and which order of requests makes sense.
//!
//! `vhost-user-backend`'s handler is not used: its in-flight requests are always an error, one error ends a ring's
//! worker in silence, a second SET_VRING_KICK is never registered, a bad SET_VRING_NUM is acknowledged, and
//! regions larger than their file are mapped.
//!
//! A ring is *started* by SET_VRING_KICK and stopped by GET_VRING_BASE; it is *served* while it is started and
//! enabled. A request that is refused changes nothing.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use protocol::{Counters, Setting};
use vhost::vhost_user::message::{
    VhostUserConfig, VhostUserConfigFlags, VhostUserInflight, VhostUserMemoryRegion,
    VhostUserProtocolFeatures, VhostUserVirtioFeatures, VhostUserVringState,
};
use vm_memory::ByteValued;

use crate::announce::Announcements;
use crate::inflight::{InflightArea, InflightFile};
use crate::memory::{MemoryTable, Unsealed};
use crate::message::{Request, RingEvent};
use crate::state::DeviceState;
use crate::vring::{Active, Vring};
use crate::worker::Worker;
use crate::{Error, Inquiry, counters, take_event};

const VIRTIO_F_INDIRECT_DESC: u64 = 1 << 28;
pub(crate) const VIRTIO_F_EVENT_IDX: u64 = 1 << 29;
const VIRTIO_F_VERSION_1: u64 = 1 << 32;
/// What the ring code does for every device.
const RING_FEATURES: u64 = VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_VERSION_1;
const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
/// Configuration space is 256 bytes at most (virtio 1.2, §4.1.4): what lies past a device's own reads as zero.
const CONFIG_LIMIT: u32 = 256;

/// The answer to a request that has one of its own.
pub(crate) enum Reply<'a> {
    /// None but the acknowledgement that the front end may have asked for.
    Done,
    Payload(Vec<u8>),
    Inflight(Vec<u8>, BorrowedFd<'a>),
}

/// One front end's connection.
pub(crate) struct Session {
    state: DeviceState,
    /// The device has a configuration.
    configurable: bool,
    unsealed: Unsealed,
    inflight_file: InflightFile,
    vrings: Vec<Vring>,
    owned: bool,
    active: Active,
    protocol_features: VhostUserProtocolFeatures,
    /// Where the front end hears of a configuration that has changed.
    announcements: Option<Announcements>,
}

impl Session {
    /// `blamed`: the end of the process before this one may be the fault of a request that it was handling.
    pub(crate) fn new(
        state: DeviceState,
        workers: Vec<Worker>,
        inflight_file: InflightFile,
        unsealed: Unsealed,
        blamed: bool,
    ) -> Self {
        let workers = workers.into_iter().enumerate();
        let vrings = workers.map(|(index, worker)| Vring::new(index, worker, blamed)).collect();
        let protocol_features = VhostUserProtocolFeatures::empty();
        let active = Active::default();
        let configurable = state.is_configurable();
        Self {
            state,
            configurable,
            unsealed,
            inflight_file,
            vrings,
            owned: false,
            active,
            protocol_features,
            announcements: None,
        }
    }

    pub(crate) fn vrings(&self) -> &[Vring] {
        &self.vrings
    }

    #[cfg(feature = "fuzzing")]
    pub(crate) fn into_vrings(self) -> Vec<Vring> {
        self.vrings
    }

    /// Whether requests may ask for an acknowledgement.
    pub(crate) fn acknowledges(&self) -> bool {
        self.protocol_features.contains(VhostUserProtocolFeatures::REPLY_ACK)
    }

    pub(crate) fn handle(&mut self, request: Request) -> Result<Reply<'_>, Error> {
        match request {
            Request::GetFeatures => return Ok(number(self.offered_features())),
            Request::SetFeatures(features) => self.set_features(features)?,
            Request::SetOwner if self.owned => {
                return Err(Error::Order { message: "a second SET_OWNER", missing: "RESET_OWNER" });
            }
            Request::SetOwner => self.owned = true,
            Request::ResetOwner => {
                self.reset()?;
                self.owned = false;
            }
            Request::ResetDevice => {
                self.negotiated(VhostUserProtocolFeatures::RESET_DEVICE, 34)?;
                self.reset()?;
            }
            Request::GetProtocolFeatures => return Ok(number(self.offered_protocol_features().bits())),
            Request::SetProtocolFeatures(bits) => self.set_protocol_features(bits)?,
            Request::GetQueueNum => {
                self.negotiated(VhostUserProtocolFeatures::MQ, 17)?;
                return Ok(number(u64::try_from(self.vrings.len()).unwrap_or(0)));
            }
            Request::GetConfig { offset, size, flags } => return self.config(offset, size, flags),
            // What no field covers that can be written is ignored: refusing would let a guest's write end the
            // connection of a front end that asks for no acknowledgement.
            Request::SetConfig { offset, data } => {
                self.config_range(offset, u32::try_from(data.len()).unwrap_or(u32::MAX))?;
                self.state.write_config(usize::try_from(offset).unwrap_or(usize::MAX), &data)?;
            }
            Request::GetInflightFd(asked) => return self.inflight_fd(&asked),
            Request::SetInflightFd(description, fd) => {
                self.negotiated(VhostUserProtocolFeatures::INFLIGHT_SHMFD, 32)?;
                self.refuse_started("SET_INFLIGHT_FD")?;
                self.active.inflight = Some(InflightArea::map(&description, fd, self.unsealed)?);
            }
            Request::SetBackendReqFd(fd) => {
                self.negotiated(VhostUserProtocolFeatures::BACKEND_REQ, 21)?;
                self.announcements = Some(Announcements::new(fd));
            }
            Request::SetMemTable(regions) => self.set_mem_table(regions)?,
            request => return self.ring_request(request),
        }
        Ok(Reply::Done)
    }

    /// The user sets something. `Err` is why not, in one line.
    pub(crate) fn set(&mut self, setting: Setting) -> Result<Result<(), String>, Error> {
        // Before this process looks at anything once more that it would then not tell of.
        self.state.take_over();
        let before = self.state.config();
        if let Err(refused) = self.state.set(setting)? {
            return Ok(Err(refused));
        }
        if self.state.config() != before {
            self.announce();
        }
        Ok(Ok(()))
    }

    /// Tells the front end that the configuration is another.
    fn announce(&mut self) {
        self.announcements = self.announcements.take().filter(Announcements::config_changed);
    }

    /// Where the device says that its configuration has changed by itself.
    pub(crate) fn changes(&self) -> Option<BorrowedFd<'_>> {
        self.state.changes()
    }

    /// It has said so.
    pub(crate) fn take_change(&mut self) {
        if let Some(changes) = self.state.changes() {
            take_event(&changes);
            self.announce();
        }
    }

    /// What is to be asked is asked. `Err` is why there is nobody to ask, in one line.
    pub(crate) fn ask(&self) -> Result<(), &'static str> {
        match self.state.inquiry() {
            None => Err("this device has nothing of the kind to ask for"),
            Some(inquiry) if self.active.features & inquiry.feature() == 0 => {
                Err("the guest has no driver that offers them: it has not begun, or does not know how")
            }
            Some(inquiry) => {
                inquiry.ask();
                Ok(())
            }
        }
    }

    pub(crate) fn inquiry(&self) -> Option<&Inquiry> {
        self.state.inquiry()
    }

    pub(crate) fn counters(&mut self) -> Counters {
        let numbers = self.state.numbers();
        counters::report(self.vrings.iter().map(Vring::worker).map(Worker::counters), numbers)
    }

    fn ring_request(&mut self, request: Request) -> Result<Reply<'_>, Error> {
        match request {
            Request::SetVringNum(state) => self.vring(state.index)?.set_num(state.num)?,
            Request::SetVringAddr(address) => {
                let active = self.active.clone();
                self.vring(address.index)?.set_addr(address, &active)?;
            }
            Request::SetVringBase(state) => self.vring(state.index)?.set_base(state.num)?,
            Request::GetVringBase { index } => {
                let base = self.vring(index)?.stop();
                let state = VhostUserVringState::new(index, base.into());
                return Ok(Reply::Payload(state.as_slice().to_vec()));
            }
            Request::SetVringEvent { event, index, fd } => {
                if event == RingEvent::Kick {
                    // It starts: whoever had it before has given it back.
                    self.state.started()?;
                }
                let active = self.active.clone();
                self.vring(index)?.set_event(event, fd, &active)?;
            }
            Request::SetVringEnable(state) => {
                if !self.active.protocol {
                    return Err(Error::UnknownRequest { request: 18 });
                }
                let active = self.active.clone();
                self.vring(state.index)?.set_enable(state.num, &active)?;
                let queue = u16::try_from(state.index).unwrap_or(u16::MAX);
                self.state.ring_enabled(queue, state.num == 1, active.features);
            }
            _ => return Err(Error::UnknownRequest { request: 0 }),
        }
        Ok(Reply::Done)
    }

    fn vring(&mut self, index: u32) -> Result<&mut Vring, Error> {
        let queues = u16::try_from(self.vrings.len()).unwrap_or(u16::MAX);
        let position = usize::try_from(index).unwrap_or(usize::MAX);
        self.vrings.get_mut(position).ok_or(Error::RingIndex { index, queues })
    }

    fn offered_features(&self) -> u64 {
        self.state.features() | RING_FEATURES | PROTOCOL_FEATURES
    }

    /// A device without configuration does not say that it can be asked for one.
    fn offered_protocol_features(&self) -> VhostUserProtocolFeatures {
        let config = if self.configurable {
            VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::BACKEND_REQ
        } else {
            VhostUserProtocolFeatures::empty()
        };
        config
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::RESET_DEVICE
    }

    fn set_features(&mut self, features: u64) -> Result<(), Error> {
        let strange = features & !self.offered_features();
        if strange != 0 {
            return Err(Error::Features(strange));
        }
        if features == self.active.features {
            return Ok(());
        }
        self.refuse_started("SET_FEATURES")?;
        self.active.features = features;
        // Without protocol features there is no SET_VRING_ENABLE, and rings are born enabled.
        self.active.protocol |= features & PROTOCOL_FEATURES != 0;
        if !self.active.protocol {
            self.vrings.iter_mut().for_each(Vring::born_enabled);
        }
        Ok(())
    }

    fn set_protocol_features(&mut self, bits: u64) -> Result<(), Error> {
        let strange = bits & !self.offered_protocol_features().bits();
        if strange != 0 {
            return Err(Error::ProtocolFeatures(strange));
        }
        self.protocol_features = VhostUserProtocolFeatures::from_bits_truncate(bits);
        // Some front ends use protocol features without accepting the feature bit that announces them.
        self.active.protocol = true;
        Ok(())
    }

    /// Maps the new table before anything is stopped, checks that every running ring lies within it, and only then
    /// moves the rings over.
    fn set_mem_table(
        &mut self,
        regions: Vec<(VhostUserMemoryRegion, std::os::fd::OwnedFd)>,
    ) -> Result<(), Error> {
        let table = Arc::new(MemoryTable::map(regions, self.unsealed)?);
        for vring in self.vrings.iter().filter(|vring| vring.started()) {
            vring.layout(&table)?;
        }
        let serving: Vec<bool> = self.vrings.iter_mut().map(Vring::pause).collect();
        self.active.memory = Some(table);
        for (vring, _) in self.vrings.iter_mut().zip(serving).filter(|(_, serving)| *serving) {
            vring.serve(&self.active)?;
        }
        Ok(())
    }

    fn config(&mut self, offset: u32, size: u32, flags: u32) -> Result<Reply<'_>, Error> {
        self.config_range(offset, size)?;
        let flags = VhostUserConfigFlags::from_bits_truncate(flags);
        let mut payload = VhostUserConfig::new(offset, size, flags).as_slice().to_vec();
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let take = usize::try_from(size).unwrap_or(0);
        let config = self.state.config();
        payload.extend(config.into_iter().chain(std::iter::repeat(0)).skip(skip).take(take));
        Ok(Reply::Payload(payload))
    }

    fn config_range(&self, offset: u32, size: u32) -> Result<(), Error> {
        self.negotiated(VhostUserProtocolFeatures::CONFIG, 24)?;
        match offset.checked_add(size) {
            Some(end) if end <= CONFIG_LIMIT => Ok(()),
            _ => Err(Error::ConfigRange { offset, size, limit: CONFIG_LIMIT }),
        }
    }

    fn inflight_fd(&self, asked: &VhostUserInflight) -> Result<Reply<'_>, Error> {
        use std::os::fd::AsFd;
        self.negotiated(VhostUserProtocolFeatures::INFLIGHT_SHMFD, 31)?;
        // The area that is in use may be this very file, which is about to be emptied.
        self.refuse_started("GET_INFLIGHT_FD")?;
        let description = self.inflight_file.describe(asked)?;
        // Written out by field: the structure ends in padding.
        let mut payload = Vec::with_capacity(size_of::<VhostUserInflight>());
        payload.extend_from_slice(&description.mmap_size.to_ne_bytes());
        payload.extend_from_slice(&description.mmap_offset.to_ne_bytes());
        payload.extend_from_slice(&description.num_queues.to_ne_bytes());
        payload.extend_from_slice(&description.queue_size.to_ne_bytes());
        payload.resize(size_of::<VhostUserInflight>(), 0);
        Ok(Reply::Inflight(payload, self.inflight_file.as_fd()))
    }

    /// Rings stopped, and all that was set for them forgotten, and the device's own state; memory and negotiation stay.
    fn reset(&mut self) -> Result<(), Error> {
        self.vrings.iter_mut().for_each(Vring::reset);
        self.active.inflight = None;
        if !self.active.protocol {
            self.vrings.iter_mut().for_each(Vring::born_enabled);
        }
        self.state.reset()
    }

    fn negotiated(&self, feature: VhostUserProtocolFeatures, request: u32) -> Result<(), Error> {
        if self.protocol_features.contains(feature) { Ok(()) } else { Err(Error::UnknownRequest { request }) }
    }

    fn refuse_started(&self, message: &'static str) -> Result<(), Error> {
        match self.vrings.iter().position(Vring::started) {
            Some(index) => Err(Error::Running { message, index: u32::try_from(index).unwrap_or(u32::MAX) }),
            None => Ok(()),
        }
    }
}

fn number(value: u64) -> Reply<'static> {
    Reply::Payload(value.to_ne_bytes().to_vec())
}
