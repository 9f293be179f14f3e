//! The files that the driver has open, by the numbers that it was given for them.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;

/// Open files at once: of the guest as a whole. `RLIMIT_NOFILE` has room for them.
pub const MOST: usize = 4096;
/// Entries of open directories that are kept at once.
const ENTRIES: usize = 1 << 18;

/// One of them.
#[derive(Debug)]
pub struct Handle {
    /// Of this node.
    pub node: u64,
    /// A file or a directory.
    pub file: File,
    /// Of a directory: what was in it when it was last read from its beginning.
    pub listing: Mutex<Vec<Entry>>,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its inode number.
    pub inode: u64,
    /// Its type, as `readdir` tells it.
    pub kind: u32,
    /// Its name.
    pub name: Box<[u8]>,
}

/// All of them.
#[derive(Debug)]
pub struct Handles {
    handles: HashMap<u64, Arc<Handle>>,
    last: u64,
    entries: usize,
}

impl Handles {
    /// None. Numbers follow `first`, as those of nodes do, and are not used again either.
    pub fn new(first: u64) -> Self {
        Self { handles: HashMap::new(), last: first, entries: 0 }
    }

    /// Closes all.
    pub fn clear(&mut self) {
        self.handles.clear();
        self.entries = 0;
    }

    /// Takes an open file.
    ///
    /// # Errors
    /// ENFILE: there are too many.
    pub fn open(&mut self, node: u64, file: File) -> Result<u64, Errno> {
        if self.handles.len() >= MOST {
            return Err(Errno::ENFILE);
        }
        self.last = self.last.wrapping_add(1);
        self.handles.insert(self.last, Arc::new(Handle { node, file, listing: Mutex::default() }));
        Ok(self.last)
    }

    /// The open file of this number.
    ///
    /// # Errors
    /// ESTALE: there is none; a predecessor of this process may have had it.
    pub fn of(&self, number: u64) -> Result<Arc<Handle>, Errno> {
        self.handles.get(&number).cloned().ok_or(Errno::ESTALE)
    }

    /// Any open file of this node: all that is left of one that has no name any more.
    pub fn of_node(&self, node: u64) -> Option<Arc<Handle>> {
        self.handles.values().find(|handle| handle.node == node).cloned()
    }

    /// Closes it, if it is open.
    pub fn close(&mut self, number: u64) {
        if let Some(handle) = self.handles.remove(&number) {
            self.entries = self.entries.saturating_sub(listed(&handle));
        }
    }

    /// A directory is read from its beginning: this is in it.
    ///
    /// # Errors
    /// ENOMEM: that is more than can be kept.
    pub fn list(&mut self, handle: &Handle, listing: Vec<Entry>) -> Result<(), Errno> {
        let others = self.entries.saturating_sub(listed(handle));
        let entries = others.saturating_add(listing.len());
        if entries > ENTRIES {
            return Err(Errno::ENOMEM);
        }
        self.entries = entries;
        *handle.listing.lock().unwrap_or_else(PoisonError::into_inner) = listing;
        Ok(())
    }
}

fn listed(handle: &Handle) -> usize {
    handle.listing.lock().unwrap_or_else(PoisonError::into_inner).len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        File::open("/dev/null").unwrap()
    }

    #[test]
    fn open_files_are_found_until_they_are_closed() {
        let mut handles = Handles::new(1 << 40);
        let number = handles.open(7, file()).unwrap();
        assert_eq!((handles.of(number).unwrap().node, handles.of_node(7).is_some()), (7, true));
        handles.close(number);
        assert_eq!(handles.of(number).err(), Some(Errno::ESTALE));
        assert!(handles.of_node(7).is_none() && handles.open(7, file()).unwrap() > number);
    }

    #[test]
    fn what_is_listed_is_bounded_over_all_directories() {
        let mut handles = Handles::new(0);
        let one = handles.open(1, file()).unwrap();
        let other = handles.open(2, file()).unwrap();
        let (first, second) = (handles.of(one).unwrap(), handles.of(other).unwrap());
        let entries = |count| vec![Entry { inode: 1, kind: 4, name: Box::default() }; count];
        assert_eq!(handles.list(&first, entries(ENTRIES - 1)), Ok(()));
        assert_eq!(handles.list(&second, entries(2)), Err(Errno::ENOMEM));
        assert_eq!(handles.list(&first, entries(1)), Ok(()), "in place of what it had");
        assert_eq!(handles.list(&second, entries(ENTRIES - 1)), Ok(()));
        handles.close(other);
        assert_eq!(handles.list(&first, entries(ENTRIES)), Ok(()));
    }
}
