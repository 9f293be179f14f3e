//! A terminal for a machine to have, and to give back as it was.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::ttyname;

/// A pseudo-terminal, both ends held, in the mode in which it was made.
pub struct Terminal {
    _master: OwnedFd,
    slave: OwnedFd,
    path: PathBuf,
    before: Termios,
}

impl Terminal {
    /// A new one.
    pub fn new() -> Self {
        let pty = openpty(None, None).expect("a pseudo-terminal");
        let path = ttyname(&pty.slave).expect("its name");
        let before = tcgetattr(&pty.slave).expect("its mode");
        Self { _master: pty.master, slave: pty.slave, path, before }
    }

    /// Its device node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it passes on each byte as it comes.
    pub fn is_raw(&self) -> bool {
        let mode = tcgetattr(&self.slave).expect("its mode");
        !mode.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// Asserts that its mode is what it was before.
    pub fn check_restored(&self) {
        let now = tcgetattr(&self.slave).expect("its mode");
        assert_eq!(now, self.before, "the terminal was not put back");
    }
}
