//! The image as `imago`'s storage, which puts the writes of tables into an order that neither the end of this process nor
//! one of the host can break.
//!
//! `imago` is asked only where a range of the guest's is; that range itself we read and write. So what comes through here
//! are its tables, and what it copies or zeroes of a new cluster that the guest's request does not cover. It writes them in
//! an order of its own, from caches, and with nothing in between that waits for the medium:
//!
//! 1. A count goes up in a cached refcount block. It is written when `imago` is flushed.
//! 2. A new L2 table, or a new refcount block, is written at once, and **at once** the entry that refers to it, in the L1
//!    table or in the refcount table: before the count of its own cluster.
//! 3. An L2 entry changes in a cached L2 table. It is written at the next flush, before counts that go down.
//!
//! The second is what cannot stay: a process killed then leaves a table in a cluster that is free, and whoever serves next
//! gives that cluster to the guest. Those two tables `imago` reads when it opens an image and not again, they have their
//! place by the header, and it writes one entry of 8 bytes at a time: so such an entry is **held** here until
//! [`Tables::settle`], which the caller calls once `imago` was flushed. What it does is the order:
//!
//! counts and contents, `fdatasync`, entries of the refcount table, `fdatasync`, entries of the L1 table; and only then does
//! the caller have the L2 entries changed ([`Tables::refer`]). While that is done, each write waits until the one before
//! it is on the medium: a count does not go down before nothing refers to the cluster any more.
//!
//! When the refcount table moves, `imago` writes blocks, table and header in that order; the header waits for the medium
//! before it is written and after. The entries that are held for the old table are in the new one.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imago::storage::drivers::CommonStorageHelper;
use nix::errno::Errno;

use crate::file::ImageFile;
use crate::header::{Header, VERSION_3};

/// Bytes of an entry of any table.
const ENTRY: usize = 8;

/// The handle on an image's storage, of which `imago` has a clone.
#[derive(Debug, Clone)]
pub struct Tables(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: ImageFile,
    order: Mutex<Order>,
    helper: CommonStorageHelper,
}

/// What was written since when, and what was not.
#[derive(Debug)]
struct Order {
    header: Header,
    /// References are being changed: each write waits for the one before.
    referring: bool,
    /// Something was written since the last fdatasync.
    unsynced: bool,
    /// The host failed to say what is on the medium. It says so once, and nothing can be put in an order any more.
    broken: bool,
    /// Entries of the refcount table and of the L1 table that are not written yet.
    counts: Vec<Held>,
    references: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    offset: u64,
    entry: [u8; ENTRY],
}

impl Tables {
    /// Those of the image in `file`, by its `header`.
    pub fn new(file: ImageFile, header: Header) -> Self {
        let order = Order {
            header,
            referring: false,
            unsynced: false,
            broken: false,
            counts: Vec::new(),
            references: Vec::new(),
        };
        Self(Arc::new(Shared { file, order: Mutex::new(order), helper: CommonStorageHelper::default() }))
    }

    /// Looks where the refcount table is by now.
    ///
    /// # Errors
    /// The host's, or EINVAL when the header says nothing that could be.
    pub fn reread(&self) -> Result<(), Errno> {
        let mut bytes = [0; VERSION_3];
        self.0.file.read(&mut bytes, 0)?;
        let mut order = self.order();
        order.header.refcounts = Header::refcounts(&bytes, order.header.cluster_bits).ok_or(Errno::EINVAL)?;
        Ok(())
    }

    /// The file, for the guest's data.
    pub fn file(&self) -> &ImageFile {
        &self.0.file
    }

    /// Clusters are about to be allocated: what is written until [`Tables::settle`] is referred to by nothing.
    pub fn allocate(&self) {
        self.order().referring = false;
    }

    /// All that was written, and the data that the caller wrote, is put on the medium, and what was held is written: new
    /// tables are part of the image from here on.
    ///
    /// # Errors
    /// The host's. What is held still is written by the next call.
    pub fn settle(&self) -> Result<(), Errno> {
        let mut order = self.order();
        order.sync(&self.0.file)?;
        if !order.counts.is_empty() {
            write_held(&self.0.file, &mut order.counts)?;
            order.sync(&self.0.file)?;
        }
        if !order.references.is_empty() {
            order.unsynced = true;
            write_held(&self.0.file, &mut order.references)?;
        }
        Ok(())
    }

    /// L2 entries are about to be changed.
    pub fn refer(&self) {
        self.order().referring = true;
    }

    /// Where the refcount table is by now.
    #[cfg(test)]
    pub fn refcounts(&self) -> Range<u64> {
        self.order().header.refcounts.clone()
    }

    /// What `imago` asks of every storage.
    pub fn helper(&self) -> &CommonStorageHelper {
        &self.0.helper
    }

    /// The guest has all put on the medium that it wrote. What the host says of that is the guest's to hear, and ours: a
    /// failure that it has told once it does not tell again, whoever asks.
    ///
    /// # Errors
    /// The host's.
    pub fn flush(&self) -> Result<(), Errno> {
        let mut order = self.order();
        let flushed = self.0.file.sync();
        order.broken |= flushed.is_err();
        flushed
    }

    /// Returns when all that was written is on the medium.
    pub fn sync(&self) -> Result<(), Errno> {
        self.order().sync(&self.0.file)
    }

    fn order(&self) -> MutexGuard<'_, Order> {
        self.0.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `imago` writes, or means to.
    pub fn write(&self, bytes: &mut [u8], offset: u64) -> Result<(), Errno> {
        let mut order = self.order();
        if order.broken {
            return Err(Errno::EIO);
        }
        let file = &self.0.file;
        if let Ok(entry) = <[u8; ENTRY]>::try_from(&*bytes) {
            let held = Held { offset, entry };
            if within(&order.header.refcounts, offset) {
                order.counts.push(held);
                return Ok(());
            }
            if within(&order.header.l1, offset) {
                order.references.push(held);
                return Ok(());
            }
        }
        let is_header = offset == 0;
        if is_header || (order.referring && order.unsynced) {
            order.sync(file)?;
        }
        order.unsynced = true;
        file.write(bytes, offset)?;
        if is_header {
            order.sync(file)?;
            let moved = Header::refcounts(bytes, order.header.cluster_bits).ok_or(Errno::EINVAL)?;
            if moved != order.header.refcounts {
                order.header.refcounts = moved;
                order.counts.clear();
            }
        }
        Ok(())
    }

    /// `imago` zeroes what is not written of a new cluster.
    pub fn zero(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let mut order = self.order();
        order.unsynced = true;
        self.0.file.zero(offset, length, false)
    }
}

impl Order {
    fn sync(&mut self, file: &ImageFile) -> Result<(), Errno> {
        if self.broken {
            return Err(Errno::EIO);
        }
        self.broken = true;
        file.sync()?;
        (self.broken, self.unsynced) = (false, false);
        Ok(())
    }
}

/// Writes the oldest first; one that could not be written stays.
fn write_held(file: &ImageFile, held: &mut Vec<Held>) -> Result<(), Errno> {
    while let Some(first) = held.first_mut() {
        file.write(&mut first.entry, first.offset)?;
        held.remove(0);
    }
    Ok(())
}

fn within(table: &Range<u64>, offset: u64) -> bool {
    table.contains(&offset)
}
