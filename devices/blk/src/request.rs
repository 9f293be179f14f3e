//! From a guest's bytes to a request whose every number has been checked: the only parser of guest bytes in this
//! program. Pure: no file, no guest memory.
//!
//! What a request may do is decided by what this device *offered*, never by what the driver says it accepted: a
//! disk that is read-only stays so whoever asks.

use crate::wire::{Header, SECTOR_SIZE, Segment, Status, request_type};

/// Segments of one discard or write-zeroes request.
pub const MAX_SEGMENTS: usize = 16;
/// Longest discard segment, in sectors: 1 GiB.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// Longest write-zeroes segment, in sectors: 32 MiB, as it may come down to writing them.
pub const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 16;
/// Bytes that GET_ID answers at most.
pub const ID_BYTES: usize = 20;

/// What the disk is and was offered as.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// In sectors.
    pub capacity: u64,
    /// Nothing may change it.
    pub readonly: bool,
    /// Discard is offered, and write-zeroes may unmap.
    pub discard: bool,
    /// Write-zeroes is offered, where anything may be changed.
    pub write_zeroes: bool,
    /// Bytes of data that a request may have.
    pub most: u64,
}

/// A checked range of the disk. `offset + length` is within the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// In bytes, a multiple of the sector size.
    pub offset: u64,
    /// In bytes, a multiple of the sector size.
    pub length: u64,
}

/// A request that can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Read the range into the writable part, which is exactly as long.
    In(Range),
    /// Write the readable part, which is exactly as long, to the range.
    Out(Range),
    /// Make all completed writes durable.
    Flush,
    /// Write the serial, padded with zeroes, as far as there is room.
    GetId,
    /// The readable part is this many [`Segment`]s, at least 1 and at most [`MAX_SEGMENTS`].
    Segments(SegmentKind, usize),
}

/// What to do with the segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// VIRTIO_BLK_T_DISCARD.
    Discard,
    /// VIRTIO_BLK_T_WRITE_ZEROES.
    WriteZeroes,
}

/// A checked segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckedSegment {
    /// Where.
    pub range: Range,
    /// The space may be given back.
    pub unmap: bool,
}

/// Checks a request of which `readable` bytes follow the header, and `writable` bytes precede the status.
///
/// # Errors
/// The status to answer.
pub fn parse(header: Header, readable: usize, writable: usize, limits: Limits) -> Result<Request, Status> {
    match header.request_type {
        request_type::IN => Ok(Request::In(limits.data(header.sector, writable)?)),
        request_type::OUT if limits.readonly => Err(Status::IoErr),
        request_type::OUT => Ok(Request::Out(limits.data(header.sector, readable)?)),
        request_type::FLUSH => Ok(Request::Flush),
        request_type::GET_ID => Ok(Request::GetId),
        request_type::DISCARD if !limits.discard => Err(Status::Unsupp),
        request_type::DISCARD => limits.segments(SegmentKind::Discard, readable),
        request_type::WRITE_ZEROES if !limits.write_zeroes => Err(Status::Unsupp),
        request_type::WRITE_ZEROES => limits.segments(SegmentKind::WriteZeroes, readable),
        _ => Err(Status::Unsupp),
    }
}

/// Checks one segment (§5.2.6.2).
///
/// # Errors
/// The status to answer.
pub fn parse_segment(
    kind: SegmentKind,
    bytes: [u8; Segment::SIZE],
    limits: Limits,
) -> Result<CheckedSegment, Status> {
    let segment = Segment::parse(bytes);
    let unmap = segment.flags & Segment::FLAG_UNMAP != 0;
    if segment.flags & !Segment::FLAG_UNMAP != 0 || (unmap && kind == SegmentKind::Discard) {
        return Err(Status::Unsupp);
    }
    let longest = match kind {
        SegmentKind::Discard => MAX_DISCARD_SECTORS,
        SegmentKind::WriteZeroes => MAX_WRITE_ZEROES_SECTORS,
    };
    if segment.num_sectors > longest {
        return Err(Status::IoErr);
    }
    let range = limits.range(segment.sector, segment.num_sectors.into())?;
    Ok(CheckedSegment { range, unmap: unmap && limits.discard })
}

impl Limits {
    fn data(self, sector: u64, bytes: usize) -> Result<Range, Status> {
        let bytes = u64::try_from(bytes).map_err(|_| Status::IoErr)?;
        if !bytes.is_multiple_of(SECTOR_SIZE) || bytes > self.most {
            return Err(Status::IoErr);
        }
        self.range(sector, bytes / SECTOR_SIZE)
    }

    fn range(self, sector: u64, sectors: u64) -> Result<Range, Status> {
        let end = sector.checked_add(sectors).filter(|end| *end <= self.capacity);
        let bytes =
            end.and_then(|_| Some((sector.checked_mul(SECTOR_SIZE)?, sectors.checked_mul(SECTOR_SIZE)?)));
        let (offset, length) = bytes.ok_or(Status::IoErr)?;
        Ok(Range { offset, length })
    }

    fn segments(self, kind: SegmentKind, readable: usize) -> Result<Request, Status> {
        let count = readable / Segment::SIZE;
        if self.readonly || count == 0 || count > MAX_SEGMENTS || !readable.is_multiple_of(Segment::SIZE) {
            return Err(Status::IoErr);
        }
        Ok(Request::Segments(kind, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: Limits =
        Limits { capacity: 100, readonly: false, discard: true, write_zeroes: true, most: u64::MAX };

    fn ask(request_type: u32, sector: u64, readable: usize, writable: usize) -> Result<Request, Status> {
        parse(Header { request_type, sector }, readable, writable, DISK)
    }

    fn segment(sector: u64, num_sectors: u32, flags: u32) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&sector.to_le_bytes());
        bytes[8..12].copy_from_slice(&num_sectors.to_le_bytes());
        bytes[12..].copy_from_slice(&flags.to_le_bytes());
        bytes
    }

    #[test]
    fn a_limited_disk_refuses_what_is_longer_than_its_bound_and_has_no_write_zeroes() {
        let limits = Limits { most: 4096, write_zeroes: false, ..DISK };
        let ask = |request_type, bytes| parse(Header { request_type, sector: 0 }, bytes, bytes, limits);
        for kind in [request_type::IN, request_type::OUT] {
            assert!(ask(kind, 4096).is_ok());
            assert_eq!(ask(kind, 4608), Err(Status::IoErr));
        }
        assert_eq!(ask(request_type::WRITE_ZEROES, Segment::SIZE), Err(Status::Unsupp));
        assert!(ask(request_type::DISCARD, Segment::SIZE).is_ok());
    }

    #[test]
    fn data_ends_where_the_disk_ends() {
        let last = Range { offset: 99 * 512, length: 512 };
        assert_eq!(ask(request_type::IN, 99, 0, 512), Ok(Request::In(last)));
        assert_eq!(ask(request_type::OUT, 99, 512, 0), Ok(Request::Out(last)));
        for (sector, bytes) in [(99, 1024), (100, 512), (101, 0), (u64::MAX, 512), (u64::MAX / 512, 512)] {
            assert_eq!(ask(request_type::IN, sector, 0, bytes), Err(Status::IoErr), "{sector} {bytes}");
            assert_eq!(ask(request_type::OUT, sector, bytes, 0), Err(Status::IoErr), "{sector} {bytes}");
        }
    }

    #[test]
    fn data_is_whole_sectors() {
        for bytes in [1, 511, 513, 1000] {
            assert_eq!(ask(request_type::IN, 0, 0, bytes), Err(Status::IoErr));
            assert_eq!(ask(request_type::OUT, 0, bytes, 0), Err(Status::IoErr));
        }
    }

    #[test]
    fn a_read_only_disk_takes_no_change() {
        let limits = Limits { readonly: true, ..DISK };
        for request_type in [request_type::OUT, request_type::DISCARD, request_type::WRITE_ZEROES] {
            let header = Header { request_type, sector: 0 };
            assert_eq!(parse(header, 512, 0, limits), Err(Status::IoErr));
        }
        assert!(parse(Header { request_type: request_type::IN, sector: 0 }, 0, 512, limits).is_ok());
    }

    #[test]
    fn unknown_types_are_unsupported() {
        for request_type in [2, 3, 5, 7, 9, 10, 12, 14, 16, u32::MAX] {
            assert_eq!(ask(request_type, 0, 0, 0), Err(Status::Unsupp), "{request_type}");
        }
        let limits = Limits { discard: false, ..DISK };
        let header = Header { request_type: request_type::DISCARD, sector: 0 };
        assert_eq!(parse(header, 16, 0, limits), Err(Status::Unsupp));
    }

    #[test]
    fn segments_are_counted() {
        let ask = |bytes| ask(request_type::DISCARD, 0, bytes, 0);
        assert_eq!(ask(16), Ok(Request::Segments(SegmentKind::Discard, 1)));
        assert_eq!(ask(256), Ok(Request::Segments(SegmentKind::Discard, 16)));
        for bytes in [0, 1, 15, 17, 272] {
            assert_eq!(ask(bytes), Err(Status::IoErr), "{bytes}");
        }
    }

    #[test]
    fn a_segment_is_within_the_disk_and_its_limit() {
        use SegmentKind::{Discard, WriteZeroes};
        let huge = Limits { capacity: u64::MAX, ..DISK };
        let checked = parse_segment(WriteZeroes, segment(10, 5, 1), DISK).unwrap();
        assert_eq!(checked, CheckedSegment { range: Range { offset: 5120, length: 2560 }, unmap: true });
        for bytes in [segment(99, 2, 0), segment(u64::MAX, 1, 0), segment(0, u32::MAX, 0)] {
            assert_eq!(parse_segment(Discard, bytes, DISK), Err(Status::IoErr));
        }
        let longest = segment(0, MAX_WRITE_ZEROES_SECTORS, 0);
        assert!(parse_segment(WriteZeroes, longest, huge).is_ok());
        let longer = segment(0, MAX_WRITE_ZEROES_SECTORS + 1, 0);
        assert_eq!(parse_segment(WriteZeroes, longer, huge), Err(Status::IoErr));
        assert_eq!(parse_segment(Discard, segment(0, 1, 1), DISK), Err(Status::Unsupp));
        assert_eq!(parse_segment(WriteZeroes, segment(0, 1, 2), DISK), Err(Status::Unsupp));
        let sectors = u64::MAX / 512;
        assert_eq!(parse_segment(Discard, segment(sectors + 1, 1, 0), huge), Err(Status::IoErr));
    }

    #[test]
    fn unmapping_is_not_done_unless_offered() {
        let limits = Limits { discard: false, ..DISK };
        let checked = parse_segment(SegmentKind::WriteZeroes, segment(0, 1, 1), limits).unwrap();
        assert!(!checked.unmap);
    }
}
