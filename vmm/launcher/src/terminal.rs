//! The terminal's raw mode while a guest has it, and its way back.
//!
//! Restored by drop on every return, by the panic hook before an abort; signals that would end the launcher arrive
//! through its signalfd ([`crate::supervise`]) and so end in a return too. SIGKILL alone leaves the terminal raw.

use std::io::{IsTerminal, Stdin, stdin};
use std::sync::OnceLock;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::error::Error;

/// What the terminal was like, for the panic hook, which has no other way to it. nix's own type holds a cell and
/// cannot stand in a static.
static BEFORE: OnceLock<nix::libc::termios> = OnceLock::new();

/// The terminal in raw mode, for as long as this lives.
#[derive(Debug)]
pub struct RawMode {
    input: Stdin,
    before: Termios,
}

impl RawMode {
    /// Puts the terminal on standard input into raw mode; `None` when there is no terminal.
    pub fn enter() -> Result<Option<RawMode>, Error> {
        let input = stdin();
        if !input.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&input).map_err(Error::system("read the terminal's mode"))?;
        BEFORE.get_or_init(|| before.clone().into());
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        // Our own lines go to the same terminal and end with a line feed alone.
        raw.output_flags.insert(OutputFlags::OPOST);
        // As a job in the background this stops us, as it should, until we are in the foreground.
        tcsetattr(&input, SetArg::TCSADRAIN, &raw).map_err(Error::system("set the terminal to raw mode"))?;
        let raw = RawMode { input, before };
        restore_on_panic();
        // Restoring must work from the background as well.
        let mut set = SigSet::empty();
        set.add(Signal::SIGTTOU);
        set.thread_block().map_err(Error::system("block SIGTTOU"))?;
        Ok(Some(raw))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nobody is left to be told that this failed: the terminal is gone.
        let _ = tcsetattr(&self.input, SetArg::TCSADRAIN, &self.before);
    }
}

/// Has the next panic restore the terminal before it does what it did. To be said again by whoever sets another hook.
pub fn restore_on_panic() {
    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if let Some(before) = BEFORE.get() {
            let _ = tcsetattr(stdin(), SetArg::TCSANOW, &Termios::from(*before));
        }
        next(panic);
    }));
}
