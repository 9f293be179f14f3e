//! What a virtio-vsock driver sees (virtio 1.2, §5.10): numbers and structures under the names of the specification.
//! All little-endian.

/// §5.10.3.
pub mod feature {
    /// Stream sockets.
    pub const STREAM: u64 = 1 << 0;
}

/// §5.10.2.
pub mod queue {
    /// To the driver.
    pub const RX: u16 = 0;
    /// Of the driver.
    pub const TX: u16 = 1;
    /// All. The third one is for events.
    pub const COUNT: u16 = 3;
}

/// The host's context identifier (§5.10.4).
pub const HOST_CID: u64 = 2;
/// `VIRTIO_VSOCK_TYPE_STREAM` (§5.10.6).
pub const STREAM: u16 = 1;
/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`, as `struct virtio_vsock_event` (§5.10.6.7).
pub const TRANSPORT_RESET: [u8; 4] = [0; 4];

/// `VIRTIO_VSOCK_OP_*` (§5.10.6).
pub mod op {
    pub const REQUEST: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const RST: u16 = 3;
    pub const SHUTDOWN: u16 = 4;
    pub const RW: u16 = 5;
    pub const CREDIT_UPDATE: u16 = 6;
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flags of `SHUTDOWN` (§5.10.6.5): what whoever says it will not do any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Halves {
    /// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`.
    pub receive: bool,
    /// `VIRTIO_VSOCK_SHUTDOWN_F_SEND`.
    pub send: bool,
}

impl Halves {
    /// Of the header's `flags`; others have no meaning.
    #[must_use]
    pub fn of_flags(flags: u32) -> Self {
        Self { receive: flags & 1 != 0, send: flags & 2 != 0 }
    }

    /// For the header's `flags`.
    #[must_use]
    pub fn flags(self) -> u32 {
        u32::from(self.receive) | u32::from(self.send) << 1
    }

    /// What either has.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { receive: self.receive || other.receive, send: self.send || other.send }
    }

    /// Neither will be done.
    #[must_use]
    pub fn both(self) -> bool {
        self.receive && self.send
    }
}

/// `struct virtio_vsock_hdr` (§5.10.6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    /// Bytes of payload.
    pub len: u32,
    /// `type`.
    pub kind: u16,
    pub op: u16,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

impl Header {
    /// In bytes.
    pub const SIZE: usize = 44;

    /// As it stands in a packet.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::SIZE]) -> Self {
        let mut bytes = Bytes(bytes);
        Self {
            src_cid: u64::from_le_bytes(bytes.next()),
            dst_cid: u64::from_le_bytes(bytes.next()),
            src_port: u32::from_le_bytes(bytes.next()),
            dst_port: u32::from_le_bytes(bytes.next()),
            len: u32::from_le_bytes(bytes.next()),
            kind: u16::from_le_bytes(bytes.next()),
            op: u16::from_le_bytes(bytes.next()),
            flags: u32::from_le_bytes(bytes.next()),
            buf_alloc: u32::from_le_bytes(bytes.next()),
            fwd_cnt: u32::from_le_bytes(bytes.next()),
        }
    }

    /// The same the other way.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = [self.src_cid, self.dst_cid].map(u64::to_le_bytes).concat();
        bytes.extend([self.src_port, self.dst_port, self.len].into_iter().flat_map(u32::to_le_bytes));
        bytes.extend([self.kind, self.op].into_iter().flat_map(u16::to_le_bytes));
        bytes.extend([self.flags, self.buf_alloc, self.fwd_cnt].into_iter().flat_map(u32::to_le_bytes));
        bytes
    }
}

/// A reader that moves forward only; zeros past the end, which a header's fields do not reach.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next<const N: usize>(&mut self) -> [u8; N] {
        let (next, rest) = self.0.split_first_chunk().unwrap_or((&[0; N], &[]));
        self.0 = rest;
        *next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_the_specifications_layout() {
        let header = Header {
            src_cid: 0x0102,
            dst_cid: 2,
            src_port: 0xA1,
            dst_port: 0xA2,
            len: 0xA3,
            kind: 1,
            op: 5,
            flags: 0xA4,
            buf_alloc: 0xA5,
            fwd_cnt: 0xA6A7_A8A9,
        };
        let bytes = header.bytes();
        let fields = [(0, 0x02), (1, 0x01), (8, 2), (16, 0xA1), (20, 0xA2), (24, 0xA3), (28, 1), (30, 5)];
        for (at, value) in fields.into_iter().chain([(32, 0xA4), (36, 0xA5), (40, 0xA9), (43, 0xA6)]) {
            assert_eq!(bytes[at], value, "{at}");
        }
        assert_eq!(Header::parse(bytes.as_slice().try_into().unwrap()), header);
    }

    #[test]
    fn halves_are_two_flags() {
        for flags in 0..4 {
            assert_eq!(Halves::of_flags(flags | 0xffff_fff0).flags(), flags);
        }
        let (receive, send) = (Halves::of_flags(1), Halves::of_flags(2));
        assert!(receive.and(send).both() && !receive.and(receive).both() && receive.receive && send.send);
    }
}
