//! What is below an image: the file in which is what the image itself does not have, and whatever is below that.
//!
//! It is only read, and is what its user named, never what stands in an image. Nobody changes it while it is served; who
//! does has the guest see that, and nothing worse: what it says of itself was checked as of an image from anywhere, and
//! what is read of it goes to guest memory or into clusters of the image above.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use device_backend::{Error, Writer};
use device_blk::{Medium, Range};
use nix::errno::Errno;
use protocol::DiskFormat;
use vm_memory::VolatileSlice;

use crate::file::ImageFile;
use crate::image::Image;

static ZEROES: [u8; 4096] = [0; 4096];

/// See above.
#[derive(Debug)]
pub enum Below {
    /// A disk as it is, of so many bytes.
    Raw(ImageFile, u64),
    /// An image.
    Image(Box<Image>),
}

impl Below {
    /// Of these files, each below that before it: the first.
    ///
    /// # Errors
    /// [`Error::Resource`]: which of them is not served, and why.
    pub fn chain(files: Vec<OwnedFd>, formats: &[DiskFormat]) -> Result<Option<Arc<Self>>, Error> {
        let files: Vec<_> = files.into_iter().zip(formats).zip(1..).collect();
        let mut below = None;
        for ((fd, format), number) in files.into_iter().rev() {
            let layer = Self::of(ImageFile::new(fd), *format, below).map_err(|error| match error {
                Error::Resource(text) => Error::Resource(format!("backing file {number}: {text}")),
                other => other,
            })?;
            below = Some(Arc::new(layer));
        }
        Ok(below)
    }

    pub fn of(file: ImageFile, format: DiskFormat, below: Option<Arc<Self>>) -> Result<Self, Error> {
        match format {
            DiskFormat::Raw => {
                let size = file.size("raw disk")?;
                Ok(Self::Raw(file, size))
            }
            DiskFormat::Qcow2 => Image::underneath(file, below).map(Box::new).map(Self::Image),
        }
    }

    /// Bytes, as the image above sees them. It may be smaller or larger than that.
    pub fn size(&self) -> u64 {
        match self {
            Self::Raw(_, size) => *size,
            Self::Image(image) => image.size(),
        }
    }

    /// Reads `range` into `writer`, which has exactly that room: zeroes where there is nothing.
    pub fn read_range(&self, range: Range, writer: &mut Writer<'_, '_>) -> Result<(), Errno> {
        let length = self.size().saturating_sub(range.offset).min(range.length);
        let there = Range { length, ..range };
        if length > 0 {
            let length = usize::try_from(length).map_err(|_| Errno::EIO)?;
            writer.part(length, |part| match self {
                Self::Raw(file, _) => file.read_guest(part, range.offset),
                Self::Image(image) => image.read_range(there, part),
            })?;
        }
        fill(writer)
    }

    /// The same into memory of ours.
    pub fn read(&self, bytes: &mut [u8], offset: u64) -> Result<(), Errno> {
        let range = Range { offset, length: u64::try_from(bytes.len()).map_err(|_| Errno::EIO)? };
        let slices = [VolatileSlice::from(bytes)];
        self.read_range(range, &mut Writer::new(&slices))
    }

    /// Requests will come.
    pub fn started(&self) {
        if let Self::Image(image) = self {
            image.started();
        }
    }

    /// See [`Medium::heap`].
    pub fn heap(&self) -> usize {
        match self {
            Self::Raw(..) => 0,
            Self::Image(image) => image.heap(),
        }
    }
}

/// Fills the rest of `writer` with zeroes.
pub fn fill(writer: &mut Writer<'_, '_>) -> Result<(), Errno> {
    while writer.remaining() > 0 {
        let part = ZEROES.get(..writer.remaining().min(ZEROES.len())).unwrap_or_default();
        writer.write_all(part).map_err(|_| Errno::EIO)?;
    }
    Ok(())
}
