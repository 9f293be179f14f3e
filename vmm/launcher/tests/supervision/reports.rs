//! What happens to a device is told to people, to programs and by counters.

use std::fs::File;
use std::io::{BufRead, BufReader};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use crate::machine::Machine;

/// A machine that writes events to `events`, with one disk.
fn with_events(act: &str) -> Machine {
    Machine::with(act, &["--device=blk,path=disk.raw", "--events=events"])
}

/// Kills the disk's program once and waits for its successor.
fn kill_once(machine: &mut Machine) {
    machine.kill_program("device-blk");
    machine.wait_for("vmm: device blk0 died: killed by SIGKILL");
    machine.wait_for("vmm: device blk0 serves again (pid ");
}

fn lines(machine: &Machine) -> Vec<String> {
    let text = std::fs::read_to_string(machine.folder().join("events")).expect("the file of events");
    text.lines().map(str::to_owned).collect()
}

pub fn each_event_is_an_object_in_the_file_of_events() {
    let mut machine = with_events("obey");
    machine.wait_until_confined();
    assert!(lines(&machine).is_empty());
    kill_once(&mut machine);
    let lines = lines(&machine);
    let [death, serving] = lines.as_slice() else { return assert_eq!(lines, ["a death", "its end"]) };
    for part in [
        r#""event":"death","device":"blk0","cause":"signal","signal":9,"text":"killed by SIGKILL"#,
        r#""blamed":false,"then":"restart"}"#,
    ] {
        assert!(death.contains(part), "{death}");
    }
    assert!(serving.contains(r#""event":"serving","device":"blk0","pid":"#), "{serving}");
    machine.send(Signal::SIGTERM);
    assert_eq!(machine.end().code, Some(0));
}

pub fn a_hang_is_told_from_a_kill() {
    let mut machine = with_events("say-that-it-hangs");
    machine.wait_until_confined();
    // Not before: a device that is lost before the machine runs ends it.
    machine.signal_program("vmm-core", Signal::SIGUSR1);
    machine.wait_for("vmm: device blk0 died: killed by SIGKILL (it stands still)");
    machine.wait_for("vmm: device blk0 serves again (pid ");
    let lines = lines(&machine);
    assert!(lines.first().is_some_and(|line| line.contains(r#""cause":"hang""#)), "{lines:?}");
    assert!(lines.first().is_some_and(|line| line.contains(r#""blamed":true"#)), "{lines:?}");
    machine.send(Signal::SIGTERM);
    assert_eq!(machine.end().code, Some(0));
}

pub fn a_pipe_gets_events_while_somebody_reads_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o600)).expect("a pipe");
    let events = format!("--events={}", pipe.display());
    let mut machine = Machine::with("obey", &["--device=blk,path=disk.raw", &events]);
    machine.wait_until_confined();
    // Nobody reads yet, and nobody waits for that.
    kill_once(&mut machine);
    let mut reader = BufReader::new(File::open(&pipe).expect("a pipe"));
    for event in ["death", "serving"] {
        let mut line = String::new();
        reader.read_line(&mut line).expect("text");
        assert!(line.contains(&format!(r#""event":"{event}""#)), "{line}");
    }
    machine.send(Signal::SIGTERM);
    assert_eq!(machine.end().code, Some(0));
    let mut rest = String::new();
    assert_eq!(reader.read_line(&mut rest).expect("text"), 0, "the pipe ends with the machine");
}

pub fn deaths_and_pauses_are_among_the_counters() {
    let mut machine = with_events("obey");
    machine.wait_until_confined();
    kill_once(&mut machine);
    kill_once(&mut machine);
    machine.send(Signal::SIGUSR1);
    machine.wait_for(
        "vmm: counters {\"exits\":3,\"blk0.deaths.exit\":0,\"blk0.deaths.signal\":2,\"blk0.deaths.system-call\":0,\
         \"blk0.deaths.hang\":0,\"blk0.deaths.not-spawned\":0,\"blk0.deaths.disconnected\":0,\"blk0.restarts\":2,\"blk0.replacements\":0,\
         \"blk0.pauses\":2,\"blk0.pause_ms\":",
    );
    machine.send(Signal::SIGTERM);
    assert_eq!(machine.end().code, Some(0));
}
