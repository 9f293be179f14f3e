//! The only parser of what a guest says in a packet (virtio 1.2, §5.10.6): from a header, which was read from guest
//! memory once, to what it asks for, or why it is refused. Pure.

use crate::wire::{HOST_CID, Halves, Header, STREAM, op};

/// What tells a connection of the guest with this host from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The host's port.
    pub host: u32,
    /// The guest's port.
    pub guest: u32,
}

/// What the guest says that it has room for, with each packet (§5.10.6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// `buf_alloc`.
    pub allocated: u32,
    /// `fwd_cnt`.
    pub forwarded: u32,
}

/// A packet that is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Of which connection.
    pub key: Key,
    /// What the guest has room for.
    pub room: Room,
    /// What it is about.
    pub request: Request,
}

/// What a packet is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// `REQUEST`.
    Connect,
    /// `RESPONSE`.
    Accept,
    /// `RST`.
    Reset,
    /// `SHUTDOWN`.
    Shutdown(Halves),
    /// `RW`, with so many bytes, which are there.
    Data(usize),
    /// `CREDIT_UPDATE`.
    CreditUpdate,
    /// `CREDIT_REQUEST`.
    AskForRoom,
}

/// A `RST` for a connection that there is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// Whom the guest meant.
    pub host_cid: u64,
    /// Which connection.
    pub key: Key,
    /// Of which type of socket.
    pub kind: u16,
}

impl Reset {
    /// Of a connection with this host.
    #[must_use]
    pub fn of(key: Key) -> Self {
        Self { host_cid: HOST_CID, key, kind: STREAM }
    }

    /// As the guest with this context identifier gets it.
    #[must_use]
    pub fn header(self, cid: u32) -> Header {
        Header {
            src_cid: self.host_cid,
            dst_cid: cid.into(),
            src_port: self.key.host,
            dst_port: self.key.guest,
            kind: self.kind,
            op: op::RST,
            ..Header::default()
        }
    }
}

/// Why a packet changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is nobody to answer: another's name as its sender, or a reset itself.
    Ignored,
    /// It is answered so.
    Answered(Reset),
}

/// Of the guest with the context identifier `cid`, in a buffer that has `payload` bytes behind the header.
///
/// # Errors
/// It is not to be obeyed.
pub fn parse(header: Header, payload: usize, cid: u32) -> Result<Packet, Refused> {
    let key = Key { host: header.dst_port, guest: header.src_port };
    let reset = Reset { host_cid: header.dst_cid, key, kind: header.kind };
    // A reset is answered by nothing, lest two answer each other for ever.
    let refused = if header.op == op::RST { Refused::Ignored } else { Refused::Answered(reset) };
    if header.src_cid != u64::from(cid) {
        return Err(Refused::Ignored);
    }
    // One guest reaches this host through this device, and no other guest.
    if header.dst_cid != HOST_CID || header.kind != STREAM {
        return Err(refused);
    }
    let request = match header.op {
        op::REQUEST => Request::Connect,
        op::RESPONSE => Request::Accept,
        op::RST => Request::Reset,
        op::SHUTDOWN => Request::Shutdown(Halves::of_flags(header.flags)),
        op::RW => {
            let length = usize::try_from(header.len).unwrap_or(usize::MAX);
            if length > payload {
                return Err(refused);
            }
            Request::Data(length)
        }
        op::CREDIT_UPDATE => Request::CreditUpdate,
        op::CREDIT_REQUEST => Request::AskForRoom,
        _ => return Err(refused),
    };
    Ok(Packet { key, room: Room { allocated: header.buf_alloc, forwarded: header.fwd_cnt }, request })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: u32 = 42;

    fn header(op: u16) -> Header {
        let (src_cid, dst_cid) = (CID.into(), HOST_CID);
        Header { src_cid, dst_cid, src_port: 7, dst_port: 9, kind: STREAM, op, ..Header::default() }
    }

    fn answered(header: Header) -> Reset {
        let Err(Refused::Answered(reset)) = parse(header, 0, CID) else { panic!("{header:?}") };
        reset
    }

    #[test]
    fn each_operation_is_known_and_no_other() {
        for number in 0..=u16::MAX {
            let parsed = parse(Header { flags: 3, len: 0, ..header(number) }, 0, CID);
            assert_eq!(parsed.is_ok(), (1..=7).contains(&number), "{number}");
        }
        let packet = parse(Header { buf_alloc: 5, fwd_cnt: 6, flags: 2, ..header(op::SHUTDOWN) }, 0, CID);
        let packet = packet.unwrap();
        assert_eq!(packet.key, Key { host: 9, guest: 7 });
        assert_eq!(packet.room, Room { allocated: 5, forwarded: 6 });
        assert_eq!(packet.request, Request::Shutdown(Halves { receive: false, send: true }));
    }

    #[test]
    fn a_length_is_within_its_buffer() {
        for (len, payload, fine) in
            [(0, 0, true), (1, 0, false), (5, 5, true), (u32::MAX, 5, false), (6, 5, false), (4, 5, true)]
        {
            let parsed = parse(Header { len, ..header(op::RW) }, payload, CID);
            assert_eq!(parsed.is_ok(), fine, "{len} of {payload}");
        }
        // What carries no data says nothing about any.
        assert!(parse(Header { len: u32::MAX, ..header(op::CREDIT_UPDATE) }, 0, CID).is_ok());
    }

    #[test]
    fn who_is_not_the_guest_is_not_answered() {
        for src_cid in [0, 1, 2, 43, u64::MAX, u64::from(CID) | 1 << 32] {
            let parsed = parse(Header { src_cid, ..header(op::REQUEST) }, 0, CID);
            assert_eq!(parsed, Err(Refused::Ignored));
        }
    }

    #[test]
    fn whoever_else_is_meant_refuses_in_his_own_name() {
        for dst_cid in [0, 1, 3, u64::MAX] {
            let reset = answered(Header { dst_cid, ..header(op::REQUEST) });
            assert_eq!(reset, Reset { host_cid: dst_cid, key: Key { host: 9, guest: 7 }, kind: STREAM });
        }
        let reset = answered(Header { kind: 2, ..header(op::REQUEST) }).header(CID);
        assert_eq!((reset.kind, reset.op, reset.src_port, reset.dst_port), (2, op::RST, 9, 7));
        assert_eq!((reset.src_cid, reset.dst_cid, reset.len), (HOST_CID, CID.into(), 0));
        let strange = Header { dst_cid: 5, ..header(op::RST) };
        assert_eq!(parse(strange, 0, CID), Err(Refused::Ignored), "a reset is not answered");
    }
}
