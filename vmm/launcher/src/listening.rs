//! A name of the host on which the machine listens: of mode 0600, and never where somebody listens already. A name that a
//! dead launcher left behind shows by nobody listening, and is replaced.
//!
//! A confined launcher can do nothing else about it: its spawner removes the name at the end, if that is still this
//! socket's; until there is a spawner, whoever made it does. When the launcher is killed by SIGKILL the spawner dies with
//! it, and may not have come to that.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::error::Error;
use crate::exit_code::Code;

/// See above.
#[derive(Debug)]
pub struct Listening {
    listener: OwnedFd,
    path: PathBuf,
    /// Device and inode of the name.
    identity: Option<(u64, u64)>,
    /// Whether dropping it removes the name.
    ours: Cell<bool>,
}

impl Listening {
    /// Makes it, for at most `backlog` that wait, and listens. `what` is what a person is told was tried.
    pub fn make(what: &'static str, path: &Path, kind: SockType, backlog: i32) -> Result<Listening, Error> {
        let refused = |text: &str| refuse(what, path, text);
        let failed = |errno: Errno| refused(&reason(errno));
        let address = UnixAddr::new(path).map_err(failed)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, kind, flags, None).map_err(failed)?;
        match bind_private(&listener, &address) {
            Err(Errno::EADDRINUSE) => {
                is_stale(path, &address, kind).map_err(|text| refused(&text))?;
                unlinkat(AT_FDCWD, path, UnlinkatFlags::NoRemoveDir).map_err(failed)?;
                bind_private(&listener, &address).map_err(failed)?;
            }
            bound => bound.map_err(failed)?,
        }
        let (path, ours) = (path.to_owned(), Cell::new(true));
        let socket = Listening { identity: identity(&path), listener, path, ours };
        Backlog::new(backlog).and_then(|backlog| listen(&socket.listener, backlog)).map_err(failed)?;
        Ok(socket)
    }

    /// From here on dropping it removes nothing.
    pub fn leave_to_spawner(&self) {
        self.ours.set(false);
    }

    /// Removes the name, unless it is another's by now.
    pub fn remove(&self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // There is nobody to tell, and a name too many is recognised.
            let _ = unlinkat(AT_FDCWD, &self.path, UnlinkatFlags::NoRemoveDir);
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if self.ours.get() {
            self.remove();
        }
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// With a name for our user only, from the first moment. There is one thread.
fn bind_private(listener: &OwnedFd, address: &UnixAddr) -> Result<(), Errno> {
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = bind(listener.as_raw_fd(), address);
    umask(before);
    bound
}

/// Whether what is there is a socket on which nobody listens any more; or what else it is.
fn is_stale(path: &Path, address: &UnixAddr, socket_kind: SockType) -> Result<(), String> {
    let kind = std::fs::symlink_metadata(path).map_err(|error| error.to_string())?.file_type();
    if !kind.is_socket() {
        let kind = if kind.is_dir() { "a directory" } else { "a file that is no socket" };
        return Err(format!("{kind} is there; name a path where nothing is"));
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, socket_kind, flags, None);
    match probe.and_then(|probe| connect(probe.as_raw_fd(), address)) {
        Err(Errno::ECONNREFUSED) => Ok(()),
        // Of packets or not, busy or not.
        Ok(()) | Err(Errno::EPROTOTYPE | Errno::EAGAIN) => {
            Err("somebody listens there already; is it another machine's?".to_owned())
        }
        Err(errno) => Err(reason(errno)),
    }
}

/// By a descriptor of the name itself: the spawner's list has no other way to look at a file.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// What a person is told of an error with a socket's name.
pub fn reason(errno: Errno) -> String {
    match errno {
        Errno::ENAMETOOLONG => "a socket's path has at most 107 bytes".to_owned(),
        errno => errno.desc().to_owned(),
    }
}

/// A name that cannot be used.
pub fn refuse(what: &'static str, path: &Path, text: &str) -> Error {
    Error::Path { what, path: path.to_owned(), text: text.to_owned(), code: Code::Resource }
}
