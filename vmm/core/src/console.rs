//! The way of the guest's output to the console: a bounded buffer between the vCPUs, which never wait, and
//! one writer thread, which may.
//!
//! The console's peer may stop reading for ever (a stalled terminal, a pipe nobody reads). Then the buffer
//! fills, the UART shows its transmitter as busy (see [`crate::serial`]), and whatever a guest sends
//! nevertheless is dropped and counted.

use crate::Error;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::write;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes that wait for the writer at most.
const CAPACITY: usize = 64 * 1024;
/// Bytes per `write`.
const CHUNK: usize = 4096;

/// The buffer.
#[derive(Debug, Default)]
pub struct ConsoleOutput {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<u8>,
    /// Bytes that the writer has taken and not yet written.
    in_flight: usize,
    /// The console is gone: everything is dropped.
    closed: bool,
    dropped: u64,
}

impl ConsoleOutput {
    /// Queues a byte, or drops it when there is no room.
    pub fn push(&self, byte: u8) {
        let mut state = self.lock();
        if state.closed || state.waiting.len() >= CAPACITY {
            state.dropped = state.dropped.saturating_add(1);
            return;
        }
        state.waiting.push_back(byte);
        drop(state);
        self.changed.notify_all();
    }

    /// Whether the next byte would be dropped for want of room.
    pub fn full(&self) -> bool {
        let state = self.lock();
        !state.closed && state.waiting.len() >= CAPACITY
    }

    /// Bytes dropped so far.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// There is no console: what is sent is dropped from now on.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until everything queued is written, `limit` at most.
    pub fn drain(&self, limit: Duration) {
        let busy = |state: &mut State| !state.closed && (state.in_flight > 0 || !state.waiting.is_empty());
        let waited = self.changed.wait_timeout_while(self.lock(), limit, busy);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// The writer thread: writes to `console` what is queued, until the process ends or the console is gone.
    /// `room` is called each time that a full buffer has become less full.
    pub fn write_to(&self, console: &ConsoleSink, mut room: impl FnMut()) {
        loop {
            let (chunk, was_full) = self.take();
            let written = console.write_all(&chunk);
            let mut state = self.lock();
            state.in_flight = 0;
            state.closed = written.is_err();
            drop(state);
            self.changed.notify_all();
            if was_full {
                room();
            }
            if let Err(errno) = written {
                crate::log::line(format_args!("the console is gone: {errno}"));
                return;
            }
        }
    }

    /// Waits for something to write and takes it.
    fn take(&self) -> (Vec<u8>, bool) {
        let waited = self.changed.wait_while(self.lock(), |state| state.waiting.is_empty());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let was_full = state.waiting.len() >= CAPACITY;
        let size = state.waiting.len().min(CHUNK);
        let chunk: Vec<u8> = state.waiting.drain(..size).collect();
        state.in_flight = chunk.len();
        (chunk, was_full)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sink that the UART model writes into. It never fails and never waits.
#[derive(Debug)]
pub struct ConsoleWriter(pub std::sync::Arc<ConsoleOutput>);

impl io::Write for ConsoleWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bytes.iter().for_each(|byte| self.0.push(*byte));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The console's end of the way.
///
/// The descriptor may be non-blocking, since its file description is shared with whoever opened the
/// terminal; then an epoll instance of its own waits for room.
#[derive(Debug)]
pub struct ConsoleSink {
    console: OwnedFd,
    room: Option<Epoll>,
}

impl ConsoleSink {
    /// A sink that writes to `console`.
    ///
    /// # Errors
    /// No epoll instance to be had.
    pub fn new(console: OwnedFd) -> Result<Self, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(Error::system("epoll_create1"))?;
        match epoll.add(&console, EpollEvent::new(EpollFlags::EPOLLOUT, 0)) {
            Ok(()) => Ok(Self { console, room: Some(epoll) }),
            // A file: there is always room.
            Err(Errno::EPERM) => Ok(Self { console, room: None }),
            Err(errno) => Err(Error::System { call: "epoll_ctl", errno }),
        }
    }

    fn write_all(&self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            match (write(&self.console, bytes), &self.room) {
                (Ok(count), _) => bytes = bytes.get(count..).unwrap_or_default(),
                (Err(Errno::EINTR), _) => {}
                (Err(Errno::EAGAIN), Some(room)) => {
                    match room.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE) {
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(errno) => return Err(errno),
                    }
                }
                (Err(errno), _) => return Err(errno),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::sync::Arc;

    fn pipe() -> (std::fs::File, ConsoleSink) {
        let (read, write) = nix::unistd::pipe().unwrap();
        (read.into(), ConsoleSink::new(write).unwrap())
    }

    #[test]
    fn output_arrives_in_order() {
        let output = Arc::new(ConsoleOutput::default());
        let (mut read, write) = pipe();
        let writer = Arc::clone(&output);
        std::thread::spawn(move || writer.write_to(&write, || ()));
        let sent: Vec<u8> = (0..20_000u32).map(|i| i.to_le_bytes()[0]).collect();
        sent.iter().for_each(|byte| output.push(*byte));
        let mut seen = vec![0; sent.len()];
        read.read_exact(&mut seen).unwrap();
        assert_eq!(seen, sent);
        output.drain(Duration::from_secs(60));
        assert_eq!(output.dropped(), 0);
    }

    #[test]
    fn a_non_blocking_console_is_waited_for() {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let output = Arc::new(ConsoleOutput::default());
        let (read, write) = nix::unistd::pipe().unwrap();
        fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        fcntl(&write, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        let (sink, writer) = (ConsoleSink::new(write).unwrap(), Arc::clone(&output));
        (0..CAPACITY).for_each(|_| output.push(b'x'));
        std::thread::spawn(move || writer.write_to(&sink, || ()));
        let mut seen = vec![0; CAPACITY];
        std::fs::File::from(read).read_exact(&mut seen).unwrap();
        assert!(seen.iter().all(|byte| *byte == b'x'));
    }

    #[test]
    fn a_console_that_nobody_reads_costs_bytes_and_nothing_else() {
        let output = ConsoleOutput::default();
        for _ in 0..CAPACITY {
            assert!(!output.full());
            output.push(b'x');
        }
        assert!(output.full());
        (0..1000).for_each(|_| output.push(b'y'));
        assert_eq!(output.dropped(), 1000);
    }

    #[test]
    fn a_full_buffer_that_drains_says_so_and_a_console_that_goes_ends_the_writer() {
        let output = Arc::new(ConsoleOutput::default());
        (0..CAPACITY).for_each(|_| output.push(b'x'));
        let (read, write) = pipe();
        drop(read);
        let mut rooms = 0;
        output.write_to(&write, || rooms += 1);
        assert_eq!(rooms, 1);
        assert!(!output.full(), "what is dropped anyway needs no room");
        output.drain(Duration::from_secs(60));
    }
}
