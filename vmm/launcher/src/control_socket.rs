//! The control socket of a machine: where `vmm ctl` finds its launcher. Made before the launcher confines itself, and of
//! packets.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt};
use nix::unistd::geteuid;
use protocol::Channel;

use crate::error::Error;
use crate::listening::{Listening, reason, refuse};

/// Connections that may wait.
const BACKLOG: i32 = 4;

/// See above.
#[derive(Debug)]
pub struct ControlSocket {
    listening: Listening,
    /// Our user, whom alone it serves.
    uid: u32,
}

impl ControlSocket {
    /// Makes it and listens.
    pub fn make(path: &Path) -> Result<ControlSocket, Error> {
        let listening = Listening::make("make control socket", path, SockType::SeqPacket, BACKLOG)?;
        Ok(ControlSocket { listening, uid: geteuid().as_raw() })
    }

    /// The name, to be removed at the end.
    pub fn listening(&self) -> &Listening {
        &self.listening
    }

    /// The next client of our own user, if one waits; others are hung up on.
    pub fn accept(&self) -> Option<Channel> {
        let channel = Channel::accept(self.listening.as_fd()).ok()?;
        // The mode of the name keeps strangers away, unless somebody changes it.
        let peer = getsockopt(&channel, sockopt::PeerCredentials).ok()?;
        (peer.uid() == self.uid).then_some(channel)
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listening.as_fd()
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
    // A launcher is sent some, and answers with none.
    protocol::take_no_descriptors(&fd);
    connect(fd.as_raw_fd(), &address).map_err(failed)?;
    Channel::from_fd(fd).map_err(|error| refuse("reach the machine at", path, &error.to_string()))
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
        socket.listening().leave_to_spawner();
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
