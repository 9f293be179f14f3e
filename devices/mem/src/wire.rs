//! What a virtio-mem driver sees (virtio 1.2, §5.15): numbers and structures under the names of the specification. All
//! little-endian.

use protocol::MemoryRegion;

/// §5.15.3.
pub mod feature {
    /// The driver must not touch memory that is not plugged.
    pub const UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;
}

/// §5.15.6: `VIRTIO_MEM_REQ_*`.
pub mod kind {
    /// Blocks are to be plugged.
    pub const PLUG: u16 = 0;
    /// Blocks are to be unplugged.
    pub const UNPLUG: u16 = 1;
    /// All of them.
    pub const UNPLUG_ALL: u16 = 2;
    /// Which of the two blocks are.
    pub const STATE: u16 = 3;
}

/// Bytes of `struct virtio_mem_req`: `le16 type`, `le16 padding[3]`, `le64 addr`, `le16 nb_blocks`, `le16 padding[3]`.
pub const REQUEST: usize = 24;
/// Those of them that a request without blocks needs to have.
pub const REQUEST_HEAD: usize = 8;
/// Bytes of `struct virtio_mem_resp`: `le16 type`, `le16 padding[3]`, `le16 state`.
pub const RESPONSE: usize = 10;

/// What the device answers, `VIRTIO_MEM_RESP_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// It is done.
    Ack,
    /// It would be more than is wanted.
    Nack,
    /// Not now.
    Busy,
    /// Never.
    Error,
    /// It is done, and this is what was asked for.
    State(BlockState),
}

/// What blocks are, `VIRTIO_MEM_STATE_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockState {
    /// All of them are plugged.
    Plugged = 0,
    /// None is.
    Unplugged = 1,
    /// Some are.
    Mixed = 2,
}

impl Response {
    /// As the driver reads it.
    #[must_use]
    pub fn bytes(self) -> [u8; RESPONSE] {
        let (kind, state) = match self {
            Self::Ack => (0, 0),
            Self::Nack => (1, 0),
            Self::Busy => (2, 0),
            Self::Error => (3, 0),
            Self::State(state) => (0, state as u8),
        };
        [kind, 0, 0, 0, 0, 0, 0, 0, state, 0]
    }
}

/// `struct virtio_mem_config` (§5.15.4), in bytes all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Of one block.
    pub block_size: u64,
    /// `addr` and `region_size`.
    pub region: MemoryRegion,
    /// Of all that is plugged.
    pub plugged_size: u64,
    /// Of all that shall be.
    pub requested_size: u64,
}

impl Config {
    /// As the driver reads it. `node_id` goes with a feature that is not offered; all of the region can be used.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        let node_id = 0;
        let MemoryRegion { guest_phys, size } = self.region;
        [self.block_size, node_id, guest_phys, size, size, self.plugged_size, self.requested_size]
            .into_iter()
            .flat_map(u64::to_le_bytes)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_specifications_layout() {
        assert_eq!(Response::Error.bytes(), [3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Response::State(BlockState::Mixed).bytes(), [0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        let region = MemoryRegion { guest_phys: 2, size: 3 };
        let bytes = Config { block_size: 1, region, plugged_size: 4, requested_size: 0x0605 }.bytes();
        let words: Vec<u64> = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        assert_eq!((words, bytes.len()), (vec![1, 0, 2, 3, 3, 4, 0x0605], 56));
    }
}
