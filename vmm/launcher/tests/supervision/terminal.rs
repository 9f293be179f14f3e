//! The terminal is raw while the guest has it, and as it was after every end.

use std::os::fd::OwnedFd;
use std::process::Stdio;

use nix::pty::openpty;
use nix::sys::signal::Signal;
use nix::sys::termios::{LocalFlags, tcgetattr};

use crate::machine::{Ended, Machine};

/// A machine on a terminal of its own, and that terminal.
fn on_terminal(act: &str) -> (Machine, OwnedFd, OwnedFd) {
    let terminal = openpty(None, None).expect("a terminal");
    let side = || Stdio::from(terminal.slave.try_clone().expect("a copy"));
    let machine = Machine::on(side(), side(), act, &[]);
    (machine, terminal.slave, terminal.master)
}

fn flags(terminal: &OwnedFd) -> LocalFlags {
    tcgetattr(terminal).expect("a terminal").local_flags
}

/// Runs until the guest runs, does `then`, and compares.
fn ends_as_it_began(act: &str, then: impl FnOnce(&Machine)) -> Ended {
    let (mut machine, terminal, _master) = on_terminal(act);
    machine.wait_until_confined();
    then(&machine);
    let ended = machine.end();
    let after = flags(&terminal);
    assert!(after.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG), "{act}: {after:?}");
    ended
}

pub fn it_is_raw_while_the_guest_runs() {
    let (mut machine, terminal, _master) = on_terminal("ignore");
    machine.wait_until_confined();
    assert!(!flags(&terminal).intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG));
    machine.send(Signal::SIGQUIT);
    machine.end();
}

pub fn it_is_restored_after_every_end() {
    for act in ["power-off", "crash", "die", "ready-twice"] {
        ends_as_it_began(act, |_| ());
    }
    for signal in [Signal::SIGTERM, Signal::SIGQUIT] {
        let ended = ends_as_it_began("obey", |machine| machine.send(signal));
        assert!(ended.code.is_some(), "a signal ended vmm itself: {}", ended.log);
    }
}

pub fn it_is_restored_when_the_start_fails() {
    for act in ["fail", "exit-at-once"] {
        let (machine, terminal, _master) = on_terminal(act);
        assert_ne!(machine.end().code, Some(0));
        assert!(flags(&terminal).contains(LocalFlags::ICANON | LocalFlags::ECHO));
    }
}
