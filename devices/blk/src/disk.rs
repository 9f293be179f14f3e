//! The host resource: one file or block device, read and written at checked ranges.
//!
//! Cached I/O goes straight between guest memory and the page cache. Direct I/O does too when the guest's pieces
//! and the range are aligned to the logical block; otherwise it goes through a buffer, and a write that covers a
//! block only in part reads that block first. Such a read-modify-write excludes every other write meanwhile, lest a
//! neighbouring sector's new content be overwritten with its old.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError, RwLock};

use device_backend::{Durability, Error, Reader, Writer, read_at, write_at};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::fdatasync;

use crate::geometry::{AlignedBuffer, BUFFER, Geometry};
use crate::request::Range;
use crate::wire::SECTOR_SIZE;

/// A disk, shared by all queues.
pub struct Disk {
    fd: OwnedFd,
    geometry: Geometry,
    direct: bool,
    /// Held shared by a write, alone by a read-modify-write.
    writes: RwLock<()>,
    /// For looking where the disk ends. Made ahead: allocating is for before the serving filter.
    look: Mutex<AlignedBuffer>,
}

impl Disk {
    /// Checks `fd` and takes it.
    ///
    /// # Errors
    /// See `Geometry::of`.
    pub fn new(fd: OwnedFd, direct: bool) -> Result<Self, Error> {
        let geometry = Geometry::of(&fd, direct)?;
        Ok(Self { fd, geometry, direct, writes: RwLock::new(()), look: Mutex::new(AlignedBuffer::new()) })
    }

    /// Its sizes, as they were at the start.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// What its size is a multiple of, in bytes: of what the host's direct I/O takes, where that is used.
    #[must_use]
    pub fn unit(&self) -> u64 {
        if self.direct { self.block() } else { SECTOR_SIZE }
    }

    /// Has `act` do something with the descriptor and a buffer of [`Disk::unit`] bytes, aligned for direct I/O.
    ///
    /// # Errors
    /// Those of `act`.
    pub fn with_block<T>(
        &self,
        act: impl FnOnce(&OwnedFd, &mut [u8]) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut buffer = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        let unit = usize::try_from(self.unit()).unwrap_or(usize::MAX);
        act(&self.fd, buffer.bytes().get_mut(..unit).ok_or(Errno::EIO)?)
    }

    /// Reads `range` into `writer`, which has room for exactly that, and returns the bytes written there. The end
    /// of a file that was truncated meanwhile is an error.
    pub fn read(
        &self,
        range: Range,
        writer: &mut Writer<'_, '_>,
        buffer: &mut AlignedBuffer,
    ) -> (usize, bool) {
        let room = writer.remaining();
        let fits = !self.direct || (self.aligned(range) && writer.is_aligned(self.block_usize()));
        let result = if fits {
            writer.fill_from(&self.fd, range.offset).map(|_| ())
        } else {
            self.read_buffered(range, writer, buffer)
        };
        let written = room.saturating_sub(writer.remaining());
        (written, result.is_ok() && writer.remaining() == 0)
    }

    /// Writes all of `reader` to `range`, which is exactly as long.
    ///
    /// # Errors
    /// The host's, or EIO when it wrote less.
    pub fn write(
        &self,
        range: Range,
        reader: &mut Reader<'_, '_>,
        durability: Durability,
        buffer: &mut AlignedBuffer,
    ) -> Result<(), Errno> {
        if !self.direct || (self.aligned(range) && reader.is_aligned(self.block_usize())) {
            let _shared = self.writes.read().unwrap_or_else(PoisonError::into_inner);
            reader.drain_to(&self.fd, range.offset, durability)?;
            return if reader.remaining() == 0 { Ok(()) } else { Err(Errno::EIO) };
        }
        let fill = |part: &mut [u8]| reader.read_exact(part).map_err(|_| Errno::EIO);
        self.write_buffered(range, durability, buffer, fill)
    }

    /// Makes all completed writes durable.
    ///
    /// # Errors
    /// The host's.
    pub fn flush(&self) -> Result<(), Errno> {
        fdatasync(&self.fd)
    }

    /// Gives the space of `range` back, if the host can. That it cannot is no error: discard is a hint.
    ///
    /// # Errors
    /// Any other of the host's.
    pub fn discard(&self, range: Range) -> Result<(), Errno> {
        match self.allocate(range, FallocateFlags::FALLOC_FL_PUNCH_HOLE) {
            Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => Ok(()),
            other => other,
        }
    }

    /// Makes `range` read as zeroes, giving the space back if `unmap`. Where the host has no quick way, by writing.
    ///
    /// # Errors
    /// The host's.
    pub fn write_zeroes(&self, range: Range, unmap: bool, buffer: &mut AlignedBuffer) -> Result<(), Errno> {
        let quick =
            if unmap { FallocateFlags::FALLOC_FL_PUNCH_HOLE } else { FallocateFlags::FALLOC_FL_ZERO_RANGE };
        match self.allocate(range, quick) {
            Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => {
                self.write_buffered(range, Durability::Flushed, buffer, |part| {
                    part.fill(0);
                    Ok(())
                })
            }
            other => other,
        }
    }

    /// For files and, since Linux 4.9, block devices alike. The range is not empty and never grows the file.
    fn allocate(&self, range: Range, mode: FallocateFlags) -> Result<(), Errno> {
        if range.length == 0 {
            return Ok(());
        }
        let mode = mode | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let offset = i64::try_from(range.offset).map_err(|_| Errno::EINVAL)?;
        let length = i64::try_from(range.length).map_err(|_| Errno::EINVAL)?;
        let _shared = self.writes.read().unwrap_or_else(PoisonError::into_inner);
        loop {
            match fallocate(&self.fd, mode, offset, length) {
                Err(Errno::EINTR) => {}
                other => return other,
            }
        }
    }

    fn read_buffered(
        &self,
        range: Range,
        writer: &mut Writer<'_, '_>,
        buffer: &mut AlignedBuffer,
    ) -> Result<(), Errno> {
        let mut left = range;
        while left.length > 0 {
            let window = self.window(left);
            let bytes = buffer.bytes().get_mut(..window.length).ok_or(Errno::EIO)?;
            let count = read_at(&self.fd, bytes, window.offset)?;
            let end = window.skip.saturating_add(window.take).min(count);
            let part = bytes.get(window.skip..end).ok_or(Errno::EIO)?;
            writer.write_all(part).map_err(|_| Errno::EIO)?;
            if part.len() < window.take {
                return Err(Errno::EIO);
            }
            left = window.rest(left);
        }
        Ok(())
    }

    /// Writes `range` window by window, each filled by `fill`, reading first what a window holds but the range
    /// does not.
    fn write_buffered(
        &self,
        range: Range,
        durability: Durability,
        buffer: &mut AlignedBuffer,
        mut fill: impl FnMut(&mut [u8]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut left = range;
        while left.length > 0 {
            let window = self.window(left);
            let bytes = buffer.bytes().get_mut(..window.length).ok_or(Errno::EIO)?;
            let _alone = self.writes.write().unwrap_or_else(PoisonError::into_inner);
            if window.take < window.length && read_at(&self.fd, bytes, window.offset)? < window.length {
                return Err(Errno::EIO);
            }
            fill(bytes.get_mut(window.skip..window.skip.saturating_add(window.take)).ok_or(Errno::EIO)?)?;
            if write_at(&self.fd, bytes, window.offset, durability)? < window.length {
                return Err(Errno::EIO);
            }
            left = window.rest(left);
        }
        Ok(())
    }

    /// The blocks that hold the start of `range`, as many as the buffer takes.
    fn window(&self, range: Range) -> Window {
        let block = if self.direct { self.block() } else { 1 };
        let before = range.offset.checked_rem(block).unwrap_or(0);
        let most = u64::try_from(BUFFER).unwrap_or(0).saturating_sub(before);
        let take = range.length.min(most);
        let length = before.saturating_add(take).checked_next_multiple_of(block).unwrap_or(0);
        // All at most BUFFER, which is a usize.
        let small = |value: u64| usize::try_from(value).unwrap_or(0);
        Window {
            offset: range.offset.saturating_sub(before),
            length: small(length),
            skip: small(before),
            take: small(take),
        }
    }

    fn aligned(&self, range: Range) -> bool {
        range.offset.is_multiple_of(self.block()) && range.length.is_multiple_of(self.block())
    }

    fn block(&self) -> u64 {
        self.geometry.logical.into()
    }

    fn block_usize(&self) -> usize {
        usize::try_from(self.geometry.logical).unwrap_or(BUFFER)
    }
}

/// Whole blocks from `offset`, of which `take` bytes after `skip` are meant.
struct Window {
    offset: u64,
    length: usize,
    skip: usize,
    take: usize,
}

impl Window {
    fn rest(&self, range: Range) -> Range {
        let take = u64::try_from(self.take).unwrap_or(u64::MAX);
        Range { offset: range.offset.saturating_add(take), length: range.length.saturating_sub(take) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;
    use vm_memory::VolatileSlice;

    fn disk(size: u64, direct: bool, logical: u32) -> (Disk, std::fs::File) {
        let file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        file.write_all_at(&content, 0).unwrap();
        let geometry = Geometry { size, logical, physical: logical, minimum_io: 0, optimal_io: 0 };
        let fd = file.try_clone().unwrap().into();
        let look = Mutex::new(AlignedBuffer::new());
        (Disk { fd, geometry, direct, writes: RwLock::new(()), look }, file)
    }

    fn contents(file: &std::fs::File, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn unaligned_direct_io_changes_what_was_meant_and_nothing_else() {
        let size = 4 * BUFFER;
        let (disk, file) = disk(u64::try_from(size).unwrap(), true, 4096);
        let mut expected = contents(&file, size);
        let mut buffer = AlignedBuffer::new();
        for (offset, length) in [(512, 512), (4096 - 512, 1024), (1536, BUFFER + 4096), (size - 512, 512)] {
            let mut data = vec![0xa5u8; length];
            expected[offset..offset + length].copy_from_slice(&data);
            let range = Range { offset: offset as u64, length: length as u64 };
            let slices = [VolatileSlice::from(&mut data[..])];
            let mut reader = Reader::new(&slices);
            disk.write(range, &mut reader, Durability::Flushed, &mut buffer).unwrap();
            assert!(contents(&file, size) == expected, "{offset} {length}");
            let mut back = vec![0u8; length];
            let slices = [VolatileSlice::from(&mut back[..])];
            assert_eq!(disk.read(range, &mut Writer::new(&slices), &mut buffer), (length, true));
            assert!(back == data);
        }
    }

    #[test]
    fn zeroes_are_written_whichever_way() {
        let (disk, file) = disk(1 << 20, false, 512);
        let mut expected = contents(&file, 1 << 20);
        let mut buffer = AlignedBuffer::new();
        for (offset, length, unmap) in
            [(512, 1024, false), (8192, 65536, true), (200 << 10, 200 << 10, false)]
        {
            let range = Range { offset: offset as u64, length: length as u64 };
            disk.write_zeroes(range, unmap, &mut buffer).unwrap();
            expected[offset..offset + length].fill(0);
            assert!(contents(&file, 1 << 20) == expected);
        }
        // The slow way, as on a host that has no other.
        let range = Range { offset: 700 << 10, length: 100 << 10 };
        disk.write_buffered(range, Durability::Flushed, &mut buffer, |part| {
            part.fill(0);
            Ok(())
        })
        .unwrap();
        expected[700 << 10..800 << 10].fill(0);
        assert!(contents(&file, 1 << 20) == expected);
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    }

    #[test]
    fn a_file_that_shrank_is_an_error_that_tells_how_much_was_read() {
        let (disk, file) = disk(8192, false, 512);
        file.set_len(5000).unwrap();
        let mut back = vec![0u8; 8192];
        let slices = [VolatileSlice::from(&mut back[..])];
        let range = Range { offset: 0, length: 8192 };
        let outcome = disk.read(range, &mut Writer::new(&slices), &mut AlignedBuffer::new());
        assert_eq!(outcome, (5000, false));
    }
}
