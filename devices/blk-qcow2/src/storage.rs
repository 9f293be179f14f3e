//! [`Tables`], and what is below an image, as `imago` wants to see a storage: one call of its trait is one of ours.
//!
//! The trait has some of its methods declared unsafe, for storages that take aligned requests alone or leave it to the
//! caller to keep writes apart. This one takes any offset and length, and does one after the other.
#![expect(unsafe_code, reason = "imago's trait declares these methods unsafe; nothing in them is")]

use std::fmt::{self, Display, Formatter};
use std::io;
use std::sync::Arc;

use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;
use nix::errno::Errno;

use crate::below::Below;
use crate::tables::Tables;

/// See above.
#[derive(Debug)]
pub enum Stored {
    /// An image.
    Image(Tables),
    /// What is below one, as the sectors that it sees. `imago` reads of it what is left of a cluster of which the guest
    /// writes a part.
    Below(Arc<Below>, CommonStorageHelper),
}

impl Stored {
    /// What is below an image.
    pub fn below(below: &Arc<Below>) -> Self {
        Self::Below(Arc::clone(below), CommonStorageHelper::default())
    }

    /// What can be written to.
    fn tables(&self) -> Result<&Tables, Errno> {
        match self {
            Self::Image(tables) => Ok(tables),
            Self::Below(..) => Err(Errno::EROFS),
        }
    }
}

impl Storage for Stored {
    /// Asked for when an image is made, which is none of ours, and of what is below one.
    fn size(&self) -> io::Result<u64> {
        match self {
            Self::Image(_) => Err(io::ErrorKind::Unsupported.into()),
            Self::Below(below, _) => Ok(below.size()),
        }
    }

    unsafe fn pure_readv(&self, bufv: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        let mut at = offset;
        for mut part in bufv.into_inner() {
            match self {
                Self::Image(tables) => tables.file().read(&mut part, at)?,
                Self::Below(below, _) => below.read(&mut part, at)?,
            }
            at = at.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        let mut bytes: Vec<u8> = Vec::with_capacity(usize::try_from(bufv.len()).unwrap_or(0));
        bufv.into_inner().iter().for_each(|part| bytes.extend_from_slice(part));
        Ok(self.tables()?.write(&mut bytes, offset)?)
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        Ok(self.tables()?.zero(offset, length)?)
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        Ok(self.tables()?.zero(offset, length)?)
    }

    /// Nothing is kept here that a flush could write: see [`Tables::settle`].
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(self.tables()?.sync()?)
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        match self {
            Self::Image(tables) => tables.helper(),
            Self::Below(_, helper) => helper,
        }
    }
}

impl Display for Stored {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image(_) => "the qcow2 image",
            Self::Below(..) => "its backing file",
        })
    }
}
