//! What a virtio-balloon driver sees (virtio 1.2, §5.5): numbers and structures under the names of the specification. All
//! little-endian.

/// §5.5.3.
pub mod feature {
    /// The driver answers what it is asked of the guest's memory.
    pub const STATS_VQ: u64 = 1 << 1;
    /// The driver may take pages back when the guest is out of memory.
    pub const DEFLATE_ON_OOM: u64 = 1 << 2;
    /// The driver reports pages that are free.
    pub const REPORTING: u64 = 1 << 5;
}

/// §5.5.2.
pub mod queue {
    /// Pages that the driver gives.
    pub const INFLATEQ: u16 = 0;
    /// Pages that it takes back.
    pub const DEFLATEQ: u16 = 1;
    /// What the driver says of the guest's memory, where it accepted VIRTIO_BALLOON_F_STATS_VQ.
    pub const STATSQ: u16 = 2;
    /// `reporting_vq` by the specification. Linux numbers the queues of the features that it accepted one after the other,
    /// and so comes to 3, since VIRTIO_BALLOON_F_FREE_PAGE_HINT is not offered, or to 2, where it did not accept
    /// VIRTIO_BALLOON_F_STATS_VQ either. Any of them that is nothing else is the same here.
    pub const REPORTING_VQ: u16 = 4;
    /// With that one.
    pub const COUNT: u16 = REPORTING_VQ + 1;
}

/// Of a page, whatever a page of the guest is (§5.5.6).
pub const PAGE_SHIFT: u32 = 12;
/// Bytes of a page.
pub const PAGE: u64 = 1 << PAGE_SHIFT;

/// `struct virtio_balloon_stat`, which is packed: a tag of 16 bits, a value of 64 (§5.5.6.3).
pub const STATISTIC: usize = 10;

/// `struct virtio_balloon_config` as far as its features make it valid (§5.5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Config {
    /// Pages that the device wants.
    pub num_pages: u32,
    /// Pages that the driver has given and not taken back, as it says itself. Written by it.
    pub actual: u32,
}

impl Config {
    /// Where `actual` is.
    pub const ACTUAL_AT: usize = 4;

    /// As the driver reads it. `free_page_hint_cmd_id` and `poison_val` go with features that are not offered.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        [self.num_pages, self.actual, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_the_specifications_layout() {
        let bytes = Config { num_pages: 0x0403_0201, actual: 5 }.bytes();
        assert_eq!(bytes, [1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[Config::ACTUAL_AT], 5);
    }
}
