//! The virtio-blk device (virtio 1.2, §5.2): what it offers, and what each request does.
//!
//! Without VIRTIO_BLK_F_FLUSH the driver has no way to ask for durability, so each write is durable when it is
//! answered; with it, when the next flush is, unless the driver has VIRTIO_BLK_F_CONFIG_WCE and chose otherwise
//! (§5.2.6.2). That choice is the one thing that a disk's process must not forget: a driver that chose that writes be
//! durable when they are answered sends no flush any more. It holds for every request that is taken after the driver's
//! write to `writeback` was acknowledged; those answered before are as durable as they were.
//!
//! `capacity` is what the disk had when this process began or was last asked what it is before it served, or what the user
//! said since ([`crate::size`]). It only grows, so that a request which was within it stays so. It is not kept: the disk
//! itself says it to the next process.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

use device_backend::{
    Device, Durability, Error, Handler, Kept, NOTHING_TO_SET, Outside, Reader, Service, Writer, fault_point,
};
use nix::errno::Errno;
use protocol::{BlkOptions, Setting};

use crate::disk::Disk;
use crate::geometry::AlignedBuffer;
use crate::medium::Medium;
use crate::request::{
    CheckedSegment, ID_BYTES, Limits, MAX_DISCARD_SECTORS, MAX_SEGMENTS, MAX_WRITE_ZEROES_SECTORS, Range,
    Request, SegmentKind, parse, parse_segment,
};
use crate::wire::{Config, Header, SECTOR_SIZE, Segment, Status, feature};

/// Bytes of the largest segment that drivers are asked to make. A larger one is served all the same.
const SIZE_MAX: u32 = 4 << 20;
/// What drivers work with: a limit must not make requests smaller.
const LEAST_BOUND: u64 = 1 << 20;
/// Drivers make segments of whole pages.
const PAGE: u64 = 4096;
/// Version of what is kept: one byte, 0 or 1 as `writeback` has it.
const KEPT: u16 = 1;

/// A disk as a virtio device, whatever its sectors are in.
pub struct Blk<M = Disk> {
    disk: M,
    /// With the capacity of the start.
    limits: Limits,
    /// In sectors, as the driver may use them.
    capacity: AtomicU64,
    serial: [u8; ID_BYTES],
    queues: u16,
    queue_size: u16,
    /// Writes are durable with the next flush, and not when they are answered, for a driver that may choose.
    writeback: AtomicBool,
}

impl<M: Medium> Blk<M> {
    /// Serves `disk` as `options` say.
    ///
    /// # Errors
    /// A serial that is too long.
    pub fn new(options: &BlkOptions, disk: M) -> Result<Self, Error> {
        let mut serial = [0; ID_BYTES];
        let bytes = options.serial.as_bytes();
        let part = serial.get_mut(..bytes.len()).ok_or_else(|| {
            Error::Resource(format!("serial {:?} is longer than {ID_BYTES} bytes", options.serial))
        })?;
        part.copy_from_slice(bytes);
        let capacity = disk.geometry().size / SECTOR_SIZE;
        let (readonly, discard) = (options.readonly, options.discard && !options.readonly);
        let limits = Limits { capacity, readonly, discard, write_zeroes: true, most: u64::MAX };
        let (queues, queue_size) = (options.queues, options.queue_size);
        let (capacity, writeback) = (AtomicU64::new(capacity), AtomicBool::new(true));
        Ok(Self { disk, limits, capacity, serial, queues, queue_size, writeback })
    }

    /// What its sectors are in, to be completed before it serves.
    pub fn medium(&mut self) -> &mut M {
        &mut self.disk
    }

    /// By what a request is judged that is taken now.
    fn limits(&self) -> Limits {
        Limits { capacity: self.capacity.load(Acquire), ..self.limits }
    }

    /// What the driver knows, in bytes.
    fn known(&self) -> u64 {
        self.capacity.load(Acquire).saturating_mul(SECTOR_SIZE)
    }

    /// How many segments of how many bytes drivers are to make of a request, of at most `seg_max`: not more than it may
    /// have.
    fn largest_request(&self, seg_max: u32) -> (u32, u32) {
        let pages = self.limits.most / PAGE;
        let segments = u64::from(seg_max).min(pages).max(1);
        let size = pages.checked_div(segments).unwrap_or(1).saturating_mul(PAGE).min(SIZE_MAX.into());
        let narrow = |value| u32::try_from(value).unwrap_or(u32::MAX);
        (narrow(segments), narrow(size))
    }

    /// Answers whether it was another before.
    fn set_writeback(&self, on: bool) -> bool {
        self.writeback.swap(on, AcqRel) != on
    }

    /// Of a write, for a driver that accepted `features`. Whoever has CONFIG_WCE without FLUSH, which we do not offer
    /// apart, has no flush to wait for.
    fn durability(&self, features: u64) -> Durability {
        let chosen = features & feature::CONFIG_WCE != 0 && !self.writeback.load(Acquire);
        if features & feature::FLUSH == 0 || chosen { Durability::Immediate } else { Durability::Flushed }
    }
}

impl<M: Medium> Device for Blk<M> {
    fn features(&self) -> u64 {
        let mut features = feature::SIZE_MAX
            | feature::SEG_MAX
            | feature::BLK_SIZE
            | feature::FLUSH
            | feature::TOPOLOGY
            | feature::MQ;
        if self.limits.readonly {
            features |= feature::RO;
        } else {
            features |= feature::CONFIG_WCE;
            if self.limits.write_zeroes {
                features |= feature::WRITE_ZEROES;
            }
        }
        if self.limits.discard {
            features |= feature::DISCARD;
        }
        features
    }

    fn config(&self) -> Vec<u8> {
        let geometry = self.disk.geometry();
        let blocks = |bytes: u32| bytes.checked_div(geometry.logical).unwrap_or(0);
        let discard = if self.limits.discard { MAX_DISCARD_SECTORS } else { 0 };
        let zeroes = if self.features() & feature::WRITE_ZEROES == 0 { 0 } else { MAX_WRITE_ZEROES_SECTORS };
        // A request is a header, its data and a status, and no longer than the queue.
        let seg_max = u32::from(self.queue_size).saturating_sub(2).max(1);
        let (seg_max, size_max) = self.largest_request(seg_max);
        let segments = u32::try_from(MAX_SEGMENTS).unwrap_or(1);
        let config = Config {
            capacity: self.capacity.load(Acquire),
            size_max,
            seg_max,
            blk_size: geometry.logical,
            physical_block_exp: u8::try_from(blocks(geometry.physical).max(1).ilog2()).unwrap_or(0),
            alignment_offset: 0,
            min_io_size: u16::try_from(blocks(geometry.minimum_io)).unwrap_or(0),
            opt_io_size: blocks(geometry.optimal_io),
            writeback: self.writeback.load(Acquire),
            num_queues: self.queues,
            max_discard_sectors: discard,
            max_discard_seg: if discard == 0 { 0 } else { segments },
            discard_sector_alignment: self.disk.discard_unit() / 512,
            max_write_zeroes_sectors: zeroes,
            max_write_zeroes_seg: if zeroes == 0 { 0 } else { segments },
            write_zeroes_may_unmap: self.limits.discard,
        };
        config.bytes()
    }

    fn queues(&self) -> u16 {
        self.queues
    }

    /// With a limit on bytes write-zeroes is not offered: it may come down to writing as many as no request has.
    fn bound_requests(&mut self, bytes: u64) -> Result<(), Error> {
        if bytes < LEAST_BOUND {
            return Err(Error::Resource(format!(
                "the limit leaves {bytes} bytes for a request, and a disk needs {LEAST_BOUND}: allow more bandwidth, or \
                 have fewer queues than {}",
                self.queues
            )));
        }
        self.limits = Limits { most: bytes, write_zeroes: false, ..self.limits };
        Ok(())
    }

    /// Of a write that covers more than `writeback` the other bytes are those of fields that cannot be written. What is
    /// neither 0 nor 1 has no meaning (§5.2.5).
    fn write_config(&self, offset: usize, data: &[u8]) -> bool {
        let value = Config::WRITEBACK.checked_sub(offset).and_then(|at| data.get(at));
        match value {
            Some(value @ (0 | 1)) if !self.limits.readonly => self.set_writeback(*value == 1),
            _ => false,
        }
    }

    /// How large the disk is to be. Nothing of that is to be kept.
    fn set(&self, setting: Setting) -> Result<bool, String> {
        let Setting::Disk(wanted) = setting else { return Err(NOTHING_TO_SET.to_owned()) };
        let size = self.disk.resized(self.known(), wanted, self.limits.readonly)?;
        self.capacity.store(size / SECTOR_SIZE, Release);
        Ok(false)
    }

    /// The user may have had a predecessor say more. What cannot be found out, or cannot be used, stays as it was: that is
    /// for whoever changes the size to hear.
    fn look_again(&self) {
        if let Ok(size) = self.disk.present(self.known()) {
            self.capacity.fetch_max(size / SECTOR_SIZE, AcqRel);
        }
    }

    fn reset(&self) -> bool {
        self.set_writeback(true)
    }

    fn started(&self) -> bool {
        self.disk.started();
        false
    }

    fn heap(&self) -> usize {
        self.disk.heap()
    }

    fn kept(&self) -> Option<Kept> {
        let state = vec![u8::from(self.writeback.load(Acquire))];
        (!self.limits.readonly).then_some(Kept { version: KEPT, state })
    }

    fn restore(&self, kept: &Kept) -> bool {
        let known = match (kept.version, kept.state.as_slice()) {
            (KEPT, [value @ (0 | 1)]) => Some(*value == 1),
            _ => None,
        };
        self.set_writeback(known.unwrap_or(true));
        known.is_some()
    }

    fn service(self: &Arc<Self>, _queue: u16) -> Service {
        Service::Requests(Box::new(BlkQueue { blk: Arc::clone(self), buffer: AlignedBuffer::new() }))
    }
}

/// One queue.
struct BlkQueue<M> {
    blk: Arc<Blk<M>>,
    buffer: AlignedBuffer,
}

impl<M: Medium> Handler for BlkQueue<M> {
    fn handle(
        &mut self,
        features: u64,
        mut reader: Reader<'_, '_>,
        mut writer: Writer<'_, '_>,
    ) -> Result<u32, &'static str> {
        let room = writer.remaining().checked_sub(1).ok_or("a request has no room for its status")?;
        let mut status_byte = writer.split_off(room);
        let durability = self.blk.durability(features);
        let status = self.serve(durability, &mut reader, &mut writer);
        status_byte.write_all(&[status as u8]).map_err(|_| "a request has no room for its status")?;
        // The status counts only when everything before it was written: what is reported has no gap.
        let data = room.saturating_sub(writer.remaining());
        let written = if data == room { room.saturating_add(1) } else { data };
        Ok(u32::try_from(written).unwrap_or(u32::MAX))
    }

    /// With VIRTIO_BLK_S_IOERR. What may be written as data stays as it is, so nothing but a status of a request
    /// without data counts as written.
    fn refuse(&mut self, mut writer: Writer<'_, '_>) -> Result<u32, &'static str> {
        let room = writer.remaining().checked_sub(1).ok_or("a request has no room for its status")?;
        let mut status_byte = writer.split_off(room);
        status_byte.write_all(&[Status::IoErr as u8]).map_err(|_| "a request has no room for its status")?;
        Ok(u32::from(room == 0))
    }

    /// With VIRTIO_BLK_S_IOERR, if the status itself can be written: an application that reads or writes past the page cache
    /// (O_DIRECT) into a file in persistent memory (DAX) has the guest's kernel make such requests.
    fn refuse_outside(&mut self, request: Outside<'_, '_>) -> Result<u32, &'static str> {
        // Of its room from the beginning on nothing was written.
        self.refuse(request.behind).map(|_| 0)
    }
}

impl<M: Medium> BlkQueue<M> {
    fn serve(
        &mut self,
        durability: Durability,
        reader: &mut Reader<'_, '_>,
        writer: &mut Writer<'_, '_>,
    ) -> Status {
        let mut header = [0; 16];
        if reader.read_exact(&mut header).is_err() {
            return Status::IoErr;
        }
        let limits = self.blk.limits();
        match parse(Header::parse(header), reader.remaining(), writer.remaining(), limits) {
            Err(status) => status,
            Ok(request) => {
                fault_point!(BeforeIo);
                let status = self.perform(request, limits, durability, reader, writer);
                fault_point!(AfterIo);
                status
            }
        }
    }

    fn perform(
        &mut self,
        request: Request,
        limits: Limits,
        durability: Durability,
        reader: &mut Reader<'_, '_>,
        writer: &mut Writer<'_, '_>,
    ) -> Status {
        let disk = &self.blk.disk;
        match request {
            Request::In(range) => {
                let (_, complete) = disk.read(range, writer, &mut self.buffer);
                if complete { Status::Ok } else { Status::IoErr }
            }
            Request::Out(range) => status(disk.write(range, reader, durability, &mut self.buffer)),
            Request::Flush => status(disk.flush()),
            Request::GetId => {
                let length = writer.remaining().min(ID_BYTES);
                let id = self.blk.serial.get(..length).unwrap_or_default();
                if writer.write_all(id).is_ok() { Status::Ok } else { Status::IoErr }
            }
            Request::Segments(kind, count) => self.segments((kind, count), limits, durability, reader),
        }
    }

    /// All segments are checked before the first is done.
    fn segments(
        &mut self,
        (kind, count): (SegmentKind, usize),
        limits: Limits,
        durability: Durability,
        reader: &mut Reader<'_, '_>,
    ) -> Status {
        let nothing = CheckedSegment { range: Range { offset: 0, length: 0 }, unmap: false };
        let mut segments = [nothing; MAX_SEGMENTS];
        for segment in segments.iter_mut().take(count) {
            let mut bytes = [0; Segment::SIZE];
            if reader.read_exact(&mut bytes).is_err() {
                return Status::IoErr;
            }
            match parse_segment(kind, bytes, limits) {
                Ok(checked) => *segment = checked,
                Err(status) => return status,
            }
        }
        status(self.apply(kind, segments.get(..count).unwrap_or_default(), durability))
    }

    fn apply(
        &mut self,
        kind: SegmentKind,
        segments: &[CheckedSegment],
        durability: Durability,
    ) -> Result<(), Errno> {
        let disk = &self.blk.disk;
        for segment in segments {
            match kind {
                SegmentKind::Discard => disk.discard(segment.range)?,
                SegmentKind::WriteZeroes => {
                    disk.write_zeroes(segment.range, segment.unmap, &mut self.buffer)?;
                }
            }
        }
        if durability == Durability::Immediate { disk.flush() } else { Ok(()) }
    }
}

fn status(result: Result<(), Errno>) -> Status {
    match result {
        Ok(()) => Status::Ok,
        // Also when the host has no space left: the driver knows one kind of failure.
        Err(_) => Status::IoErr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blk(readonly: bool) -> Blk {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let disk = Disk::new(file.into(), false).unwrap();
        let (direct, serial, discard) = (false, String::new(), true);
        Blk::new(
            &BlkOptions { readonly, direct, serial, queues: 1, queue_size: 64, discard, backing: Vec::new() },
            disk,
        )
        .unwrap()
    }

    #[test]
    fn a_write_is_durable_at_once_for_whoever_chose_so_or_cannot_flush() {
        let (both, flush) = (feature::FLUSH | feature::CONFIG_WCE, feature::FLUSH);
        let blk = blk(false);
        for (features, writeback, durability) in [
            (both, 1, Durability::Flushed),
            (both, 0, Durability::Immediate),
            // A driver without CONFIG_WCE does not look at `writeback`, and sends flushes whatever it is.
            (flush, 0, Durability::Flushed),
            (flush, 1, Durability::Flushed),
            (feature::CONFIG_WCE, 1, Durability::Immediate),
            (0, 1, Durability::Immediate),
        ] {
            blk.write_config(Config::WRITEBACK, &[writeback]);
            assert_eq!(blk.durability(features), durability, "{features:#x} {writeback}");
        }
    }

    #[test]
    fn a_limited_disk_asks_for_no_request_that_it_refuses() {
        for (most, queue_size) in [(1 << 20, 1024), (1 << 20, 128), (20 << 20, 256), (1 << 40, 64)] {
            let mut blk = blk(false);
            blk.queue_size = queue_size;
            blk.bound_requests(most).unwrap();
            let config = blk.config();
            let word = |at: usize| u64::from(u32::from_le_bytes(config[at..at + 4].try_into().unwrap()));
            let (size_max, seg_max) = (word(8), word(12));
            assert!((PAGE..=SIZE_MAX.into()).contains(&size_max) && size_max.is_multiple_of(PAGE));
            assert!((1..=u64::from(queue_size) - 2).contains(&seg_max));
            assert!(size_max * seg_max <= most, "{seg_max} of {size_max}");
            assert!(size_max * seg_max > most / 2 || size_max == u64::from(SIZE_MAX));
            assert_eq!(blk.features() & feature::WRITE_ZEROES, 0);
        }
        let refused = blk(false).bound_requests(LEAST_BOUND - 1).unwrap_err().to_string();
        assert!(refused.contains("more bandwidth") && !refused.contains('\n'), "{refused}");
    }

    #[test]
    fn what_is_kept_is_what_is_restored_and_nothing_else_is() {
        for mode in [0, 1] {
            let (one, other) = (blk(false), blk(false));
            one.write_config(Config::WRITEBACK, &[mode]);
            assert!(other.restore(&one.kept().unwrap()));
            assert_eq!(other.config()[Config::WRITEBACK], mode);
            for (version, state) in
                [(1, vec![]), (1, vec![2]), (1, vec![0, 0]), (0, vec![0]), (2, vec![0]), (1, vec![0; 2024])]
            {
                assert!(!other.restore(&Kept { version, state }));
                assert_eq!(other.config()[Config::WRITEBACK], 1, "as if reset");
            }
        }
    }

    #[test]
    fn requests_are_judged_by_the_size_that_the_user_set() {
        let blk = blk(false);
        let capacity = |blk: &Blk| u64::from_le_bytes(blk.config()[..8].try_into().unwrap());
        let end = 1 << 11;
        let fits = |blk: &Blk, sector| {
            parse(Header { request_type: 1, sector }, 512, 0, blk.limits()) != Err(Status::IoErr)
        };
        assert!(fits(&blk, end - 1) && !fits(&blk, end) && capacity(&blk) == end);
        assert!(blk.set(Setting::Disk(None)).is_err() && blk.set(Setting::Balloon(0)).is_err());
        assert_eq!(blk.set(Setting::Disk(Some(2 << 20))), Ok(false));
        assert!(fits(&blk, 2 * end - 1) && !fits(&blk, 2 * end) && capacity(&blk) == 2 * end);
        assert!(blk.set(Setting::Disk(Some(1 << 20))).is_err());
        blk.reset();
        assert_eq!(capacity(&blk), 2 * end, "it is not the driver's to reset");
    }

    #[test]
    fn a_process_that_does_not_serve_yet_follows_a_disk_that_grows_and_no_other() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let mut blk = blk(false);
        blk.disk = Disk::new(file.try_clone().unwrap().into(), false).unwrap();
        for (size, sectors) in
            [(1 << 20, 1 << 11), (3 << 20, 3 << 11), (1 << 20, 3 << 11), ((4 << 20) + 5, 3 << 11)]
        {
            file.set_len(size).unwrap();
            blk.look_again();
            assert_eq!(blk.limits().capacity, sectors);
        }
    }

    #[test]
    fn a_disk_that_takes_no_writes_has_no_choice_and_keeps_nothing() {
        let blk = blk(true);
        assert_eq!(blk.features() & feature::CONFIG_WCE, 0);
        assert!(!blk.write_config(Config::WRITEBACK, &[0]) && blk.kept().is_none());
        assert_eq!(blk.config()[Config::WRITEBACK], 1);
    }
}
