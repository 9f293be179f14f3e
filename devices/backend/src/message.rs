//! From bytes to a request: the only parser of what a vhost-user front end sends.
//!
//! Pure: no socket, no state of the session. Structures and numbers are those of the `vhost` crate; its
//! `BackendReqHandler` is not used, because it closes the connection on a refused message even when the
//! front end asked for an acknowledgement, and because one body that comes in two segments ends it.

use std::os::fd::OwnedFd;

use vhost::vhost_user::message::{
    FrontendReq, MAX_MSG_SIZE, VhostUserConfig, VhostUserInflight, VhostUserMemory, VhostUserMemoryRegion,
    VhostUserMsgValidator, VhostUserU64, VhostUserVringAddr, VhostUserVringState,
};
use vm_memory::ByteValued;

use crate::Error;

/// Size of the header in bytes: request, flags, payload size.
pub(crate) const HEADER_SIZE: usize = 12;
/// The version bits of the flags, and the only version there is.
const VERSION_MASK: u32 = 0x3;
const VERSION: u32 = 0x1;
const FLAG_REPLY: u32 = 0x4;
const FLAG_NEED_REPLY: u32 = 0x8;
/// In SET_VRING_KICK, CALL and ERR: no descriptor comes along.
const NO_DESCRIPTOR: u64 = 0x100;
/// Most regions in a memory table: what one SET_MEM_TABLE may carry by the specification is 8, but ADD_MEM_REG
/// is not offered, so be as generous as the `vhost` crate's front end is.
pub(crate) const MAX_REGIONS: usize = 32;
/// VhostUserInflight without the padding that C puts behind it. Front ends send either.
const INFLIGHT_UNPADDED: usize = 20;

/// The fixed part in front of each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) request: u32,
    pub(crate) need_reply: bool,
    pub(crate) size: usize,
}

impl Header {
    pub(crate) fn parse(bytes: [u8; HEADER_SIZE]) -> Result<Self, Error> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        let request = u32::from_ne_bytes([a, b, c, d]);
        let flags = u32::from_ne_bytes([e, f, g, h]);
        let size = u32::from_ne_bytes([i, j, k, l]);
        if flags & VERSION_MASK != VERSION || flags & !(VERSION_MASK | FLAG_NEED_REPLY) != 0 {
            return Err(Error::HeaderFlags { request, flags });
        }
        match usize::try_from(size) {
            Ok(size) if size <= MAX_MSG_SIZE => {
                Ok(Self { request, need_reply: flags & FLAG_NEED_REPLY != 0, size })
            }
            _ => Err(Error::Oversized { request, size, limit: MAX_MSG_SIZE }),
        }
    }

    /// The bytes of a reply to this request with `payload`.
    pub(crate) fn reply(&self, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER_SIZE.saturating_add(payload.len()));
        for word in [self.request, VERSION | FLAG_REPLY, size] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(payload);
        bytes
    }
}

/// Which of a ring's three event descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RingEvent {
    Kick,
    Call,
    Err,
}

/// A well-formed request. Whether it makes sense now is for the session to say.
pub(crate) enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemTable(Vec<(VhostUserMemoryRegion, OwnedFd)>),
    SetVringNum(VhostUserVringState),
    SetVringAddr(VhostUserVringAddr),
    SetVringBase(VhostUserVringState),
    GetVringBase { index: u32 },
    SetVringEvent { event: RingEvent, index: u32, fd: Option<OwnedFd> },
    SetVringEnable(VhostUserVringState),
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueNum,
    GetConfig { offset: u32, size: u32, flags: u32 },
    SetConfig { offset: u32, data: Vec<u8> },
    GetInflightFd(VhostUserInflight),
    SetInflightFd(VhostUserInflight, OwnedFd),
    SetBackendReqFd(OwnedFd),
    ResetDevice,
}

/// Reads one message. `fds` are all that came with it: those that the request has no place for are closed
/// here, on every path.
pub(crate) fn parse(request: u32, body: &[u8], fds: Vec<OwnedFd>) -> Result<Request, Error> {
    let code = FrontendReq::try_from(request).map_err(|_| Error::UnknownRequest { request })?;
    let parser = Parser { request, body };
    let expected = match code {
        FrontendReq::SET_MEM_TABLE => return parser.memory_table(fds),
        FrontendReq::SET_VRING_KICK => return parser.ring_event(RingEvent::Kick, fds),
        FrontendReq::SET_VRING_CALL => return parser.ring_event(RingEvent::Call, fds),
        FrontendReq::SET_VRING_ERR => return parser.ring_event(RingEvent::Err, fds),
        FrontendReq::SET_INFLIGHT_FD => {
            let inflight = parser.inflight()?;
            let fd = parser.single(fds)?;
            return Ok(Request::SetInflightFd(inflight, fd));
        }
        FrontendReq::SET_BACKEND_REQ_FD if body.is_empty() => {
            return Ok(Request::SetBackendReqFd(parser.single(fds)?));
        }
        _ => 0,
    };
    if fds.len() != expected {
        return Err(Error::DescriptorCount { request, got: fds.len(), expected });
    }
    Ok(match code {
        FrontendReq::GET_FEATURES => parser.empty(Request::GetFeatures)?,
        FrontendReq::SET_FEATURES => Request::SetFeatures(parser.whole::<VhostUserU64>()?.value),
        FrontendReq::SET_OWNER => parser.empty(Request::SetOwner)?,
        FrontendReq::RESET_OWNER => parser.empty(Request::ResetOwner)?,
        FrontendReq::SET_VRING_NUM => Request::SetVringNum(parser.whole()?),
        FrontendReq::SET_VRING_ADDR => Request::SetVringAddr(parser.whole()?),
        FrontendReq::SET_VRING_BASE => Request::SetVringBase(parser.whole()?),
        FrontendReq::GET_VRING_BASE => {
            Request::GetVringBase { index: parser.whole::<VhostUserVringState>()?.index }
        }
        FrontendReq::SET_VRING_ENABLE => Request::SetVringEnable(parser.whole()?),
        FrontendReq::GET_PROTOCOL_FEATURES => parser.empty(Request::GetProtocolFeatures)?,
        FrontendReq::SET_PROTOCOL_FEATURES => {
            Request::SetProtocolFeatures(parser.whole::<VhostUserU64>()?.value)
        }
        FrontendReq::GET_QUEUE_NUM => parser.empty(Request::GetQueueNum)?,
        FrontendReq::GET_CONFIG => parser.get_config()?,
        FrontendReq::SET_CONFIG => parser.set_config()?,
        FrontendReq::GET_INFLIGHT_FD => Request::GetInflightFd(parser.inflight()?),
        FrontendReq::RESET_DEVICE => parser.empty(Request::ResetDevice)?,
        FrontendReq::SET_BACKEND_REQ_FD => return Err(parser.size()),
        _ => return Err(Error::UnknownRequest { request }),
    })
}

struct Parser<'a> {
    request: u32,
    body: &'a [u8],
}

impl Parser<'_> {
    fn empty(&self, request: Request) -> Result<Request, Error> {
        if self.body.is_empty() { Ok(request) } else { Err(self.size()) }
    }

    /// The body as one `T`, neither shorter nor longer.
    fn whole<T: ByteValued + Default + VhostUserMsgValidator>(&self) -> Result<T, Error> {
        self.structure(self.body)
    }

    fn structure<T: ByteValued + Default + VhostUserMsgValidator>(&self, bytes: &[u8]) -> Result<T, Error> {
        let mut value = T::default();
        let target = value.as_mut_slice();
        if target.len() != bytes.len() {
            return Err(self.size());
        }
        target.copy_from_slice(bytes);
        if value.is_valid() { Ok(value) } else { Err(Error::PayloadField { request: self.request }) }
    }

    fn memory_table(&self, fds: Vec<OwnedFd>) -> Result<Request, Error> {
        let (head, rest) =
            self.body.split_at_checked(size_of::<VhostUserMemory>()).ok_or_else(|| self.size())?;
        let count =
            usize::try_from(self.structure::<VhostUserMemory>(head)?.num_regions).unwrap_or(usize::MAX);
        if count > MAX_REGIONS {
            return Err(Error::RegionCount { count, limit: MAX_REGIONS });
        }
        let entry = size_of::<VhostUserMemoryRegion>();
        if rest.len() != count.saturating_mul(entry) {
            return Err(self.size());
        }
        if fds.len() != count {
            return Err(Error::DescriptorCount { request: self.request, got: fds.len(), expected: count });
        }
        let regions = rest.chunks_exact(entry).map(|bytes| self.structure(bytes));
        let regions = regions.collect::<Result<Vec<VhostUserMemoryRegion>, Error>>()?;
        Ok(Request::SetMemTable(regions.into_iter().zip(fds).collect()))
    }

    fn ring_event(&self, event: RingEvent, fds: Vec<OwnedFd>) -> Result<Request, Error> {
        let value = self.whole::<VhostUserU64>()?.value;
        if value & !(NO_DESCRIPTOR | 0xff) != 0 {
            return Err(Error::PayloadField { request: self.request });
        }
        let index = u32::from(value.to_le_bytes()[0]);
        let fd = if value & NO_DESCRIPTOR == 0 {
            Some(self.single(fds)?)
        } else if fds.is_empty() {
            None
        } else {
            return Err(Error::DescriptorCount { request: self.request, got: fds.len(), expected: 0 });
        };
        Ok(Request::SetVringEvent { event, index, fd })
    }

    fn get_config(&self) -> Result<Request, Error> {
        let VhostUserConfig { offset, size, flags } = self.config()?;
        Ok(Request::GetConfig { offset, size, flags })
    }

    fn set_config(&self) -> Result<Request, Error> {
        let offset = self.config()?.offset;
        let data = self.body.get(size_of::<VhostUserConfig>()..).unwrap_or_default().to_vec();
        Ok(Request::SetConfig { offset, data })
    }

    /// The fixed part, behind which exactly the bytes follow that it announces.
    fn config(&self) -> Result<VhostUserConfig, Error> {
        let (head, payload) =
            self.body.split_at_checked(size_of::<VhostUserConfig>()).ok_or_else(|| self.size())?;
        let config = self.structure::<VhostUserConfig>(head)?;
        if usize::try_from(config.size).ok() != Some(payload.len()) {
            return Err(self.size());
        }
        Ok(config)
    }

    fn inflight(&self) -> Result<VhostUserInflight, Error> {
        if self.body.len() != INFLIGHT_UNPADDED {
            return self.whole();
        }
        let mut padded = [0; size_of::<VhostUserInflight>()];
        for (to, from) in padded.iter_mut().zip(self.body) {
            *to = *from;
        }
        self.structure(&padded)
    }

    fn single(&self, fds: Vec<OwnedFd>) -> Result<OwnedFd, Error> {
        let got = fds.len();
        match (got, fds.into_iter().next()) {
            (1, Some(fd)) => Ok(fd),
            _ => Err(Error::DescriptorCount { request: self.request, got, expected: 1 }),
        }
    }

    fn size(&self) -> Error {
        Error::PayloadSize { request: self.request, size: self.body.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(request: u32, flags: u32, size: u32) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip([request, flags, size]) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn headers_of_other_versions_replies_and_giants_are_refused() {
        assert!(Header::parse(header(1, 1, 0)).is_ok());
        assert!(Header::parse(header(1, 9, 0x1000)).unwrap().need_reply);
        for flags in [0, 2, 3, 5, 0x11, u32::MAX] {
            assert!(matches!(Header::parse(header(1, flags, 0)), Err(Error::HeaderFlags { .. })), "{flags}");
        }
        for size in [0x1001, u32::MAX] {
            assert!(matches!(Header::parse(header(1, 1, size)), Err(Error::Oversized { .. })));
        }
    }

    #[test]
    fn a_request_takes_exactly_its_payload() {
        for request in 0..=255 {
            for size in [0usize, 1, 7, 8, 9, 12, 20, 24, 40, 41, 0x1000] {
                // Nothing here may panic; what is accepted has the size of its structure.
                if parse(request, &vec![0; size], Vec::new()).is_ok() {
                    let fits = match FrontendReq::try_from(request).unwrap() {
                        FrontendReq::SET_VRING_ADDR => size == 40,
                        FrontendReq::GET_INFLIGHT_FD => size == 20 || size == 24,
                        _ => size == 0 || size == 8,
                    };
                    assert!(fits, "request {request} took {size} bytes");
                }
            }
        }
    }

    #[test]
    fn descriptors_must_be_as_many_as_the_request_says() {
        let kick = u32::from(FrontendReq::SET_VRING_KICK);
        let with = |value: u64, count: usize| {
            parse(kick, &value.to_ne_bytes(), std::iter::repeat_with(null).take(count).collect())
        };
        assert!(matches!(with(3, 1), Ok(Request::SetVringEvent { index: 3, fd: Some(_), .. })));
        assert!(matches!(with(0x103, 0), Ok(Request::SetVringEvent { index: 3, fd: None, .. })));
        for (value, count) in [(3, 0), (3, 2), (0x103, 1)] {
            assert!(matches!(with(value, count), Err(Error::DescriptorCount { .. })));
        }
        assert!(matches!(with(0x200, 1), Err(Error::PayloadField { .. })));
        let stray = parse(u32::from(FrontendReq::GET_FEATURES), &[], vec![null()]);
        assert!(matches!(stray, Err(Error::DescriptorCount { got: 1, expected: 0, .. })));
    }

    #[test]
    fn a_memory_table_has_as_many_entries_as_it_announces() {
        let table = |announced: u32, entries: usize, fds: usize| {
            let mut body = announced.to_ne_bytes().to_vec();
            body.extend_from_slice(&[0; 4]);
            for entry in 0..entries {
                let base = u64::try_from(entry).unwrap() << 20;
                for word in [base, 0x1000u64, base, 0] {
                    body.extend_from_slice(&word.to_ne_bytes());
                }
            }
            parse(5, &body, std::iter::repeat_with(null).take(fds).collect())
        };
        assert!(matches!(table(2, 2, 2), Ok(Request::SetMemTable(regions)) if regions.len() == 2));
        assert!(table(0, 0, 0).is_err());
        assert!(table(33, 33, 33).is_err());
        assert!(table(u32::MAX, 1, 1).is_err());
        assert!(matches!(table(2, 3, 2), Err(Error::PayloadSize { .. })));
        assert!(matches!(table(2, 2, 1), Err(Error::DescriptorCount { .. })));
        assert!(matches!(table(2, 2, 3), Err(Error::DescriptorCount { .. })));
    }
}
