//! What a virtio-net driver sees (virtio 1.2, §5.1): numbers and structures under the names of the specification.
//! All little-endian. The header in front of each frame is the one that a tap has as well.

/// §5.1.3.
pub mod feature {
    /// The device takes frames with a partial checksum.
    pub const CSUM: u64 = 1 << 0;
    /// The driver takes frames with a partial checksum.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The driver may change which offloads it wants, by commands.
    pub const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
    /// The device's largest packet is in `mtu`.
    pub const MTU: u64 = 1 << 3;
    /// The device's address is in `mac`.
    pub const MAC: u64 = 1 << 5;
    /// The driver takes TSO for IPv4.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// The driver takes TSO for IPv6.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// The driver takes TSO with ECN.
    pub const GUEST_ECN: u64 = 1 << 9;
    /// The device takes TSO for IPv4.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// The device takes TSO for IPv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// The device takes TSO with ECN.
    pub const HOST_ECN: u64 = 1 << 13;
    /// The driver merges receive buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// The state of the link is in `status`.
    pub const STATUS: u64 = 1 << 16;
    /// There is a control queue.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// There are several pairs of queues.
    pub const MQ: u64 = 1 << 22;
    /// The driver takes USO for IPv4.
    pub const GUEST_USO4: u64 = 1 << 54;
    /// The driver takes USO for IPv6.
    pub const GUEST_USO6: u64 = 1 << 55;
    /// The device takes USO.
    pub const HOST_USO: u64 = 1 << 56;
}

/// What a driver can be handed unfinished, and say by a command whether it wants to be (§5.1.6.5.6.1), by feature bits.
pub const GUEST_OFFLOADS: u64 = feature::GUEST_CSUM
    | feature::GUEST_TSO4
    | feature::GUEST_TSO6
    | feature::GUEST_ECN
    | feature::GUEST_USO4
    | feature::GUEST_USO6;

/// Numbers of queues (§5.1.2): `receiveq` and `transmitq` of each pair, and behind the last pair `controlq`.
pub mod queue {
    /// The control queue of a driver that uses one pair because it does not know of several. Else it is `receiveq2`.
    pub const CONTROLQ_OF_ONE_PAIR: u16 = 2;

    /// The control queue of a device of so many pairs.
    #[must_use]
    pub const fn controlq(pairs: u16) -> u16 {
        pairs.saturating_mul(2)
    }
}

/// `class` and `command` of those commands that are known here (§5.1.6.5).
pub mod class {
    /// VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, with the number as le16.
    pub const MQ_VQ_PAIRS_SET: [u8; 2] = [4, 0];
    /// VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, with the offloads as le64.
    pub const GUEST_OFFLOADS_SET: [u8; 2] = [5, 0];
}

/// `ack` of a command (§5.1.6.5).
pub mod ack {
    /// VIRTIO_NET_OK.
    pub const OK: u8 = 0;
    /// VIRTIO_NET_ERR.
    pub const ERR: u8 = 1;
}

/// `status` (§5.1.4): VIRTIO_NET_S_LINK_UP.
pub const LINK_UP: u16 = 1;
/// Bytes of an Ethernet header.
pub const ETHERNET_HEADER: usize = 14;
/// Bytes of a VLAN tag, which comes on top.
pub const VLAN_TAG: usize = 4;

/// `struct virtio_net_config` as far as this device fills it in (§5.1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The device's address.
    pub mac: [u8; 6],
    /// [`LINK_UP`], or nothing.
    pub status: u16,
    /// Valid with VIRTIO_NET_F_MQ.
    pub max_virtqueue_pairs: u16,
    /// Valid with VIRTIO_NET_F_MTU.
    pub mtu: u16,
}

impl Config {
    /// As the driver reads it.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = self.mac.to_vec();
        for field in [self.status, self.max_virtqueue_pairs, self.mtu] {
            bytes.extend(field.to_le_bytes());
        }
        bytes
    }
}

/// `flags` of a header (§5.1.6).
pub mod flag {
    /// VIRTIO_NET_HDR_F_NEEDS_CSUM: the checksum at `csum_start` + `csum_offset` is partial.
    pub const NEEDS_CSUM: u8 = 1;
    /// VIRTIO_NET_HDR_F_DATA_VALID: the checksum was found right, or needs no look.
    pub const DATA_VALID: u8 = 2;
}

/// `gso_type` of a header (§5.1.6).
pub mod gso {
    /// VIRTIO_NET_HDR_GSO_NONE.
    pub const NONE: u8 = 0;
    /// VIRTIO_NET_HDR_GSO_TCPV4.
    pub const TCPV4: u8 = 1;
    /// VIRTIO_NET_HDR_GSO_TCPV6.
    pub const TCPV6: u8 = 4;
    /// VIRTIO_NET_HDR_GSO_UDP_L4.
    pub const UDP_L4: u8 = 5;
    /// VIRTIO_NET_HDR_GSO_ECN, a bit beside the others.
    pub const ECN: u8 = 0x80;
}

/// `struct virtio_net_hdr` with `num_buffers`, as each frame has it with VIRTIO_F_VERSION_1 (§5.1.6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// Of [`flag`].
    pub flags: u8,
    /// Of [`gso`].
    pub gso_type: u8,
    /// Bytes of the headers that each segment has. A hint.
    pub hdr_len: u16,
    /// Bytes of each segment's payload.
    pub gso_size: u16,
    /// Where the checksum begins, in the frame.
    pub csum_start: u16,
    /// Where it is put, from there.
    pub csum_offset: u16,
    /// Buffers that the frame lies in; a receive queue's only.
    pub num_buffers: u16,
}

impl Header {
    /// Of the structure.
    pub const SIZE: usize = protocol::tap::HEADER_SIZE;

    /// From its bytes.
    #[must_use]
    pub fn parse(bytes: [u8; Self::SIZE]) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h, i, j] = bytes;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([a, b]),
            gso_size: u16::from_le_bytes([c, d]),
            csum_start: u16::from_le_bytes([e, f]),
            csum_offset: u16::from_le_bytes([g, h]),
            num_buffers: u16::from_le_bytes([i, j]),
        }
    }

    /// To its bytes.
    #[must_use]
    pub fn bytes(self) -> [u8; Self::SIZE] {
        let [a, b] = self.hdr_len.to_le_bytes();
        let [c, d] = self.gso_size.to_le_bytes();
        let [e, f] = self.csum_start.to_le_bytes();
        let [g, h] = self.csum_offset.to_le_bytes();
        let [i, j] = self.num_buffers.to_le_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h, i, j]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_and_header_have_the_specifications_layout() {
        let config = Config { mac: [2, 3, 4, 5, 6, 7], status: LINK_UP, max_virtqueue_pairs: 2, mtu: 1400 };
        assert_eq!(config.bytes(), [2, 3, 4, 5, 6, 7, 1, 0, 2, 0, 0x78, 5]);
        let bytes = [1, 0x81, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
        let header = Header::parse(bytes);
        assert_eq!((header.gso_type, header.hdr_len, header.num_buffers), (0x81, 0x0302, 0x0b0a));
        assert_eq!(header.bytes(), bytes);
    }
}
