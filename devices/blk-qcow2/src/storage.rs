//! [`Tables`] as `imago` wants to see a storage: one call of its trait is one of ours.
//!
//! The trait has some of its methods declared unsafe, for storages that take aligned requests alone or leave it to the
//! caller to keep writes apart. This one takes any offset and length, and does one after the other.
#![expect(unsafe_code, reason = "imago's trait declares these methods unsafe; nothing in them is")]

use std::fmt::{self, Display, Formatter};
use std::io;

use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;

use crate::tables::Tables;

impl Storage for Tables {
    /// Asked for when an image is made, which is none of ours.
    fn size(&self) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    unsafe fn pure_readv(&self, bufv: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        let mut at = offset;
        for mut part in bufv.into_inner() {
            self.file().read(&mut part, at)?;
            at = at.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        let mut bytes: Vec<u8> = Vec::with_capacity(usize::try_from(bufv.len()).unwrap_or(0));
        bufv.into_inner().iter().for_each(|part| bytes.extend_from_slice(part));
        Ok(Tables::write(self, &mut bytes, offset)?)
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        Ok(self.zero(offset, length)?)
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        Ok(self.zero(offset, length)?)
    }

    /// Nothing is kept here that a flush could write: see [`Tables::settle`].
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(Tables::sync(self)?)
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        self.helper()
    }
}

impl Display for Tables {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("the qcow2 image")
    }
}
