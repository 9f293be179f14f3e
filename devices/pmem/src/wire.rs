//! What a guest sees of the device (virtio 1.2, §5.19), by the specification's names.

use protocol::MemoryRegion;

/// `struct virtio_pmem_req`: `le32 type`.
pub const REQUEST_SIZE: usize = 4;
/// `struct virtio_pmem_resp`: `le32 ret`.
pub const RESPONSE_SIZE: usize = 4;

const VIRTIO_PMEM_REQ_TYPE_FLUSH: u32 = 0;

/// What a driver asks for (§5.19.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// That everything it wrote is on the medium.
    Flush,
}

impl Request {
    /// None for a type that does not exist.
    #[must_use]
    pub fn parse(bytes: [u8; REQUEST_SIZE]) -> Option<Self> {
        (u32::from_le_bytes(bytes) == VIRTIO_PMEM_REQ_TYPE_FLUSH).then_some(Self::Flush)
    }
}

/// `ret` (§5.19.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// `VIRTIO_PMEM_RESP_TYPE_OK`.
    Ok = 0,
    /// `VIRTIO_PMEM_RESP_TYPE_EIO`.
    Eio = 1,
}

impl Response {
    /// As the driver reads it.
    #[must_use]
    pub fn bytes(self) -> [u8; RESPONSE_SIZE] {
        (self as u32).to_le_bytes()
    }
}

/// `struct virtio_pmem_config`: `le64 start`, `le64 size` (§5.19.4).
#[must_use]
pub fn config(region: MemoryRegion) -> Vec<u8> {
    [region.guest_phys.to_le_bytes(), region.size.to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_is_all_that_can_be_asked_for() {
        assert_eq!(Request::parse([0; 4]), Some(Request::Flush));
        for kind in [1, 1 << 8, 1 << 31, u32::MAX] {
            assert_eq!(Request::parse(kind.to_le_bytes()), None, "{kind}");
        }
    }

    #[test]
    fn numbers_are_little_endian() {
        assert_eq!((Response::Ok.bytes(), Response::Eio.bytes()), ([0; 4], [1, 0, 0, 0]));
        let region = MemoryRegion { guest_phys: 0x0102_0304_0506_0708, size: 0x20_0000 };
        assert_eq!(config(region), [8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0x20, 0, 0, 0, 0, 0]);
    }
}
