//! What `vmm` says: one line per thing, on standard error, never with a control character in it.
//!
//! Until the machine runs a line is waited for. From then on none is: a reader that has stopped reading must not keep the
//! supervisor from its devices and its signals; how the machine ended is waited for, for a moment. What could not be said
//! is counted, and the count is said with the next line that can be.

use std::io::{Write, stderr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::Counters;
use sandbox_policies::posture::{self, Posture};
use sandbox_policies::{Report, refusals_are_logged};

use crate::json::Object;
use crate::spawn::Process;

/// Bytes that a pipe takes without waiting when it takes any (PIPE_BUF, pipe(7)).
const AT_ONCE: usize = 4096;

/// Milliseconds that a reader is waited for; below 0: without end.
static PATIENCE: AtomicI32 = AtomicI32::new(-1);
/// Lines that nobody has taken since one was said.
static UNSAID: AtomicU64 = AtomicU64::new(0);

/// From now on a line that nobody takes is waited for so many milliseconds.
pub fn wait_at_most(milliseconds: u16) {
    PATIENCE.store(milliseconds.into(), Ordering::Relaxed);
}

/// Says one line in our own name.
pub fn say(text: &str) {
    line("vmm", text);
}

/// Says one line in the name of `who`.
pub fn line(who: &str, text: &str) {
    let unsaid = UNSAID.swap(0, Ordering::Relaxed);
    let mut text = format!("{who}: {}\n", printable(text));
    if unsaid > 0 {
        text.insert_str(0, &format!("vmm: ({unsaid} lines dropped that nobody read)\n"));
    }
    let patience = PollTimeout::try_from(PATIENCE.load(Ordering::Relaxed)).unwrap_or(PollTimeout::NONE);
    if !put(&mut stderr(), text.as_bytes(), patience) {
        UNSAID.fetch_add(unsaid.saturating_add(1), Ordering::Relaxed);
    }
}

/// Whether a line can be said now without waiting for whoever reads it.
pub fn can_say() -> bool {
    takes(&stderr(), PollTimeout::ZERO)
}

fn takes(to: &impl AsFd, patience: PollTimeout) -> bool {
    let mut ends = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
    // All but that the time is over: an end that cannot be waited for says so when it is written to.
    !matches!(poll(&mut ends, patience), Ok(0))
}

/// Writes it. False: some of it was not taken in that time.
fn put(to: &mut (impl Write + AsFd), text: &[u8], patience: PollTimeout) -> bool {
    // A pipe that can be written to has room for so much and no more.
    for part in text.chunks(AT_ONCE) {
        if !takes(to, patience) {
            return false;
        }
        // Whoever closed standard error does not want to know.
        let _ = to.write_all(part);
    }
    true
}

/// The text with every control character, line ends included, replaced.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// What holds for each process, as the kernel shows it; taken while we may still look.
pub fn confinement(processes: &[Process]) -> String {
    let rows: Vec<String> = processes.iter().map(row).collect();
    let logged = if refusals_are_logged() { ", but seccomp refuses nothing (--sandbox-log)" } else { "" };
    format!("confined{logged}: {}", rows.join(", "))
}

/// Each layer that is missing, one line each.
pub fn lacking(processes: &[Process], ours: &Report) -> Vec<String> {
    let mut lines: Vec<String> = ours.lacking.iter().map(|layer| format!("lacking: vmm: {layer}")).collect();
    lines.extend(processes.iter().flat_map(lacking_of));
    lines
}

/// The same for one process.
pub fn lacking_of(process: &Process) -> Vec<String> {
    let said = process.ready.iter().flat_map(|ready| &ready.lacking);
    let lacking = process.child.lacking().iter().chain(said);
    lacking.map(|layer| format!("lacking: {}: {layer}", process.name)).collect()
}

fn row(process: &Process) -> String {
    let program = process.program.name();
    let who =
        if process.name == program { program.to_owned() } else { format!("{program} {}", process.name) };
    let pid = process.child.pid();
    match posture::read(pid) {
        Ok(posture) => {
            let abi = process.ready.as_ref().map_or(0, |ready| ready.landlock_abi);
            format!("{who} (pid {pid}, {})", layers(&posture, abi))
        }
        Err(error) => format!("{who} (pid {pid}, {error})"),
    }
}

fn layers(posture: &Posture, landlock_abi: u8) -> String {
    // A process is confined as its weakest thread is.
    let filters =
        posture.threads.iter().map(|thread| if thread.seccomp == 2 { thread.filters } else { 0 }).min();
    let capabilities = posture.threads.iter().flat_map(|thread| thread.capabilities).any(|set| set != 0);
    let namespaces = posture.namespaces.as_ref().map_or("namespaces not readable".to_owned(), |kinds| {
        format!("{} namespaces", kinds.values().filter(|own| **own).count())
    });
    let landlock =
        if landlock_abi == 0 { "no landlock".to_owned() } else { format!("landlock ABI {landlock_abi}") };
    let capabilities = if capabilities { "CAPABILITIES" } else { "no capabilities" };
    format!("seccomp {} filters, {landlock}, {namespaces}, {capabilities}", filters.unwrap_or(0))
}

/// The core's counters, and then `own`, as one JSON object. The core chose the names of its: nothing of them gets out of
/// its quotes.
pub fn counters(counters: &Counters, own: impl IntoIterator<Item = (String, u64)>) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "_.-:/".contains(c) { c } else { '_' };
    let mut object = Object::new();
    for counter in &counters.entries {
        let name: String = counter.name.chars().map(safe).collect();
        object = object.number(&name, counter.value);
    }
    for (name, value) in own {
        object = object.number(&name, value);
    }
    format!("counters {}", object.end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Counter;

    #[test]
    fn no_control_character_reaches_a_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{9b}d"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d");
    }

    #[test]
    fn a_reader_that_has_stopped_reading_is_not_waited_for() {
        let (reading, writing) = std::io::pipe().unwrap();
        let mut writing = writing;
        let line = [b'x'; 3 * AT_ONCE];
        let mut taken = 0;
        while put(&mut writing, &line, PollTimeout::ZERO) {
            taken += 1;
            assert!(taken < 1000, "a pipe has an end");
        }
        assert!(taken > 0);
        assert!(!put(&mut writing, b"x", PollTimeout::ZERO));
        drop(reading);
        assert!(put(&mut writing, &line, PollTimeout::ZERO), "who has closed it does not want to know");
    }

    #[test]
    fn a_counter_cannot_leave_its_quotes() {
        let entry = |name: &str, value| Counter { name: name.to_owned(), value };
        let entries = vec![entry("exits.io", 7), entry("\"},{\"a\\", u64::MAX)];
        let text = counters(&Counters { entries }, [("blk0.restarts".to_owned(), 2)]);
        let expected = format!("counters {{\"exits.io\":7,\"_____a_\":{},\"blk0.restarts\":2}}", u64::MAX);
        assert_eq!(text, expected);
    }
}
