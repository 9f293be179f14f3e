//! The control socket of a machine: where `vmm ctl` finds its launcher.
//!
//! Made before the launcher confines itself: of packets, of mode 0600, and never where somebody listens already. A name
//! that a dead launcher left behind shows by nobody listening, and is replaced. A confined launcher can accept and do
//! nothing else about it: its spawner removes the name at the end, if that is still this socket's; until there is a
//! spawner, whoever made it does. When the launcher is killed by SIGKILL the spawner dies with it, and may not have come
//! to that.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, socket, sockopt,
};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use protocol::Channel;

use crate::error::Error;
use crate::exit_code::Code;

/// Connections that may wait.
const BACKLOG: i32 = 4;

/// See above.
#[derive(Debug)]
pub struct ControlSocket {
    listener: OwnedFd,
    path: PathBuf,
    /// Device and inode of the name.
    identity: Option<(u64, u64)>,
    /// Our user, whom alone it serves.
    uid: u32,
    /// Whether dropping it removes the name.
    ours: Cell<bool>,
}

impl ControlSocket {
    /// Makes it and listens.
    pub fn make(path: &Path) -> Result<ControlSocket, Error> {
        let refused = |text: &str| refuse("make control socket", path, text);
        let failed = |errno: Errno| refused(&reason(errno));
        let address = UnixAddr::new(path).map_err(failed)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let kind = SockType::SeqPacket;
        let listener = socket(AddressFamily::Unix, kind, flags, None).map_err(failed)?;
        match bind_private(&listener, &address) {
            Err(Errno::EADDRINUSE) => {
                is_stale(path, &address).map_err(|text| refused(&text))?;
                unlinkat(AT_FDCWD, path, UnlinkatFlags::NoRemoveDir).map_err(failed)?;
                bind_private(&listener, &address).map_err(failed)?;
            }
            bound => bound.map_err(failed)?,
        }
        let uid = geteuid().as_raw();
        let (path, ours) = (path.to_owned(), Cell::new(true));
        let socket = ControlSocket { identity: identity(&path), listener, path, uid, ours };
        Backlog::new(BACKLOG).and_then(|backlog| listen(&socket.listener, backlog)).map_err(failed)?;
        Ok(socket)
    }

    /// The next client of our own user, if one waits; others are hung up on.
    pub fn accept(&self) -> Option<Channel> {
        let channel = Channel::accept(self.listener.as_fd()).ok()?;
        // The mode of the name keeps strangers away, unless somebody changes it.
        let peer = getsockopt(&channel, sockopt::PeerCredentials).ok()?;
        (peer.uid() == self.uid).then_some(channel)
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

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if self.ours.get() {
            self.remove();
        }
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// A client's connection.
pub fn client(path: &Path) -> Result<Channel, Error> {
    let failed = |errno: Errno| {
        let text = match errno {
            Errno::ENOENT => "there is no such socket; start the machine with --control-socket".to_owned(),
            Errno::ECONNREFUSED | Errno::EPROTOTYPE => "no machine listens there".to_owned(),
            Errno::EACCES => "no permission; it serves the user alone who started the machine".to_owned(),
            errno => reason(errno),
        };
        refuse("reach the machine at", path, &text)
    };
    let address = UnixAddr::new(path).map_err(failed)?;
    let kind = SockType::SeqPacket;
    let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    connect(fd.as_raw_fd(), &address).map_err(failed)?;
    Channel::from_fd(fd).map_err(|error| refuse("reach the machine at", path, &error.to_string()))
}

/// With a name for our user only, from the first moment. There is one thread.
fn bind_private(listener: &OwnedFd, address: &UnixAddr) -> Result<(), Errno> {
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = bind(listener.as_raw_fd(), address);
    umask(before);
    bound
}

/// Whether what is there is a socket on which nobody listens any more; or what else it is.
fn is_stale(path: &Path, address: &UnixAddr) -> Result<(), String> {
    let kind = std::fs::symlink_metadata(path).map_err(|error| error.to_string())?.file_type();
    if !kind.is_socket() {
        let kind = if kind.is_dir() { "a directory" } else { "a file that is no socket" };
        return Err(format!("{kind} is there; name a path where nothing is"));
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None);
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

fn reason(errno: Errno) -> String {
    match errno {
        Errno::ENAMETOOLONG => "a socket's path has at most 107 bytes".to_owned(),
        errno => errno.desc().to_owned(),
    }
}

fn refuse(what: &'static str, path: &Path, text: &str) -> Error {
    Error::Path { what, path: path.to_owned(), text: text.to_owned(), code: Code::Resource }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn refused(path: &Path) -> String {
        ControlSocket::make(path).unwrap_err().to_string()
    }

    #[test]
    fn a_stale_name_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let socket = ControlSocket::make(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(client(&path).is_ok());
        assert!(refused(&path).contains("somebody listens"));
        assert!(path.exists(), "the live one's name stays");
        socket.leave_to_spawner();
        drop(socket);
        assert!(path.exists());
        assert!(client(&path).unwrap_err().to_string().contains("no machine listens there"));
        drop(ControlSocket::make(&path).unwrap());
        assert!(!path.exists());
        assert!(client(&path).unwrap_err().to_string().contains("--control-socket"));
    }

    #[test]
    fn the_name_of_another_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let first = ControlSocket::make(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _second = ControlSocket::make(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn what_is_no_socket_and_what_is_too_long_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(refused(folder.path()).contains("a directory is there"));
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(refused(&file).contains("no socket"));
        assert!(file.exists());
        assert!(refused(&folder.path().join("x".repeat(120))).contains("107 bytes"));
        let stream = folder.path().join("stream");
        let _listener = std::os::unix::net::UnixListener::bind(&stream).unwrap();
        assert!(refused(&stream).contains("somebody listens"));
    }
}
