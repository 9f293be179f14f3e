//! The files that the driver knows, by the numbers that it knows them by. Pure.
//!
//! A node is a file of the host, told from every other by its [`Identity`], and the names under which it was found: a file
//! is opened by walking its name from the root, and is that node if it has that identity. So a node costs no descriptor, a
//! file that was renamed or replaced behind the driver's back is not mistaken for another, as far as an identity tells, and a
//! name that has become wrong is an error that makes the driver look again.
//!
//! Numbers are not used twice, in this process or, but for one chance in two thousand million, in one that follows it: they
//! begin at random. What a driver knows from a predecessor is nothing here, and not some other file.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use nix::errno::Errno;

use crate::wire::ROOT;

/// Nodes at once: as many as two tables of 2^17 places hold, which take 15 MB, and half as much again while they grow. The
/// driver of a guest with little memory forgets long before.
const MOST: usize = 7 << 14;
/// Bytes of memory that the names of all nodes take at once.
const NAMED: usize = 12 << 20;
/// Bytes that a name takes beside its own, at most: its place in a vector that has no other, and what malloc adds to both.
const NAME: usize = 56;
/// Names of one node that are remembered: the newest.
const NAMES: usize = 4;
/// Bytes of the longest path that the kernel walks, with its zero.
const PATH: usize = 4096;

/// What tells a file from every other: also, where the file system tells births, from one that has its inode number after it,
/// unless both were born in one tick of its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    device: u64,
    inode: u64,
    born: Option<SystemTime>,
}

impl Identity {
    /// That of an open file.
    pub fn of(file: &Metadata) -> Self {
        Self { device: file.dev(), inode: file.ino(), born: file.created().ok() }
    }
}

#[derive(Debug)]
struct Node {
    identity: Identity,
    /// The directory's node and the name in it, the newest last. None for the root.
    names: Vec<(u64, Box<CStr>)>,
    /// How often the driver was told of it and has not forgotten it.
    known: u64,
}

/// All of them.
#[derive(Debug)]
pub struct Nodes {
    nodes: HashMap<u64, Node>,
    numbers: HashMap<Identity, u64>,
    root: Identity,
    last: u64,
    /// Of [`NAMED`].
    bytes: usize,
}

/// Bytes that a name takes.
fn cost(name: &CStr) -> usize {
    NAME.saturating_add(name.count_bytes())
}

impl Nodes {
    /// The root alone. Numbers follow `first`.
    pub fn new(root: Identity, first: u64) -> Self {
        let mut nodes = Self { nodes: HashMap::new(), numbers: HashMap::new(), root, last: first, bytes: 0 };
        nodes.clear();
        nodes
    }

    /// Forgets all but the root.
    pub fn clear(&mut self) {
        self.nodes.clear();
        self.numbers.clear();
        self.bytes = 0;
        self.nodes.insert(ROOT, Node { identity: self.root, names: Vec::new(), known: 1 });
        self.numbers.insert(self.root, ROOT);
    }

    /// The file with this identity was found in the directory `parent` as `name`, and the driver is told of it. Answers its
    /// number.
    ///
    /// # Errors
    /// ENFILE: there are too many, or their names too long.
    pub fn found(&mut self, identity: Identity, parent: u64, name: &CStr) -> Result<u64, Errno> {
        if let Some(number) = self.numbers.get(&identity).copied() {
            self.named(identity, parent, name)?;
            if let Some(node) = self.nodes.get_mut(&number) {
                node.known = node.known.saturating_add(1);
            }
            return Ok(number);
        }
        if self.nodes.len() >= MOST || self.bytes.saturating_add(cost(name)) > NAMED {
            return Err(Errno::ENFILE);
        }
        self.bytes = self.bytes.saturating_add(cost(name));
        self.last = self.last.wrapping_add(1).max(ROOT.saturating_add(1));
        let names = vec![(parent, Box::from(name))];
        self.nodes.insert(self.last, Node { identity, names, known: 1 });
        self.numbers.insert(identity, self.last);
        Ok(self.last)
    }

    /// The file with this identity, if it is known, has this name now. Its older names make room for it, if need be.
    ///
    /// # Errors
    /// ENFILE: there is no room for it.
    pub fn named(&mut self, identity: Identity, parent: u64, name: &CStr) -> Result<(), Errno> {
        let number = self.numbers.get(&identity).filter(|number| **number != ROOT);
        let Some(node) = number.and_then(|number| self.nodes.get_mut(number)) else { return Ok(()) };
        let known = node.names.iter().position(|(of, known)| (*of, known.as_ref()) == (parent, name));
        if let Some(known) = known {
            // The newest is the last.
            node.names.get_mut(known..).unwrap_or_default().rotate_left(1);
            return Ok(());
        }
        let oldest = |node: &Node| node.names.first().map(|(_, name)| cost(name));
        while let Some(freed) = oldest(node)
            && (node.names.len() >= NAMES || self.bytes.saturating_add(cost(name)) > NAMED)
        {
            node.names.remove(0);
            self.bytes = self.bytes.saturating_sub(freed);
        }
        if self.bytes.saturating_add(cost(name)) > NAMED {
            return Err(Errno::ENFILE);
        }
        self.bytes = self.bytes.saturating_add(cost(name));
        node.names.shrink_to_fit();
        node.names.reserve_exact(1);
        node.names.push((parent, Box::from(name)));
        Ok(())
    }

    /// The driver forgets `count` of the times that it was told of this node.
    pub fn forget(&mut self, number: u64, count: u64) {
        let Some(node) = self.nodes.get_mut(&number).filter(|_| number != ROOT) else { return };
        node.known = node.known.saturating_sub(count);
        if node.known == 0 {
            let freed = node.names.iter().map(|(_, name)| cost(name)).fold(0, usize::saturating_add);
            self.bytes = self.bytes.saturating_sub(freed);
            self.numbers.remove(&node.identity);
            self.nodes.remove(&number);
        }
    }

    /// What a node is, and where it may be found: paths from the root, the likeliest first.
    ///
    /// # Errors
    /// ESTALE: there is no such node any more, or none of its names leads anywhere.
    pub fn paths(&self, number: u64) -> Result<(Identity, Vec<CString>), Errno> {
        let node = self.nodes.get(&number).ok_or(Errno::ESTALE)?;
        if number == ROOT {
            return Ok((node.identity, vec![c".".to_owned()]));
        }
        let paths: Vec<CString> =
            node.names.iter().rev().filter_map(|(parent, name)| self.path(*parent, name)).collect();
        if paths.is_empty() { Err(Errno::ESTALE) } else { Ok((node.identity, paths)) }
    }

    /// `None`: a directory on the way is not known, or the path is longer than any. That also ends a walk in a circle, which
    /// directories that the host has moved about could make of what was true at different times.
    fn path(&self, mut parent: u64, name: &CStr) -> Option<CString> {
        let mut parts = vec![name.to_bytes()];
        let mut length = name.to_bytes_with_nul().len();
        while parent != ROOT {
            let (above, name) = self.nodes.get(&parent)?.names.last()?;
            length = length.checked_add(name.to_bytes_with_nul().len()).filter(|length| *length <= PATH)?;
            parts.push(name.to_bytes());
            parent = *above;
        }
        parts.reverse();
        CString::new(parts.join(&b'/')).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u64 = 1 << 40;

    fn identity(inode: u64) -> Identity {
        Identity { device: 1, inode, born: None }
    }

    fn nodes() -> Nodes {
        Nodes::new(identity(2), FIRST)
    }

    fn paths(nodes: &Nodes, number: u64) -> Vec<CString> {
        nodes.paths(number).unwrap().1
    }

    #[test]
    fn a_node_is_found_under_its_newest_name_first() {
        let mut nodes = nodes();
        let folder = nodes.found(identity(3), ROOT, c"folder").unwrap();
        let file = nodes.found(identity(4), folder, c"one").unwrap();
        assert_eq!(nodes.found(identity(4), ROOT, c"two"), Ok(file), "a second name of the same file");
        assert_eq!(paths(&nodes, file), [c"two".to_owned(), c"folder/one".to_owned()]);
        nodes.named(identity(3), ROOT, c"moved").unwrap();
        assert_eq!(paths(&nodes, file), [c"two".to_owned(), c"moved/one".to_owned()]);
        assert_eq!(paths(&nodes, ROOT), [c".".to_owned()]);
    }

    #[test]
    fn a_node_is_forgotten_as_often_as_it_was_told_of_and_its_number_is_not_used_again() {
        let mut nodes = nodes();
        let file = nodes.found(identity(4), ROOT, c"f").unwrap();
        nodes.found(identity(4), ROOT, c"f").unwrap();
        nodes.forget(file, 1);
        assert_eq!(paths(&nodes, file), [c"f".to_owned()]);
        nodes.forget(file, 1);
        assert_eq!(nodes.paths(file), Err(Errno::ESTALE));
        assert_ne!(nodes.found(identity(4), ROOT, c"f"), Ok(file));
        nodes.forget(ROOT, u64::MAX);
        nodes.forget(77, u64::MAX);
        assert!(nodes.paths(ROOT).is_ok());
        let before = nodes.found(identity(5), ROOT, c"g").unwrap();
        nodes.clear();
        assert_eq!(nodes.paths(before), Err(Errno::ESTALE));
        assert!(nodes.found(identity(5), ROOT, c"g").unwrap() > before);
    }

    #[test]
    fn what_was_forgotten_above_and_circles_lead_nowhere() {
        let mut nodes = nodes();
        let (a, b) =
            (nodes.found(identity(3), ROOT, c"a").unwrap(), nodes.found(identity(4), ROOT, c"b").unwrap());
        let below = nodes.found(identity(5), a, c"below").unwrap();
        nodes.named(identity(3), b, c"a").unwrap();
        nodes.named(identity(4), a, c"b").unwrap();
        assert_eq!(nodes.paths(below), Err(Errno::ESTALE), "a is in b and b in a");
        nodes.forget(a, 1);
        assert_eq!(nodes.paths(below), Err(Errno::ESTALE), "a is not known any more");
    }

    #[test]
    fn a_path_that_the_kernel_would_not_walk_is_none() {
        let mut nodes = nodes();
        let name = CString::new([b'n'; 255]).unwrap();
        let mut parent = ROOT;
        for depth in 3..3 + 15 {
            parent = nodes.found(identity(depth), parent, &name).unwrap();
        }
        assert!(nodes.paths(parent).is_ok());
        for depth in 30..33 {
            parent = nodes.found(identity(depth), parent, &name).unwrap();
        }
        assert_eq!(nodes.paths(parent), Err(Errno::ESTALE));
    }

    #[test]
    fn nodes_are_bounded() {
        let mut nodes = nodes();
        for inode in 3..MOST as u64 + 2 {
            nodes.found(identity(inode), ROOT, c"f").unwrap();
        }
        assert_eq!(nodes.found(identity(u64::MAX), ROOT, c"g"), Err(Errno::ENFILE));
        assert!(nodes.found(identity(3), ROOT, c"f").is_ok(), "one that is known already");
    }

    #[test]
    fn the_names_of_nodes_are_bounded() {
        let mut nodes = nodes();
        let name = |byte: u8| CString::new([byte; 255]).unwrap();
        let most = NAMED / cost(&name(b'a'));
        let found = |nodes: &mut Nodes| {
            let numbers = 3u64..;
            numbers
                .map_while(|inode| nodes.found(identity(inode), ROOT, &name(b'a')).ok())
                .collect::<Vec<_>>()
        };
        let first = found(&mut nodes);
        assert_eq!((first.len(), nodes.found(identity(1), ROOT, &name(b'a'))), (most, Err(Errno::ENFILE)));
        nodes.found(identity(3), ROOT, &name(b'a')).unwrap();
        nodes.found(identity(3), ROOT, &name(b'b')).unwrap();
        assert_eq!(paths(&nodes, first[0]), [name(b'b')], "its newest name in place of the older");
        nodes.forget(first[0], 3);
        assert!(nodes.found(identity(1), ROOT, &name(b'a')).is_ok(), "what is forgotten makes room");
        nodes.clear();
        let files = (0..most / NAMES).map(|inode| inode as u64 + 3);
        for (inode, byte) in files.flat_map(|inode| (0..9u8).map(move |byte| (inode, b'a' + byte))) {
            nodes.found(identity(inode), ROOT, &name(byte)).unwrap();
        }
        assert_eq!(nodes.bytes, most / NAMES * NAMES * cost(&name(b'a')), "no more than {NAMES} of each");
        nodes.clear();
        assert_eq!(found(&mut nodes).len(), most);
    }
}
