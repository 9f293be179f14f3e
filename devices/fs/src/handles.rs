//! The files that the driver has open, by the numbers that it was given for them.
//!
//! Nothing here is closed while whoever calls holds the lock over it: what is taken out is handed back, for on some file
//! systems the last close of a file is when the host writes it.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

/// Open files at once: of the guest as a whole. `RLIMIT_NOFILE` has room for them.
pub const MOST: usize = 4096;
/// Bytes of memory that entries of open directories take at once, all together.
const LISTED: usize = 12 << 20;
/// Bytes that an entry takes beside its name, at most: its place in a vector that doubles when it is full, and what malloc
/// adds to a name.
const ENTRY: usize = 2 * size_of::<Entry>() + 24;

/// One of them.
#[derive(Debug)]
pub struct Handle {
    /// Of this node.
    pub node: u64,
    /// A file or a directory.
    pub file: File,
    /// Of a directory: what was in it when it was last read from its beginning.
    listing: Mutex<Listing>,
}

impl Handle {
    /// What was in the directory when it was last read from its beginning.
    pub fn listing(&self) -> MutexGuard<'_, Listing> {
        self.listing.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

/// Bytes that are left for entries: one number for all directories.
#[derive(Debug, Clone)]
pub struct Room(Arc<AtomicUsize>);

impl Room {
    /// So many.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }
}

/// Entries of one directory. Each has taken its room before it is kept, however many threads read directories at a time, and
/// gives it back with the listing, whatever becomes of that.
#[derive(Debug)]
pub struct Listing {
    entries: Vec<Entry>,
    taken: usize,
    room: Room,
}

impl Listing {
    /// None yet.
    pub fn new(room: Room) -> Self {
        Self { entries: Vec::new(), taken: 0, room }
    }

    /// One more.
    ///
    /// # Errors
    /// ENOMEM: there is no room for it.
    pub fn push(&mut self, inode: u64, kind: u32, name: &[u8]) -> Result<(), Errno> {
        let bytes = ENTRY.saturating_add(name.len());
        let taken = self.room.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes));
        taken.map_err(|_| Errno::ENOMEM)?;
        self.taken = self.taken.saturating_add(bytes);
        self.entries.push(Entry { inode, kind, name: Box::from(name) });
        Ok(())
    }

    /// All of them.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Forgets all, and makes another one that is empty.
    pub fn renew(&mut self) -> Self {
        *self = Self::new(self.room.clone());
        Self::new(self.room.clone())
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.entries = Vec::new();
        self.room.0.fetch_add(self.taken, Relaxed);
    }
}

/// All of them.
#[derive(Debug)]
pub struct Handles {
    handles: HashMap<u64, Arc<Handle>>,
    last: u64,
    room: Room,
}

impl Handles {
    /// None. Numbers follow `first`, as those of nodes do, and are not used again either.
    pub fn new(first: u64) -> Self {
        Self { handles: HashMap::new(), last: first, room: Room::new(LISTED) }
    }

    /// Takes all out.
    #[must_use = "they are closed by whoever drops them, with no lock held"]
    pub fn clear(&mut self) -> Vec<Arc<Handle>> {
        // Not by a new map in its place: a thread's first asks the kernel for random bytes, which it may not while it serves.
        self.handles.drain().map(|(_, handle)| handle).collect()
    }

    /// Takes an open file in.
    ///
    /// # Errors
    /// The file: there are too many (ENFILE).
    pub fn open(&mut self, node: u64, file: File) -> Result<u64, File> {
        if self.handles.len() >= MOST {
            return Err(file);
        }
        self.last = self.last.wrapping_add(1);
        let listing = Mutex::new(Listing::new(self.room.clone()));
        self.handles.insert(self.last, Arc::new(Handle { node, file, listing }));
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

    /// Takes it out, if it is open.
    #[must_use = "it is closed by whoever drops it, with no lock held"]
    pub fn close(&mut self, number: u64) -> Option<Arc<Handle>> {
        self.handles.remove(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        File::open("/dev/null").unwrap()
    }

    /// As many with names of three bytes as there is room for.
    fn filled(listing: &mut Listing) -> usize {
        (0..).find(|_| listing.push(1, 4, b"abc").is_err()).unwrap()
    }

    #[test]
    fn open_files_are_found_until_they_are_closed() {
        let mut handles = Handles::new(1 << 40);
        let number = handles.open(7, file()).unwrap();
        assert_eq!((handles.of(number).unwrap().node, handles.of_node(7).is_some()), (7, true));
        let closed = handles.close(number).unwrap();
        assert!(closed.file.metadata().is_ok() && Arc::strong_count(&closed) == 1, "for its taker to close");
        assert_eq!(handles.of(number).err(), Some(Errno::ESTALE));
        assert!(handles.of_node(7).is_none() && handles.open(7, file()).unwrap() > number);
        let all = handles.clear();
        assert!(all.len() == 1 && all.iter().all(|handle| Arc::strong_count(handle) == 1));
    }

    #[test]
    fn what_is_listed_is_bounded_over_all_directories() {
        let mut handles = Handles::new(0);
        let one = handles.open(1, file()).unwrap();
        let other = handles.open(2, file()).unwrap();
        let (first, second) = (handles.of(one).unwrap(), handles.of(other).unwrap());
        let most = filled(&mut first.listing());
        assert_eq!(most, LISTED / (ENTRY + 3));
        assert_eq!(second.listing().push(1, 4, b"abc"), Err(Errno::ENOMEM));
        drop(first.listing().renew());
        assert_eq!(filled(&mut first.listing()), most, "in place of what it had");
        drop(handles.close(one));
        assert_eq!(second.listing().push(1, 4, b"abc"), Err(Errno::ENOMEM), "it is still being read");
        drop(first);
        assert_eq!(filled(&mut second.listing()), most);
        drop((handles.clear(), second));
        let third = handles.open(3, file()).unwrap();
        assert_eq!(filled(&mut handles.of(third).unwrap().listing()), most);
    }
}
