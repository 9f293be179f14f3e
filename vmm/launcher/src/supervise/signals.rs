//! Signals to the launcher, as readable events.
//!
//! Blocked before the first program is spawned and for good: one that comes at any moment of the start is an event like
//! those that come later, and none can end the launcher between two steps.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::Error;

/// What somebody asks for by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To end, with the guest's help if it gives it: by this signal.
    End(u8),
    /// To end now: by this signal.
    EndNow(u8),
    /// To say the counters.
    Counters,
    /// To look at the size of the terminal.
    Resize,
}

/// The source of [`Asked`].
#[derive(Debug)]
pub struct Signals(SignalFd);

const TAKEN: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGWINCH];

impl Signals {
    /// Blocks the signals and takes them as events. The process is single-threaded.
    pub fn take() -> Result<Signals, Error> {
        let mut set = SigSet::empty();
        for signal in TAKEN {
            set.add(signal);
        }
        set.thread_block().map_err(Error::system("block signals"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        SignalFd::with_flags(&set, flags).map(Signals).map_err(Error::system("make a signalfd"))
    }

    /// The next one, if there is one.
    pub fn next(&self) -> Option<Asked> {
        let info = self.0.read_signal().ok().flatten()?;
        let signal = Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()?;
        let number = u8::try_from(info.ssi_signo).ok()?;
        match signal {
            Signal::SIGUSR1 => Some(Asked::Counters),
            Signal::SIGWINCH => Some(Asked::Resize),
            Signal::SIGQUIT => Some(Asked::EndNow(number)),
            _ => Some(Asked::End(number)),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
