//! What `vmm` says: one line per thing, on standard error, never with a control character in it.

use std::io::{Write, stderr};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::Counters;
use sandbox_policies::posture::{self, Posture};
use sandbox_policies::{Report, refusals_are_logged};

use crate::json::Object;
use crate::spawn::Process;

/// Says one line in our own name.
pub fn say(text: &str) {
    line("vmm", text);
}

/// Says one line in the name of `who`.
pub fn line(who: &str, text: &str) {
    // Whoever closed standard error does not want to know.
    let _ = stderr().write_all(format!("{who}: {}\n", printable(text)).as_bytes());
}

/// Whether a line can be said now without waiting for whoever reads it. The supervisor drops the words of others
/// rather than let a reader that stopped reading stop it.
pub fn can_say() -> bool {
    let stderr = stderr();
    let mut ends = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    matches!(poll(&mut ends, PollTimeout::ZERO), Ok(1..))
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
    for process in processes {
        let said = process.ready.iter().flat_map(|ready| &ready.lacking);
        lines.extend(
            process
                .child
                .lacking()
                .iter()
                .chain(said)
                .map(|layer| format!("lacking: {}: {layer}", process.name)),
        );
    }
    lines
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
    fn a_counter_cannot_leave_its_quotes() {
        let entry = |name: &str, value| Counter { name: name.to_owned(), value };
        let entries = vec![entry("exits.io", 7), entry("\"},{\"a\\", u64::MAX)];
        let text = counters(&Counters { entries }, [("blk0.restarts".to_owned(), 2)]);
        let expected = format!("counters {{\"exits.io\":7,\"_____a_\":{},\"blk0.restarts\":2}}", u64::MAX);
        assert_eq!(text, expected);
    }
}
