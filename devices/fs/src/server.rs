//! The file server: one operation at a time for each queue, all queues on the same nodes and open files. No lock is held
//! while the host does something.
//!
//! It keeps nothing back: what a driver was told is done, the host has. And it needs nothing of what a predecessor
//! negotiated, since each layout and limit is the same with every driver. What a predecessor knew is gone with it: its nodes
//! and open files are ESTALE, at which the driver walks the path again; only who held a file open has to open it again.

use std::ffi::{CStr, CString};
use std::fs::{File, Metadata};
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::handles::{Handle, Handles};
use crate::host::{Host, LIST, LOOK, WALK, look_at};
use crate::nodes::{Identity, Nodes};
use crate::request::{Operation, SetAttributes, Span, Time};
use crate::wire;

/// The type bits of a mode, and those of a regular file.
const TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;

#[derive(Debug)]
struct State {
    nodes: Nodes,
    handles: Handles,
}

impl State {
    /// The driver is told of a file and given it open, or neither. Answers the numbers of the node and of the open file.
    ///
    /// # Errors
    /// What there is too much of, and the file, for the caller to close without the lock.
    fn created(
        &mut self,
        identity: Identity,
        parent: u64,
        name: &CStr,
        file: File,
    ) -> Result<(u64, u64), (Errno, File)> {
        let node = match self.nodes.found(identity, parent, name) {
            Ok(node) => node,
            Err(errno) => return Err((errno, file)),
        };
        self.handles.open(node, file).map(|handle| (node, handle)).map_err(|file| {
            self.nodes.forget(node, 1);
            (Errno::ENFILE, file)
        })
    }
}

/// See above.
#[derive(Debug)]
pub struct Server {
    host: Host,
    state: Mutex<State>,
}

/// A path's directory and its last name.
fn split(path: &CStr) -> Result<(CString, CString), Errno> {
    let bytes = path.to_bytes();
    let (above, name) = match bytes.iter().rposition(|byte| *byte == b'/') {
        Some(at) => bytes.split_at(at),
        None => (&b"."[..], bytes),
    };
    let owned = |part: &[u8]| CString::new(part).map_err(|_| Errno::EINVAL);
    Ok((owned(above)?, owned(name.strip_prefix(b"/").unwrap_or(name))?))
}

impl Server {
    /// Serves this directory.
    ///
    /// # Errors
    /// What statx says of it.
    pub fn new(host: Host) -> Result<Self, Errno> {
        let root = Identity::of(&look_at(host.root())?);
        // The high half, which is neither 0 nor that of the root: what a predecessor gave out had another, but for one
        // chance in 2^31.
        let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
        let first = (random | 1 << 63) & !u64::from(u32::MAX);
        let state = State { nodes: Nodes::new(root, first), handles: Handles::new(first) };
        Ok(Self { host, state: Mutex::new(state) })
    }

    /// Nothing is known and nothing open any more: the driver begins anew, or is gone.
    pub fn clear(&self) {
        let mut state = self.state();
        state.nodes.clear();
        let closed = state.handles.clear();
        drop(state);
        drop(closed);
    }

    /// A panic ends the process, so a poisoned lock is never seen.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An open file.
    ///
    /// # Errors
    /// ESTALE.
    pub fn handle(&self, number: u64) -> Result<Arc<Handle>, Errno> {
        self.state().handles.of(number)
    }

    /// Does what is asked of `node`, but for reading and writing, and answers with what goes behind the header; `None`: there
    /// is no answer.
    ///
    /// # Errors
    /// The answer's.
    pub fn operate(&self, node: u64, operation: Operation<'_>) -> Result<Option<Vec<u8>>, Errno> {
        match operation {
            Operation::Forget(nodes) => {
                let mut state = self.state();
                nodes.into_iter().for_each(|(node, count)| state.nodes.forget(node, count));
                return Ok(None);
            }
            Operation::Interrupt => return Ok(None),
            Operation::Init { major, readahead } => self.init(major, readahead),
            Operation::Destroy => {
                self.clear();
                Ok(Vec::new())
            }
            Operation::FileSystem => self.host.file_system(),
            Operation::Flush => Ok(Vec::new()),
            Operation::Release { handle } => {
                let closed = self.state().handles.close(handle);
                drop(closed);
                Ok(Vec::new())
            }
            Operation::Synchronize { handle } => self.synchronize(handle),
            Operation::Allocate { handle, offset, length, mode } => {
                let handle = self.handle(handle)?;
                self.host.allocate(&handle.file, mode, offset, length).map(|()| Vec::new())
            }
            Operation::ReadDirectory(span) => self.read_directory(span),
            Operation::Attributes { handle } => self.attributes(node, handle),
            Operation::SetAttributes(what) => self.set_attributes(node, what),
            Operation::ReadLink => self.host.read_link(&self.open(node, LOOK)?.0),
            Operation::Open { flags } => {
                let file = self.open_regular(node, flags)?;
                self.opened(node, file)
            }
            Operation::OpenDirectory => {
                let (file, _) = self.open(node, LIST)?;
                self.opened(node, file)
            }
            // The device's: they go straight between the file and guest memory.
            Operation::Read(_) | Operation::Write(_) => Err(Errno::EINVAL),
            by_name => self.in_directory(node, by_name),
        }
        .map(Some)
    }

    /// What is done to a name in the directory `node`.
    fn in_directory(&self, node: u64, operation: Operation<'_>) -> Result<Vec<u8>, Errno> {
        let (directory, _) = self.open(node, WALK)?;
        match operation {
            Operation::Lookup { name } => self.entry(node, &directory, name),
            Operation::SymbolicLink { name, target } => {
                self.host.make_link(&directory, name, target)?;
                self.entry(node, &directory, name)
            }
            Operation::MakeNode { name, mode } => {
                // A pipe, a socket or a device is a thing of the host's.
                if mode & TYPE != REGULAR && mode & TYPE != 0 {
                    return Err(Errno::EPERM);
                }
                let exclusively = (OFlag::O_EXCL | OFlag::O_WRONLY).bits().cast_unsigned();
                self.host.create(&directory, name, exclusively, mode)?;
                self.entry(node, &directory, name)
            }
            Operation::MakeDirectory { name, mode } => {
                self.host.make_directory(&directory, name, mode)?;
                self.entry(node, &directory, name)
            }
            Operation::Unlink { name } => self.host.remove(&directory, name, false).map(|()| Vec::new()),
            Operation::RemoveDirectory { name } => {
                self.host.remove(&directory, name, true).map(|()| Vec::new())
            }
            Operation::Rename { name, to, new, flags } => {
                self.rename((&directory, name), (to, new), flags).map(|()| Vec::new())
            }
            Operation::Link { of, name } => {
                let (from, old) = self.place(of)?;
                self.host.link((&from, &old), (&directory, name))?;
                self.entry(node, &directory, name)
            }
            Operation::Create { name, flags, mode } => {
                let file = self.host.create(&directory, name, flags, mode)?;
                let found = look_at(&file)?;
                let created = self.state().created(Identity::of(&found), node, name, file);
                let (number, handle) = created.map_err(|(errno, _file)| errno)?;
                let mut answer = wire::entry_out(number, &found, self.host.owners());
                answer.extend(wire::open_out(handle));
                Ok(answer)
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    fn init(&self, major: u32, readahead: u32) -> Result<Vec<u8>, Errno> {
        if major < wire::MAJOR {
            return Err(Errno::EPROTO);
        }
        self.clear();
        // A driver with a later major version says its request again when it hears ours.
        Ok(wire::init_out(readahead))
    }

    /// Opens a node by the first of its paths at which it still is.
    fn open_with(
        &self,
        node: u64,
        open: impl Fn(&CStr) -> Result<(File, Metadata), Errno>,
    ) -> Result<(File, Metadata), Errno> {
        let (identity, paths) = self.state().nodes.paths(node)?;
        for path in paths {
            match open(&path) {
                Ok((file, found)) if Identity::of(&found) == identity => return Ok((file, found)),
                // Something else is there now, or nothing.
                Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::ESTALE)
    }

    fn open(&self, node: u64, flags: OFlag) -> Result<(File, Metadata), Errno> {
        self.open_with(node, |path| {
            let file = self.host.open(self.host.root(), path, flags)?;
            look_at(&file).map(|found| (file, found))
        })
    }

    fn open_regular(&self, node: u64, flags: u32) -> Result<File, Errno> {
        let open = |path: &CStr| self.host.open_regular(self.host.root(), path, flags);
        self.open_with(node, open).map(|(file, _)| file)
    }

    /// The directory that a node is in, and its name there.
    fn place(&self, node: u64) -> Result<(File, CString), Errno> {
        let (identity, paths) = self.state().nodes.paths(node)?;
        for path in paths {
            let (above, name) = split(&path)?;
            let Ok(directory) = self.host.open(self.host.root(), &above, WALK) else { continue };
            let found = self.host.open(&directory, &name, LOOK).and_then(|file| look_at(&file));
            if found.is_ok_and(|found| Identity::of(&found) == identity) {
                return Ok((directory, name));
            }
        }
        Err(Errno::ESTALE)
    }

    /// Looks a name up, and counts that the driver was told.
    fn entry(&self, parent: u64, directory: &File, name: &CStr) -> Result<Vec<u8>, Errno> {
        let found = look_at(&self.host.open(directory, name, LOOK)?)?;
        let number = self.state().nodes.found(Identity::of(&found), parent, name)?;
        Ok(wire::entry_out(number, &found, self.host.owners()))
    }

    fn opened(&self, node: u64, file: File) -> Result<Vec<u8>, Errno> {
        let opened = self.state().handles.open(node, file);
        opened.map(wire::open_out).map_err(|_file| Errno::ENFILE)
    }

    fn rename(&self, from: (&File, &CStr), to: (u64, &CStr), flags: u32) -> Result<(), Errno> {
        let (directory, _) = self.open(to.0, WALK)?;
        self.host.rename(from, (&directory, to.1), flags)?;
        // A name that is not there any more is found out when it is used; a new one has to be known.
        let found = self.host.open(&directory, to.1, LOOK).and_then(|file| look_at(&file));
        if let Ok(found) = found {
            // Without room for it the driver looks it up again, and is told.
            let _known = self.state().nodes.named(Identity::of(&found), to.0, to.1);
        }
        Ok(())
    }

    /// What is known of a node; of one without a name by any file that is open of it.
    fn look(&self, node: u64, handle: Option<u64>) -> Result<Metadata, Errno> {
        match self.open(node, LOOK) {
            Ok((_, found)) => Ok(found),
            Err(Errno::ESTALE) => {
                let state = self.state();
                let by_handle = handle.and_then(|number| state.handles.of(number).ok());
                let open = by_handle.or_else(|| state.handles.of_node(node)).ok_or(Errno::ESTALE)?;
                drop(state);
                look_at(&open.file)
            }
            Err(errno) => Err(errno),
        }
    }

    fn attributes(&self, node: u64, handle: Option<u64>) -> Result<Vec<u8>, Errno> {
        Ok(wire::attr_out(&self.look(node, handle)?, self.host.owners()))
    }

    fn set_attributes(&self, node: u64, what: SetAttributes) -> Result<Vec<u8>, Errno> {
        let before = self.look(node, what.handle)?;
        let (uid, gid) = self.host.owners().seen(&before);
        // There is one owner whom the host lets this process give a file, and it has that one.
        if what.uid.is_some_and(|wanted| wanted != uid) || what.gid.is_some_and(|wanted| wanted != gid) {
            return Err(Errno::EPERM);
        }
        let open = what.handle.map(|number| self.handle(number)).transpose()?;
        if let Some(mode) = what.mode {
            let (directory, name) = self.place(node)?;
            self.host.set_mode(&directory, &name, &before, mode)?;
        }
        if let Some(size) = what.size {
            match &open {
                Some(open) => self.host.set_size(&open.file, size)?,
                None => {
                    let write = OFlag::O_WRONLY.bits().cast_unsigned();
                    self.host.set_size(&self.open_regular(node, write)?, size)?;
                }
            }
        }
        let times = [what.access, what.modification];
        if times.iter().any(Option::is_some) {
            self.set_times(node, open, times)?;
        }
        self.attributes(node, what.handle)
    }

    /// By its name, or without one by `open` or any file that is open of it. (For permissions that would be one more system
    /// call, fchmod; a length takes a file that is open for writing, which the driver knows.)
    fn set_times(&self, node: u64, open: Option<Arc<Handle>>, times: [Option<Time>; 2]) -> Result<(), Errno> {
        match self.place(node) {
            Ok((directory, name)) => self.host.set_times(Ok((&directory, &name)), times),
            Err(errno) => {
                let open = open.or_else(|| self.state().handles.of_node(node)).ok_or(errno)?;
                self.host.set_times(Err(&open.file), times)
            }
        }
    }

    fn synchronize(&self, handle: u64) -> Result<Vec<u8>, Errno> {
        let handle = self.handle(handle)?;
        self.host.synchronize(&handle.file).map(|()| Vec::new())
    }

    fn read_directory(&self, span: Span) -> Result<Vec<u8>, Errno> {
        let handle = self.handle(span.handle)?;
        if span.offset == 0 {
            // The old one has to go first, to make room.
            let empty = handle.listing().renew();
            let listing = self.host.list(&handle.file, empty)?;
            *handle.listing() = listing;
        }
        let room = usize::try_from(span.size.min(wire::MAX_TRANSFER)).unwrap_or_default();
        let listing = handle.listing();
        let at = usize::try_from(span.offset).unwrap_or(usize::MAX);
        let mut answer = Vec::new();
        for (entry, next) in listing.entries().iter().zip(1u64..).skip(at) {
            if answer.len().saturating_add(wire::directory_entry_size(entry.name.len())) > room {
                break;
            }
            wire::directory_entry(&mut answer, entry.inode, next, entry.kind, &entry.name);
        }
        Ok(answer)
    }
}
