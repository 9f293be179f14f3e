//! The host's side of a console: one descriptor, and what it is by its kind.
//!
//! Nothing here waits. Whoever opens a terminal, a pipe or a socket opens it so that it does not block, and an open file
//! description of its own: the flag belongs to the description, and one that was set here would be set for every
//! process that shares it, as a shell shares its terminal with what it starts. So it is checked, and never changed.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use device_backend::Error;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};

/// Whoever reads and types.
pub type Peer = Arc<OwnedFd>;

/// What a console is connected to.
#[derive(Debug)]
pub struct Host {
    kind: Kind,
    /// Who is there now. Of a listening socket the one client that was accepted last.
    peer: Mutex<Option<Peer>>,
}

#[derive(Debug)]
enum Kind {
    /// Takes output, at its end; so many bytes lie in it.
    File { size: u64 },
    /// Takes output.
    Pipe,
    /// A terminal, a pseudoterminal's master, a connected socket: both ways.
    Stream,
    /// Whoever connects, one after the other: both ways.
    Listener(UnixListener),
}

impl Host {
    /// By what `resource` is.
    ///
    /// # Errors
    /// It is none of these, or was opened in a way that does not fit.
    pub fn new(resource: OwnedFd) -> Result<Self, Error> {
        let wrong = |what: &str| Error::Resource(format!("the console cannot be used: {what}"));
        let flags = fcntl(&resource, FcntlArg::F_GETFL).map_err(|errno| wrong(errno.desc()))?;
        let flags = OFlag::from_bits_retain(flags);
        let file = File::from(resource);
        let metadata = file.metadata().map_err(|error| wrong(&error.to_string()))?;
        let (resource, file_type) = (OwnedFd::from(file), metadata.file_type());
        if file_type.is_file() {
            if !flags.contains(OFlag::O_APPEND) {
                return Err(wrong("its file was not opened for appending"));
            }
            return Ok(Self::with(Kind::File { size: metadata.len() }, Some(resource)));
        }
        if !flags.contains(OFlag::O_NONBLOCK) {
            return Err(wrong("it was not opened so that it does not block"));
        }
        if file_type.is_fifo() {
            return Ok(Self::with(Kind::Pipe, Some(resource)));
        }
        if file_type.is_char_device() {
            return Ok(Self::with(Kind::Stream, Some(resource)));
        }
        if !file_type.is_socket() || getsockopt(&resource, sockopt::SockType) != Ok(SockType::Stream) {
            return Err(wrong("it is neither a file, a pipe, a terminal nor a stream socket"));
        }
        match getsockopt(&resource, sockopt::AcceptConn) {
            Ok(true) => Ok(Self::with(Kind::Listener(resource.into()), None)),
            _ => Ok(Self::with(Kind::Stream, Some(resource))),
        }
    }

    fn with(kind: Kind, peer: Option<OwnedFd>) -> Self {
        Self { kind, peer: Mutex::new(peer.map(Arc::new)) }
    }

    /// Who takes output now, if anybody does.
    pub fn reader(&self) -> Option<Peer> {
        self.peer().clone()
    }

    /// The bytes of a file, as it was when this process got it.
    pub fn file_size(&self) -> Option<u64> {
        if let Kind::File { size } = self.kind { Some(size) } else { None }
    }

    /// Who gives input now; whoever waits to be accepted becomes it.
    pub fn writer(&self) -> Option<Peer> {
        let mut peer = self.peer();
        match &self.kind {
            Kind::File { .. } | Kind::Pipe => return None,
            Kind::Stream => {}
            Kind::Listener(listener) if peer.is_none() => *peer = accept(listener).map(Arc::new),
            Kind::Listener(_) => {}
        }
        peer.clone()
    }

    /// Where clients are waited for while there is none.
    pub fn listener(&self) -> Option<BorrowedFd<'_>> {
        if let Kind::Listener(listener) = &self.kind { Some(listener.as_fd()) } else { None }
    }

    /// `gone` has hung up. Whether another may come.
    pub fn hung_up(&self, gone: &Peer) -> bool {
        let Kind::Listener(_) = &self.kind else { return false };
        self.peer().take_if(|peer| Arc::ptr_eq(peer, gone));
        true
    }

    /// A panic ends the process, so a poisoned lock is never seen.
    fn peer(&self) -> MutexGuard<'_, Option<Peer>> {
        self.peer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next client. It is nobody else's, and so can be set not to block.
fn accept(listener: &UnixListener) -> Option<OwnedFd> {
    let client = OwnedFd::from(listener.accept().ok()?.0);
    fcntl(&client, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).ok()?;
    Some(client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixDatagram, UnixStream};

    #[test]
    fn what_would_block_or_overwrite_is_refused() {
        let refused = |fd: OwnedFd| Host::new(fd).unwrap_err().to_string();
        assert!(refused(tempfile::tempfile().unwrap().into()).contains("appending"));
        let (blocking, _other) = UnixStream::pair().unwrap();
        assert!(refused(blocking.into()).contains("does not block"));
        let (packets, _other) = UnixDatagram::pair().unwrap();
        packets.set_nonblocking(true).unwrap();
        assert!(refused(packets.into()).contains("neither"));
        let folder = File::open("/").unwrap();
        assert!(refused(folder.into()).contains("does not block"));
    }

    #[test]
    fn a_file_has_its_size_and_gives_no_input() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"before").unwrap();
        let appending = File::options().append(true).open(file.path()).unwrap();
        let host = Host::new(appending.into()).unwrap();
        assert_eq!(
            (host.file_size(), host.writer().is_none(), host.reader().is_some()),
            (Some(6), true, true)
        );
    }

    #[test]
    fn clients_come_one_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let host = Host::new(listener.into()).unwrap();
        assert!(host.reader().is_none() && host.writer().is_none() && host.listener().is_some());
        let mut first = UnixStream::connect(&path).unwrap();
        let _second = UnixStream::connect(&path).unwrap();
        assert!(host.reader().is_none(), "accepted by who gives input, not by who takes output");
        let peer = host.writer().unwrap();
        assert!(Arc::ptr_eq(&peer, &host.reader().unwrap()) && Arc::ptr_eq(&peer, &host.writer().unwrap()));
        File::from(peer.try_clone().unwrap()).write_all(b"x").unwrap();
        assert_eq!(first.read(&mut [0; 2]).unwrap(), 1);
        assert!(host.hung_up(&peer));
        let next = host.writer().unwrap();
        assert!(
            host.hung_up(&peer) && Arc::ptr_eq(&next, &host.reader().unwrap()),
            "an old one is no other's end"
        );
    }
}
