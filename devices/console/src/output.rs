//! What the guest writes, on its way to the host.
//!
//! A driver waits for its console, with a processor that does nothing else (Linux spins in `put_chars`): what a host's
//! reader does not take must not stop a guest for ever, and what a guest writes must not grow without bound on the host.
//! So nothing is kept in this process. A request is done when the host has it all, and a reader that takes what it
//! gets, however slowly, loses nothing: the guest waits for it. One that takes nothing costs the guest [`PATIENCE`] once;
//! from then on what it does not take at once is dropped, until it takes a whole request again. How much was
//! dropped, and why, is said in the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use device_backend::{Reader, log_line};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::os::fd::AsFd;

use crate::host::Host;

/// How long the requests of one batch wait for the host, together. Less than what a front end waits for a ring to stop.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Why output is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    NobodyReads,
    NobodyIsConnected,
    FileIsFull(u64),
    Failed(Errno),
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NobodyReads => write!(f, "nobody reads it"),
            Self::NobodyIsConnected => write!(f, "nobody is connected"),
            Self::FileIsFull(limit) => write!(f, "its file has reached its limit of {limit} bytes"),
            Self::Failed(errno) => write!(f, "{}", errno.desc()),
        }
    }
}

/// The way of the guest's output.
#[derive(Debug)]
pub struct Output {
    host: Arc<Host>,
    /// How much more a file may get.
    room: Option<(u64, u64)>,
    /// What is left of [`PATIENCE`].
    patience: Duration,
    /// Why the last request was dropped, and the bytes dropped since one was not.
    lost: Option<(Lost, u64)>,
}

impl Output {
    /// To `host`, whose file may grow to `file_limit` bytes.
    #[must_use]
    pub fn new(host: Arc<Host>, file_limit: Option<u64>) -> Self {
        let room = file_limit.zip(host.file_size()).map(|(limit, size)| (limit, limit.saturating_sub(size)));
        Self { host, room, patience: PATIENCE, lost: None }
    }

    /// A batch of requests begins, which may wait anew.
    pub fn begin_batch(&mut self) {
        self.patience = PATIENCE;
    }

    /// Passes on one request's bytes, or drops what cannot be.
    pub fn write(&mut self, mut bytes: Reader<'_, '_>) {
        let beyond = self.beyond(&mut bytes);
        let before = bytes.remaining();
        let mut reason = self.pass_on(&mut bytes).err();
        if let Some((limit, room)) = &mut self.room {
            let written = before.saturating_sub(bytes.remaining());
            *room = room.saturating_sub(u64::try_from(written).unwrap_or(u64::MAX));
            reason = reason.or_else(|| (beyond > 0).then_some(Lost::FileIsFull(*limit)));
        }
        let dropped = u64::try_from(bytes.remaining()).unwrap_or(u64::MAX).saturating_add(beyond);
        self.account(reason, dropped);
    }

    /// Cuts off what no longer fits a file, and returns how much that is.
    fn beyond(&self, bytes: &mut Reader<'_, '_>) -> u64 {
        let Some((_, room)) = self.room else { return 0 };
        let rest = bytes.split_off(usize::try_from(room).unwrap_or(usize::MAX));
        u64::try_from(rest.remaining()).unwrap_or(u64::MAX)
    }

    fn pass_on(&mut self, bytes: &mut Reader<'_, '_>) -> Result<(), Lost> {
        while bytes.remaining() > 0 {
            let host = self.host.reader().ok_or(Lost::NobodyIsConnected)?;
            match bytes.write_stream(&host) {
                Ok(0) => return Err(Lost::Failed(Errno::EIO)),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.wait(&host)?,
                Err(errno) if self.host.hung_up(&host) => {
                    let gone = errno == Errno::EPIPE || errno == Errno::ECONNRESET;
                    return Err(if gone { Lost::NobodyIsConnected } else { Lost::Failed(errno) });
                }
                Err(errno) => return Err(Lost::Failed(errno)),
            }
        }
        Ok(())
    }

    /// Waits until the host takes something, unless it has been waited for enough.
    fn wait(&mut self, host: &impl AsFd) -> Result<(), Lost> {
        if self.patience.is_zero() || matches!(self.lost, Some((Lost::NobodyReads, _))) {
            return Err(Lost::NobodyReads);
        }
        let began = Instant::now();
        let mut fds = [PollFd::new(host.as_fd(), PollFlags::POLLOUT)];
        let waited = ppoll(&mut fds, Some(TimeSpec::from_duration(self.patience)), None);
        self.patience = self.patience.saturating_sub(began.elapsed());
        match waited {
            Ok(0) => Err(Lost::NobodyReads),
            // What has happened the next attempt says.
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Lost::Failed(errno)),
        }
    }

    /// One line when it begins, one for another reason, one when it is over.
    fn account(&mut self, reason: Option<Lost>, dropped: u64) {
        let before = self.lost.map_or(0, |(_, before)| before);
        let Some(reason) = reason else {
            if self.lost.take().is_some() {
                log_line(format_args!("output is passed on again; {before} bytes were dropped"));
            }
            return;
        };
        if self.lost.is_none_or(|(known, _)| known != reason) {
            log_line(format_args!("output of the guest is dropped: {reason}"));
        }
        self.lost = Some((reason, before.saturating_add(dropped)));
    }
}

#[cfg(test)]
mod tests;
