//! The socket of one connection, and what is done with it: read, written, shut, as the state machine says. Nothing waits:
//! what the socket does not take now is in the backlog.

use std::os::fd::{AsRawFd, OwnedFd};

use device_backend::{Reader, Writer, read_stream, write_stream};
use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};

use crate::backlog::Backlog;
use crate::connection::Connection;
use crate::greeting::{Greeting, Said};
use crate::wire::Halves;

/// How far it has come.
#[derive(Debug)]
pub enum Phase {
    /// A program of the host is saying which port it wants.
    Greeting(Greeting),
    /// It is a connection with the guest.
    Connected(Connection),
    /// The guest has gone in order; what it sent before is still the host's.
    Draining,
}

/// See above.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    /// How far it has come.
    pub phase: Phase,
    /// Which halves of the socket are shut because the guest shut them.
    shut: Halves,
    /// The program has gone; there may be something left to read.
    pub hung_up: bool,
    /// Room is an event.
    pub waits_for_room: bool,
}

/// What came of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes, at least one.
    Some(usize),
    /// Nothing for now.
    Nothing,
    /// There will never be anything again.
    End,
    /// Nor will anything be taken.
    Broken,
}

impl Link {
    /// On `socket`, which does not block.
    #[must_use]
    pub fn new(socket: OwnedFd, phase: Phase) -> Self {
        Self { socket, phase, shut: Halves::default(), hung_up: false, waits_for_room: false }
    }

    /// To be watched.
    #[must_use]
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// The connection that it is.
    pub fn connection(&mut self) -> Option<&mut Connection> {
        if let Phase::Connected(connection) = &mut self.phase { Some(connection) } else { None }
    }

    /// Reads what the program says, as far as it is there. None: it is gone.
    pub fn greeting(&mut self) -> Option<Said> {
        let Phase::Greeting(greeting) = &mut self.phase else { return None };
        loop {
            match read_stream(&self.socket, greeting.place()) {
                Ok(0) => return None,
                Ok(bytes) => match greeting.read(bytes) {
                    Said::NotAll => {}
                    said => return Some(said),
                },
                Err(Errno::EAGAIN) => return Some(Said::NotAll),
                Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Tells the program that it is connected, by way of the host's `port`. Nothing was written before, so that a socket
    /// without room for a line is none that works.
    #[must_use]
    pub fn accepted(&self, port: u32) -> bool {
        let mut line = format!("OK {port}\n").into_bytes();
        write_stream(&self.socket, &mut line) == Ok(line.len())
    }

    /// Reads straight into guest memory.
    pub fn read(&self, room: &mut Writer<'_, '_>) -> Read {
        loop {
            return match room.read_stream(&self.socket) {
                Ok(0) if self.hung_up => Read::Broken,
                Ok(0) => Read::End,
                Ok(bytes) => Read::Some(bytes),
                Err(Errno::EAGAIN) => Read::Nothing,
                Err(Errno::EINTR) => continue,
                Err(_) => Read::Broken,
            };
        }
    }

    /// Passes the bytes of the guest on, behind what waits in `backlog`. Says how many the program has now.
    ///
    /// # Errors
    /// It takes nothing any more.
    pub fn write(&self, backlog: &mut Backlog, bytes: &mut Reader<'_, '_>) -> Result<usize, Refuses> {
        let before = bytes.remaining();
        while backlog.is_empty() && bytes.remaining() > 0 {
            match bytes.write_stream(&self.socket) {
                Ok(0) | Err(Errno::EAGAIN) => break,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return Err(Refuses),
            }
        }
        let written = before.saturating_sub(bytes.remaining());
        // It fits: the guest has no more credit than there is room.
        if backlog.append(bytes) { Ok(written) } else { Err(Refuses) }
    }

    /// Passes on what waits, as far as it is taken. Says how many bytes those were.
    ///
    /// # Errors
    /// It takes nothing any more.
    pub fn flush(&self, backlog: &mut Backlog) -> Result<usize, Refuses> {
        let mut written = 0usize;
        while !backlog.is_empty() {
            match write_stream(&self.socket, backlog.front()) {
                Ok(0) | Err(Errno::EAGAIN) => break,
                Ok(bytes) => {
                    backlog.advance(bytes);
                    written = written.saturating_add(bytes);
                }
                Err(Errno::EINTR) => {}
                Err(_) => return Err(Refuses),
            }
        }
        Ok(written)
    }

    /// Shuts what the guest has shut: what it sends when all of it is `written`.
    pub fn shut(&mut self, guest: Halves, written: bool) {
        let receive = guest.receive && !self.shut.receive;
        let send = guest.send && written && !self.shut.send;
        let how = match (receive, send) {
            (true, true) => Shutdown::Both,
            (true, false) => Shutdown::Read,
            (false, true) => Shutdown::Write,
            (false, false) => return,
        };
        // One that was hung up has nothing to be shut.
        let _ = shutdown(self.socket.as_raw_fd(), how);
        self.shut = self.shut.and(Halves { receive, send });
    }
}

/// A program takes nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refuses;
