//! The host's side of a vsock: the socket on which programs of the host ask for ports of the guest, and the directory in
//! which they listen for the guest, which is this process's root. Nothing here waits.
//!
//! Each descriptor is watched for edges, so that a stream that the guest has no room for, and one that was hung up, wakes
//! nobody again and again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;

use device_backend::Error;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt};

/// Events taken at one look.
const EVENTS: usize = 64;
/// Whose event it is, where it is not a connection's.
const LISTENER: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;

/// See above.
#[derive(Debug)]
pub struct Host {
    listener: UnixListener,
    /// In front of a port: the socket's name in the root, and an underscore. None: the guest reaches nobody.
    prefix: Option<String>,
    epoll: Epoll,
    wake: EventFd,
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Programs ask for ports.
    Clients,
    /// [`Host::wake`].
    Woken,
    /// To the connection with this token.
    Of(u64, Happened),
}

/// What has happened to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Happened {
    /// There may be something to read, or the end.
    pub readable: bool,
    /// There may be room.
    pub writable: bool,
    /// The program takes nothing any more, and says nothing after what it has said.
    pub hung_up: bool,
}

impl Host {
    /// With `listener`, a listening stream socket that does not block, which is called `name` in the root.
    ///
    /// # Errors
    /// It is none; no descriptor is to be had.
    pub fn new(listener: OwnedFd, name: &str) -> Result<Self, Error> {
        let wrong = |what: &str| Error::Resource(format!("the vsock's socket cannot be used: {what}"));
        let flags = fcntl(&listener, FcntlArg::F_GETFL).map_err(|errno| wrong(errno.desc()))?;
        if getsockopt(&listener, sockopt::SockType) != Ok(SockType::Stream)
            || getsockopt(&listener, sockopt::AcceptConn) != Ok(true)
        {
            return Err(wrong("it is no stream socket that listens"));
        }
        if !OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK) {
            return Err(wrong("it was not opened so that it does not block"));
        }
        let failed = |errno| Error::System { action: "wait for many sockets", errno };
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let wake = wake.map_err(failed)?;
        let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&listener, EpollEvent::new(edge, LISTENER)).map_err(failed)?;
        epoll.add(&wake, EpollEvent::new(edge, WAKE)).map_err(failed)?;
        let prefix = (!name.is_empty()).then(|| format!("/{name}_"));
        Ok(Self { listener: listener.into(), prefix, epoll, wake })
    }

    /// What can be read from while there is an event.
    #[must_use]
    pub fn source(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Makes an event. Its count is never read: each edge is one, and there is no end of them.
    pub fn wake(&self) {
        let _ = nix::unistd::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// The next program that asks for a port; none if there is none, or no descriptor for it now.
    #[must_use]
    pub fn accept(&self) -> Option<OwnedFd> {
        let client = loop {
            match self.listener.accept() {
                Ok((client, _)) => break OwnedFd::from(client),
                // It went while it waited.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => return None,
            }
        };
        // It is nobody else's, and so can be set not to block.
        fcntl(&client, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).ok()?;
        Some(client)
    }

    /// Whoever listens at a port of the host.
    ///
    /// # Errors
    /// Nobody, or nobody who takes one more now.
    pub fn connect(&self, port: u32) -> Result<OwnedFd, Errno> {
        let prefix = self.prefix.as_deref().ok_or(Errno::ECONNREFUSED)?;
        let address = UnixAddr::new(format!("{prefix}{port}").as_str())?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(stream.as_raw_fd(), &address)?;
        Ok(stream)
    }

    /// From now on `socket` has events with `token`, at once if there is something. It has them until it is closed.
    ///
    /// # Errors
    /// The host has no memory for it.
    pub fn watch(&self, socket: &OwnedFd, token: u64) -> Result<(), Errno> {
        self.epoll.add(socket, event(token, false))
    }

    /// Whether room in `socket` is an event, too: at once if there is some.
    ///
    /// # Errors
    /// It is not watched.
    pub fn watch_room(&self, socket: &OwnedFd, token: u64, room: bool) -> Result<(), Errno> {
        self.epoll.modify(socket, &mut event(token, room))
    }

    /// What has happened since the last look, at most [`EVENTS`] of it.
    #[must_use]
    pub fn look(&self) -> Vec<Event> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        events.iter().take(count).map(of).collect()
    }
}

fn event(token: u64, room: bool) -> EpollEvent {
    let room = if room { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
    EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET | room, token)
}

fn of(event: &EpollEvent) -> Event {
    let flags = event.events();
    match event.data() {
        LISTENER => Event::Clients,
        WAKE => Event::Woken,
        token => {
            let hung_up = flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
            let readable = hung_up || flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP);
            Event::Of(token, Happened { readable, writable: flags.contains(EpollFlags::EPOLLOUT), hung_up })
        }
    }
}
