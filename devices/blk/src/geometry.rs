//! What the host says about a disk: its size and its block sizes. Asked once, before the serving filter.
#![expect(unsafe_code, reason = "the block-device ioctls, which write through a pointer")]

use std::os::fd::{AsRawFd, OwnedFd};

use device_backend::{Error, Writer};
use nix::libc::c_int;
use nix::sys::stat::{SFlag, fstat};
use vm_memory::VolatileSlice;

mod ioctl {
    use nix::libc::c_int;
    nix::ioctl_read!(block_size64, 0x12, 114, u64);
    nix::ioctl_read_bad!(logical_block_size, nix::request_code_none!(0x12, 104), c_int);
    nix::ioctl_read_bad!(minimum_io_size, nix::request_code_none!(0x12, 120), u32);
    nix::ioctl_read_bad!(optimal_io_size, nix::request_code_none!(0x12, 121), u32);
    nix::ioctl_read_bad!(physical_block_size, nix::request_code_none!(0x12, 123), u32);
}

/// Sizes in bytes. Blocks are powers of two, the logical one at least 512 and at most the physical one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// A multiple of 512.
    pub size: u64,
    /// What offsets and lengths of direct I/O must be multiples of, and what the guest is told.
    pub logical: u32,
    /// What the medium writes at once.
    pub physical: u32,
    /// Suggested smallest I/O, 0 if none.
    pub minimum_io: u32,
    /// Suggested best I/O, 0 if none.
    pub optimal_io: u32,
}

/// The largest block size that is believed.
const MAX_BLOCK: u32 = 64 << 10;

impl Geometry {
    /// Asks the host about `fd`, a regular file or a block device, opened with O_DIRECT if `direct`.
    ///
    /// # Errors
    /// It is something else, empty, or not a multiple of 512.
    pub fn of(fd: &OwnedFd, direct: bool) -> Result<Self, Error> {
        let status = fstat(fd).map_err(|errno| resource(format!("cannot fstat the disk: {errno}")))?;
        let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
        let geometry = if kind == SFlag::S_IFBLK {
            block_device(fd)?
        } else if kind == SFlag::S_IFREG {
            let size = u64::try_from(status.st_size).unwrap_or(0);
            let logical = if direct { probe(fd)? } else { 512 };
            let physical = u32::try_from(status.st_blksize).unwrap_or(512);
            Self { size, logical, physical, minimum_io: 0, optimal_io: 0 }
        } else {
            return Err(resource("the disk is neither a regular file nor a block device".to_owned()));
        };
        geometry.checked(direct)
    }

    fn checked(mut self, direct: bool) -> Result<Self, Error> {
        let Self { size, logical, .. } = self;
        if size == 0 || !size.is_multiple_of(512) {
            return Err(resource(format!(
                "the disk has {size} bytes, which is not a multiple of 512: pad it with truncate"
            )));
        }
        if !logical.is_power_of_two() || !(512..=MAX_BLOCK).contains(&logical) {
            return Err(resource(format!("the disk's logical block size, {logical} bytes, cannot be used")));
        }
        if direct && !size.is_multiple_of(logical.into()) {
            return Err(resource(format!(
                "the disk has {size} bytes, which is not a multiple of its block size {logical}: direct I/O \
                 cannot reach its end, use cached I/O"
            )));
        }
        if !self.physical.is_power_of_two() || !(logical..=MAX_BLOCK).contains(&self.physical) {
            self.physical = logical;
        }
        Ok(self)
    }
}

fn block_device(fd: &OwnedFd) -> Result<Geometry, Error> {
    let failed = |what| move |errno| resource(format!("cannot ask the block device for its {what}: {errno}"));
    let raw = fd.as_raw_fd();
    let mut size = 0u64;
    // SAFETY: `size` is the u64 that BLKGETSIZE64 writes.
    unsafe { ioctl::block_size64(raw, &raw mut size) }.map_err(failed("size"))?;
    let mut logical: c_int = 0;
    // SAFETY: `logical` is the int that BLKSSZGET writes.
    unsafe { ioctl::logical_block_size(raw, &raw mut logical) }.map_err(failed("logical block size"))?;
    let logical = u32::try_from(logical).unwrap_or(0);
    // The rest is advice: a device that has none is used without.
    let (mut physical, mut minimum_io, mut optimal_io) = (logical, 0u32, 0u32);
    // SAFETY: `physical` is the unsigned int that BLKPBSZGET writes.
    let _ = unsafe { ioctl::physical_block_size(raw, &raw mut physical) };
    // SAFETY: `minimum_io` is the unsigned int that BLKIOMIN writes.
    let _ = unsafe { ioctl::minimum_io_size(raw, &raw mut minimum_io) };
    // SAFETY: `optimal_io` is the unsigned int that BLKIOOPT writes.
    let _ = unsafe { ioctl::optimal_io_size(raw, &raw mut optimal_io) };
    Ok(Geometry { size, logical, physical, minimum_io, optimal_io })
}

/// The smallest aligned read that the file's direct I/O accepts.
fn probe(fd: &OwnedFd) -> Result<u32, Error> {
    let mut buffer = AlignedBuffer::new();
    for size in [512u32, 1024, 2048, 4096, 8192, 16384, 32768, MAX_BLOCK] {
        let length = usize::try_from(size).unwrap_or(0);
        let Some(part) = buffer.bytes().get_mut(..length) else { break };
        if Writer::new(&[VolatileSlice::from(part)]).fill_from(fd, 0).is_ok() {
            return Ok(size);
        }
    }
    Err(resource("no block size works for direct I/O on this file: use cached I/O".to_owned()))
}

fn resource(text: String) -> Error {
    Error::Resource(text)
}

/// Memory for direct I/O that the guest's own does not fit: 64 KiB, aligned to the largest block size.
pub struct AlignedBuffer(Vec<u8>);

/// Bytes of an [`AlignedBuffer`].
pub const BUFFER: usize = 64 << 10;

impl Default for AlignedBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl AlignedBuffer {
    /// A new one.
    #[must_use]
    pub fn new() -> Self {
        Self(vec![0; BUFFER.saturating_mul(2)])
    }

    /// Its bytes, [`BUFFER`] of them.
    pub fn bytes(&mut self) -> &mut [u8] {
        let skip = self.0.as_ptr().align_offset(BUFFER);
        self.0.get_mut(skip..skip.saturating_add(BUFFER)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(size: usize) -> OwnedFd {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![0; size]).unwrap();
        file.into()
    }

    #[test]
    fn a_file_has_its_size_and_512_byte_blocks() {
        let geometry = Geometry::of(&file(8192), false).unwrap();
        assert_eq!((geometry.size, geometry.logical), (8192, 512));
        assert!(geometry.physical >= geometry.logical);
    }

    #[test]
    fn odd_empty_and_foreign_files_are_refused() {
        for size in [0, 1, 511, 513] {
            assert!(Geometry::of(&file(size), false).is_err(), "{size}");
        }
        for path in ["/dev/null", "/tmp"] {
            let fd = std::fs::File::open(path).unwrap().into();
            assert!(Geometry::of(&fd, false).is_err(), "{path}");
        }
    }

    #[test]
    fn block_sizes_that_make_no_sense_are_not_believed() {
        let geometry = Geometry { size: 8192, logical: 512, physical: 3000, minimum_io: 0, optimal_io: 0 };
        assert_eq!(geometry.checked(false).unwrap().physical, 512);
        for logical in [0, 256, 513, 1 << 20] {
            assert!(Geometry { logical, ..geometry }.checked(false).is_err(), "{logical}");
        }
        let tail = Geometry { size: 4096 + 512, logical: 4096, ..geometry };
        assert!(tail.checked(true).is_err());
        assert!(tail.checked(false).is_ok());
    }

    #[test]
    fn a_buffer_is_aligned_and_whole() {
        let mut buffer = AlignedBuffer::new();
        assert_eq!(buffer.bytes().len(), BUFFER);
        assert_eq!(buffer.bytes().as_ptr().addr() % BUFFER, 0);
    }
}
