//! The image as a file: one descriptor that was opened by somebody else, and four calls on it.

use std::os::fd::OwnedFd;
#[cfg(test)]
use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use device_backend::{Durability, Error, Reader, Writer, read_at, write_at};
use device_blk::Geometry;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::fdatasync;

use crate::below::fill;

/// Bytes of zeroes that are written at a time where the host has no quick way.
const ZEROES: usize = 64 << 10;

/// See above. What lies behind its end reads as zeroes, as the format has it.
#[derive(Debug)]
pub struct ImageFile {
    fd: OwnedFd,
    /// All that was changed, in order.
    #[cfg(test)]
    pub steps: Mutex<Vec<Step>>,
    /// The host tells of a failure, the next time that it is asked.
    #[cfg(test)]
    pub sync_fails: AtomicBool,
}

/// A change that the host took.
#[cfg(test)]
#[derive(Debug, Clone)]
pub enum Step {
    /// These bytes, there.
    Write(u64, Vec<u8>),
    /// All before it is on the medium.
    Sync,
}

impl ImageFile {
    /// The file behind `fd`.
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            #[cfg(test)]
            steps: Mutex::default(),
            #[cfg(test)]
            sync_fails: AtomicBool::default(),
        }
    }

    /// One in memory, with `bytes`.
    #[cfg(test)]
    pub fn with(bytes: &[u8]) -> Self {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let fd = memfd_create("image", MFdFlags::MFD_CLOEXEC).unwrap();
        write_at(&fd, &mut bytes.to_vec(), 0, Durability::Flushed).unwrap();
        Self::new(fd)
    }

    /// Bytes of it, which is a `what`: a regular file or a block device. Only before the serving filter.
    ///
    /// # Errors
    /// [`Error::Resource`]: it is another kind of file, or the host does not say.
    pub fn size(&self, what: &str) -> Result<u64, Error> {
        let status =
            fstat(&self.fd).map_err(|errno| Error::Resource(format!("cannot fstat the {what}: {errno}")))?;
        match SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => Ok(u64::try_from(status.st_size).unwrap_or(0)),
            SFlag::S_IFBLK => Ok(Geometry::of(&self.fd, false)?.size),
            _ => Err(Error::Resource(format!("the {what} is neither a regular file nor a block device"))),
        }
    }

    /// The descriptor.
    #[cfg(test)]
    pub fn descriptor(&self) -> &OwnedFd {
        &self.fd
    }

    /// Fills `buffer` from `offset`.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), Errno> {
        let count = read_at(&self.fd, buffer, offset)?;
        buffer.get_mut(count..).unwrap_or_default().fill(0);
        Ok(())
    }

    /// Writes `bytes` at `offset`, all of them.
    pub fn write(&self, bytes: &mut [u8], offset: u64) -> Result<(), Errno> {
        let count = write_at(&self.fd, bytes, offset, Durability::Flushed)?;
        self.note(offset, count);
        if count == bytes.len() { Ok(()) } else { Err(Errno::EIO) }
    }

    /// Fills `writer` from `offset`.
    pub fn read_guest(&self, writer: &mut Writer<'_, '_>, offset: u64) -> Result<(), Errno> {
        writer.fill_from(&self.fd, offset)?;
        fill(writer)
    }

    /// Writes all of `reader` at `offset`.
    pub fn write_guest(&self, reader: &mut Reader<'_, '_>, offset: u64) -> Result<(), Errno> {
        let count = reader.drain_to(&self.fd, offset, Durability::Flushed)?;
        self.note(offset, count);
        if reader.remaining() == 0 { Ok(()) } else { Err(Errno::EIO) }
    }

    /// Makes `length` bytes from `offset` read as zeroes, keeping their space if `keep`.
    pub fn zero(&self, offset: u64, length: u64, keep: bool) -> Result<(), Errno> {
        if length == 0 {
            return Ok(());
        }
        let quick =
            if keep { FallocateFlags::FALLOC_FL_ZERO_RANGE } else { FallocateFlags::FALLOC_FL_PUNCH_HOLE };
        let mode = quick | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let number = |value: u64| i64::try_from(value).map_err(|_| Errno::EINVAL);
        let done = loop {
            match fallocate(&self.fd, mode, number(offset)?, number(length)?) {
                Err(Errno::EINTR) => {}
                other => break other,
            }
        };
        match done {
            Ok(()) => {
                self.note(offset, usize::try_from(length).unwrap_or(usize::MAX));
                Ok(())
            }
            Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => self.write_zeroes(offset, length),
            Err(errno) => Err(errno),
        }
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let mut zeroes = vec![0; ZEROES];
        let (mut at, mut left) = (offset, length);
        while left > 0 {
            let count = left.min(u64::try_from(ZEROES).unwrap_or(0));
            let part = zeroes.get_mut(..usize::try_from(count).unwrap_or(0)).unwrap_or_default();
            self.write(part, at)?;
            at = at.saturating_add(count);
            left = left.saturating_sub(count);
        }
        Ok(())
    }

    /// Returns when everything written is on the medium.
    pub fn sync(&self) -> Result<(), Errno> {
        #[cfg(test)]
        if self.sync_fails.swap(false, Ordering::SeqCst) {
            return Err(Errno::EIO);
        }
        fdatasync(&self.fd)?;
        #[cfg(test)]
        self.steps.lock().unwrap().push(Step::Sync);
        Ok(())
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the tests' twin of this uses it")]
    fn note(&self, _offset: u64, _count: usize) {}

    #[cfg(test)]
    fn note(&self, offset: u64, count: usize) {
        let mut bytes = vec![0; count];
        self.read(&mut bytes, offset).unwrap();
        self.steps.lock().unwrap().push(Step::Write(offset, bytes));
    }
}
