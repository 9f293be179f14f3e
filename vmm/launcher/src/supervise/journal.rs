//! The file that gets an object for each event of a device (`--events`).
//!
//! It was opened non-blocking by the launcher, in an open file description of its own: a reader that stopped reading, or
//! a disk that is full, costs events and never time. What could not be written is counted; the count goes into the file as
//! soon as that takes something again, and is said on standard error when it begins and at the end.

use std::os::fd::OwnedFd;

use nix::unistd::write;

use super::device_event::DeviceEvent;
use crate::json::Object;
use crate::report;

/// See above. Without a file it takes everything and keeps nothing.
#[derive(Debug)]
pub struct Journal {
    file: Option<OwnedFd>,
    /// Since something was written last.
    unwritten: u64,
    /// Altogether.
    lost: u64,
    /// Whether the file ends in a part of a line.
    torn: bool,
}

impl Journal {
    /// Writes to this file.
    pub fn new(file: Option<OwnedFd>) -> Journal {
        Journal { file, unwritten: 0, lost: 0, torn: false }
    }

    /// Writes one event of a device.
    pub fn record(&mut self, device: &str, event: &DeviceEvent) {
        if self.file.is_none() {
            return;
        }
        if self.unwritten > 0 {
            let note = Object::new().text("event", "unwritten").number("count", self.unwritten).end();
            if self.put(note).is_ok() {
                self.unwritten = 0;
            }
        }
        let written = if self.unwritten == 0 { self.put(event.json(device)) } else { Err(String::new()) };
        if let Err(why) = written {
            if self.unwritten == 0 {
                report::say(&format!(
                    "cannot write to the file of events: {why}; events are lost until it can"
                ));
            }
            self.unwritten = self.unwritten.saturating_add(1);
            self.lost = self.lost.saturating_add(1);
        }
    }

    /// Says what was lost over all.
    pub fn close(self) {
        if self.lost > 0 {
            report::say(&format!("{} events could not be written to their file", self.lost));
        }
    }

    fn put(&mut self, object: String) -> Result<(), String> {
        let Some(file) = &self.file else { return Ok(()) };
        let line = if self.torn { format!("\n{object}\n") } else { format!("{object}\n") };
        match write(file, line.as_bytes()) {
            Ok(count) if count == line.len() => {
                self.torn = false;
                Ok(())
            }
            Ok(count) => {
                self.torn = self.torn || count > 0;
                Err(format!("it took {count} of {} bytes", line.len()))
            }
            Err(errno) => Err(errno.desc().to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::OFlag;
    use nix::unistd::{pipe2, read};
    use std::time::Duration;

    #[test]
    fn a_pipe_that_nobody_reads_costs_events_and_they_are_counted() {
        let (reader, writer) = pipe2(OFlag::O_NONBLOCK).unwrap();
        let mut journal = Journal::new(Some(writer));
        let event = DeviceEvent::Serving { pid: None, pause: Duration::ZERO };
        let mut recorded = 0_u64;
        while journal.lost < 3 {
            journal.record("blk0", &event);
            recorded += 1;
        }
        let mut whole = Vec::new();
        let mut chunk = [0; 4096];
        let mut drain = |whole: &mut Vec<u8>| {
            while let Ok(count) = read(&reader, &mut chunk) {
                whole.extend_from_slice(&chunk[..count]);
            }
        };
        drain(&mut whole);
        journal.record("blk0", &event);
        drain(&mut whole);
        let text = String::from_utf8(whole).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let [.., note, last] = lines.as_slice() else { panic!("{text}") };
        assert_eq!(*note, r#"{"event":"unwritten","count":3}"#);
        assert!(last.contains(r#""event":"serving""#));
        // All that was recorded, less three, and the note and the last.
        assert_eq!(lines.len() as u64, recorded - 3 + 2);
        assert!(lines.iter().all(|line| line.starts_with('{') && line.ends_with('}')));
    }

    #[test]
    fn without_a_file_nothing_is_lost() {
        let mut journal = Journal::new(None);
        journal.record("blk0", &DeviceEvent::Serving { pid: None, pause: Duration::ZERO });
        assert_eq!((journal.lost, journal.unwritten), (0, 0));
    }
}
