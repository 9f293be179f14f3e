//! Back ends that somebody else runs: this test, as far as to take a connection.

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::machine::Machine;

/// Where a back end listens.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("back-end")
    }

    fn listen(&self) -> UnixListener {
        UnixListener::bind(self.path()).expect("a socket")
    }

    /// Nobody listens any more, and the name is gone.
    fn leave(&self, listener: UnixListener) {
        drop(listener);
        std::fs::remove_file(self.path()).expect("the socket");
    }
}

fn accept(listener: &UnixListener) -> UnixStream {
    listener.accept().expect("a connection").0
}

fn machine(act: &str, path: &Path, options: &str) -> Machine {
    Machine::with(act, &[&format!("--device=blk,socket={}{options}", path.display()), "--events=events"])
}

pub fn a_back_end_that_goes_is_connected_to_when_it_comes_back() {
    let place = Place::new();
    let mut listener = place.listen();
    let mut machine = machine("obey", &place.path(), "");
    let mut connection = accept(&listener);
    machine.wait_until_confined();
    for _ in 0..3 {
        place.leave(listener);
        drop(connection);
        machine.wait_for("vmm: device blk0 lost its back end: it hung up; it waits for somebody to listen");
        listener = place.listen();
        connection = accept(&listener);
        machine.wait_for("vmm: device blk0 serves again after ");
    }
    // With its listener there all the time, too.
    drop(connection);
    connection = accept(&listener);
    machine.wait_for("vmm: device blk0 serves again after ");
    let events = std::fs::read_to_string(machine.folder().join("events")).expect("events");
    assert_eq!(events.matches(r#""cause":"disconnected""#).count(), 4, "{events}");
    machine.send(Signal::SIGTERM);
    assert_eq!(machine.end().code, Some(0));
    assert_eq!(connection.read(&mut [0]).expect("an end"), 0, "nothing was said in the core's stead");
}

pub fn a_back_end_that_the_core_refuses_is_tried_again() {
    let place = Place::new();
    let listener = place.listen();
    let mut machine = machine("refuse-twice", &place.path(), "");
    let connection = accept(&listener);
    machine.wait_until_confined();
    drop(connection);
    for _ in 0..2 {
        machine.wait_for("vmm: device blk0 lost its back end: it is another device; it waits");
    }
    machine.wait_for("vmm: device blk0 serves again after ");
    machine.send(Signal::SIGTERM);
    assert_eq!(machine.end().code, Some(0));
}

pub fn patience_with_a_back_end_ends_as_the_user_said() {
    for (options, says) in [
        (",patience=0", "vmm: device blk0 is lost: "),
        (",patience=0,give-up=fail", "vmm: device blk0 has failed: "),
        (",on-failure=fail", "vmm: device blk0 has failed: "),
        (",on-failure=stop", "vmm: device blk0 is lost: "),
    ] {
        let place = Place::new();
        let listener = place.listen();
        let mut machine = machine("obey", &place.path(), options);
        let connection = accept(&listener);
        machine.wait_until_confined();
        place.leave(listener);
        drop(connection);
        machine.wait_for(says);
        let stops = says.contains("is lost");
        if !stops {
            machine.wait_for("vmm-core: slot 1 is given up\n");
            machine.send(Signal::SIGTERM);
        }
        let ended = machine.end();
        assert_eq!(ended.code, Some(if stops { 7 } else { 0 }), "{options}: {}", ended.log);
    }
}
