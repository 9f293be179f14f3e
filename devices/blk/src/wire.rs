//! What a virtio-blk driver sees (virtio 1.2, §5.2): numbers and structures under the names of the specification.
//! All little-endian.

/// Bytes of a sector, the unit of every position and length, whatever the block size (§5.2.4).
pub const SECTOR_SIZE: u64 = 512;

/// §5.2.3.
pub mod feature {
    /// Maximum size of a single segment is in `size_max`.
    pub const SIZE_MAX: u64 = 1 << 1;
    /// Maximum number of segments in a request is in `seg_max`.
    pub const SEG_MAX: u64 = 1 << 2;
    /// The device is read-only.
    pub const RO: u64 = 1 << 5;
    /// The block size is in `blk_size`.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// The cache flush command is supported.
    pub const FLUSH: u64 = 1 << 9;
    /// Topology is in `topology`.
    pub const TOPOLOGY: u64 = 1 << 10;
    /// The cache mode is in `writeback`, where the driver may change it.
    pub const CONFIG_WCE: u64 = 1 << 11;
    /// Multi-queue.
    pub const MQ: u64 = 1 << 12;
    /// The discard command is supported.
    pub const DISCARD: u64 = 1 << 13;
    /// The write zeroes command is supported.
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// `type` of a request (§5.2.6).
pub mod request_type {
    /// Read.
    pub const IN: u32 = 0;
    /// Write.
    pub const OUT: u32 = 1;
    /// Make earlier writes durable.
    pub const FLUSH: u32 = 4;
    /// The serial number.
    pub const GET_ID: u32 = 8;
    /// The driver does not need the content any more.
    pub const DISCARD: u32 = 11;
    /// Zeroes.
    pub const WRITE_ZEROES: u32 = 13;
}

/// The last byte of each request (§5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// VIRTIO_BLK_S_OK.
    Ok = 0,
    /// VIRTIO_BLK_S_IOERR.
    IoErr = 1,
    /// VIRTIO_BLK_S_UNSUPP.
    Unsupp = 2,
}

/// The fixed part in front of each request, `struct virtio_blk_req` up to its data: 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// One of [`request_type`], or a number that we do not know.
    pub request_type: u32,
    /// In sectors. Without a meaning for some types.
    pub sector: u64,
}

impl Header {
    /// From its bytes. The second word is reserved.
    #[must_use]
    pub fn parse(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, _, _, _, _, sector @ ..] = bytes;
        Self { request_type: u32::from_le_bytes([a, b, c, d]), sector: u64::from_le_bytes(sector) }
    }
}

/// `struct virtio_blk_discard_write_zeroes`: 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First sector.
    pub sector: u64,
    /// Length in sectors.
    pub num_sectors: u32,
    /// Bit 0: unmap; the others are reserved.
    pub flags: u32,
}

impl Segment {
    /// Bytes of one.
    pub const SIZE: usize = 16;
    /// May the range be unmapped instead of written?
    pub const FLAG_UNMAP: u32 = 1;

    /// From its bytes.
    #[must_use]
    pub fn parse(bytes: [u8; Self::SIZE]) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = bytes;
        Self {
            sector: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            num_sectors: u32::from_le_bytes([n0, n1, n2, n3]),
            flags: u32::from_le_bytes([f0, f1, f2, f3]),
        }
    }
}

/// `struct virtio_blk_config` (§5.2.4) without what we never offer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Config {
    /// In sectors.
    pub capacity: u64,
    /// Bytes of the largest segment.
    pub size_max: u32,
    /// Segments of a request's data.
    pub seg_max: u32,
    /// Logical block size in bytes.
    pub blk_size: u32,
    /// log2 of logical blocks per physical block.
    pub physical_block_exp: u8,
    /// Offset of the first aligned logical block.
    pub alignment_offset: u8,
    /// Suggested minimum I/O size in logical blocks.
    pub min_io_size: u16,
    /// Suggested optimal I/O size in logical blocks.
    pub opt_io_size: u32,
    /// The cache mode: writes are durable with the next flush, not when they are answered.
    pub writeback: bool,
    /// Queues.
    pub num_queues: u16,
    /// Sectors of the longest discard segment.
    pub max_discard_sectors: u32,
    /// Segments of a discard request.
    pub max_discard_seg: u32,
    /// In sectors.
    pub discard_sector_alignment: u32,
    /// Sectors of the longest write-zeroes segment.
    pub max_write_zeroes_sectors: u32,
    /// Segments of a write-zeroes request.
    pub max_write_zeroes_seg: u32,
    /// Whether write-zeroes may unmap.
    pub write_zeroes_may_unmap: bool,
}

impl Config {
    /// Where `writeback` stands: one byte, the only field that a driver may write.
    pub const WRITEBACK: usize = 32;

    /// The bytes of the configuration space.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(60);
        bytes.extend(self.capacity.to_le_bytes());
        bytes.extend(self.size_max.to_le_bytes());
        bytes.extend(self.seg_max.to_le_bytes());
        // geometry: cylinders, heads, sectors.
        bytes.extend([0; 4]);
        bytes.extend(self.blk_size.to_le_bytes());
        bytes.extend([self.physical_block_exp, self.alignment_offset]);
        bytes.extend(self.min_io_size.to_le_bytes());
        bytes.extend(self.opt_io_size.to_le_bytes());
        bytes.extend([u8::from(self.writeback), 0]);
        bytes.extend(self.num_queues.to_le_bytes());
        bytes.extend(self.max_discard_sectors.to_le_bytes());
        bytes.extend(self.max_discard_seg.to_le_bytes());
        bytes.extend(self.discard_sector_alignment.to_le_bytes());
        bytes.extend(self.max_write_zeroes_sectors.to_le_bytes());
        bytes.extend(self.max_write_zeroes_seg.to_le_bytes());
        bytes.extend([u8::from(self.write_zeroes_may_unmap), 0, 0, 0]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_fields_stand_at_the_offsets_of_the_specification() {
        let config = Config {
            capacity: 0x0102_0304_0506_0708,
            seg_max: 126,
            blk_size: 4096,
            physical_block_exp: 3,
            writeback: true,
            num_queues: 4,
            max_discard_sectors: 7,
            write_zeroes_may_unmap: true,
            ..Config::default()
        };
        let bytes = config.bytes();
        assert_eq!(bytes.len(), 60);
        assert_eq!(bytes[0..8], 0x0102_0304_0506_0708u64.to_le_bytes());
        assert_eq!(bytes[12], 126);
        assert_eq!(bytes[20..24], 4096u32.to_le_bytes());
        assert_eq!(bytes[24], 3);
        assert_eq!((bytes[Config::WRITEBACK], bytes[33]), (1, 0));
        assert_eq!(bytes[34], 4);
        assert_eq!(bytes[36], 7);
        assert_eq!(bytes[56], 1);
    }
}
