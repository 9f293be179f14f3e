//! The log of one program, relayed to standard error under its name.
//!
//! The program may be taken over: its lines are cut at a length, its rate is bounded, and what is beyond is read,
//! counted and dropped, so that a flood costs it as much as us and fills no disk.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::read;

use crate::report;

/// Bytes of a line.
const LINE: usize = 512;
/// Lines at once, and lines a second in the long run.
const BURST: u64 = 100;
const PER_SECOND: u64 = 20;
/// Bytes that are read at one event: others have their turn.
const CHUNK: usize = 8192;

/// The reading end of a program's log, and what is left of its last line.
#[derive(Debug)]
pub struct LogRelay {
    name: String,
    pipe: OwnedFd,
    since: Instant,
    lines: Lines,
}

impl LogRelay {
    /// Relays what comes out of `pipe` as the words of `name`.
    pub fn new(name: &str, pipe: OwnedFd) -> LogRelay {
        LogRelay { name: name.to_owned(), pipe, since: Instant::now(), lines: Lines::new() }
    }

    /// Relays what is there now, in bounds; false once the other end is closed.
    pub fn relay(&mut self) -> bool {
        let mut chunk = [0; CHUNK];
        let (bytes, open) = match read(&self.pipe, &mut chunk) {
            Ok(0) => (&b"\n"[..], false),
            Ok(count) => (chunk.get(..count).unwrap_or_default(), true),
            Err(Errno::EAGAIN | Errno::EINTR) => return true,
            Err(_) => (&b"\n"[..], false),
        };
        let name = &self.name;
        self.lines.push(bytes, self.since.elapsed(), &mut |line| {
            let said = report::can_say();
            if said {
                report::line(name, line);
            }
            said
        });
        open
    }

    /// Relays what a program that ended has left behind.
    pub fn relay_rest(&mut self) {
        // A pipe holds 64 KiB unless somebody with rights enlarges it.
        for _ in 0..16 {
            if !self.relay() {
                break;
            }
        }
        if self.lines.dropped > 0 {
            report::line(&self.name, &format!("({} lines dropped)", self.lines.dropped));
        }
    }
}

impl AsFd for LogRelay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// Bytes to lines, with their bounds; apart from the pipe and the clock so that it can be tested.
#[derive(Debug)]
struct Lines {
    line: Vec<u8>,
    tokens: u64,
    refilled: Duration,
    dropped: u64,
}

impl Lines {
    fn new() -> Lines {
        Lines { line: Vec::new(), tokens: BURST, refilled: Duration::ZERO, dropped: 0 }
    }

    /// Takes more bytes at time `now`; `say` answers whether it could say the line.
    fn push(&mut self, bytes: &[u8], now: Duration, say: &mut dyn FnMut(&str) -> bool) {
        self.refill(now);
        for byte in bytes {
            if *byte == b'\n' {
                self.end_line(say);
            } else if self.line.len() < LINE {
                self.line.push(*byte);
            }
        }
    }

    fn end_line(&mut self, say: &mut dyn FnMut(&str) -> bool) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return;
        }
        if self.dropped > 0 && self.spend() {
            let told = say(&format!("({} lines dropped)", self.dropped));
            self.dropped = if told { 0 } else { self.dropped };
        }
        if !(self.spend() && say(&String::from_utf8_lossy(&line))) {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    fn spend(&mut self) -> bool {
        let left = self.tokens.checked_sub(1);
        self.tokens = left.unwrap_or(0);
        left.is_some()
    }

    fn refill(&mut self, now: Duration) {
        let seconds = now.saturating_sub(self.refilled).as_secs();
        if seconds > 0 {
            self.refilled = now;
            self.tokens = self.tokens.saturating_add(seconds.saturating_mul(PER_SECOND)).min(BURST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(lines: &mut Lines, bytes: &[u8], second: u64) -> Vec<String> {
        let mut said = Vec::new();
        lines.push(bytes, Duration::from_secs(second), &mut |line| {
            said.push(line.to_owned());
            true
        });
        said
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        let mut lines = Lines::new();
        assert!(pushed(&mut lines, b"hel", 0).is_empty());
        assert_eq!(pushed(&mut lines, b"lo\n\nwor\xff\nx", 0), ["hello", "wor\u{fffd}"]);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut lines = Lines::new();
        assert!(pushed(&mut lines, &[b'a'; 1 << 20], 0).is_empty());
        assert_eq!(pushed(&mut lines, b"\n", 0), ["a".repeat(LINE)]);
        assert!(lines.line.capacity() <= 2 * LINE);
    }

    #[test]
    fn a_flood_is_counted_and_dropped() {
        let mut lines = Lines::new();
        let flood = b"x\n".repeat(1000);
        assert_eq!(pushed(&mut lines, &flood, 0).len(), 100);
        assert!(pushed(&mut lines, &flood, 0).is_empty());
        let later = pushed(&mut lines, b"y\n", 1);
        assert_eq!(later, ["(1900 lines dropped)", "y"]);
    }

    #[test]
    fn what_could_not_be_said_is_counted() {
        let mut lines = Lines::new();
        lines.push(b"a\nb\n", Duration::ZERO, &mut |_| false);
        assert_eq!(pushed(&mut lines, b"c\n", 0), ["(2 lines dropped)", "c"]);
    }

    #[test]
    fn the_rest_of_a_program_that_ended_is_relayed_whole() {
        let (reading, writing) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).unwrap();
        nix::unistd::write(&writing, b"last words").unwrap();
        drop(writing);
        let mut relay = LogRelay::new("blk0", reading);
        relay.relay_rest();
        assert!(relay.lines.line.is_empty() && relay.lines.tokens < BURST);
    }
}
