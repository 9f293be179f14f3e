//! An eventfd that a back end holds too: a kick or a call (vhost-user, "SET_VRING_KICK", "SET_VRING_CALL").
//!
//! `O_NONBLOCK` belongs to the open file, so a taken-over back end can clear it, and it can fill or drain the
//! counter. No thread of ours therefore reads such an eventfd, none writes one without having asked whether there
//! is room, and **no vCPU writes one at all**: between question and write the peer may fill it, and then the
//! writer waits for as long as the peer likes.
#![expect(unsafe_code, reason = "vmm_sys_util's EventFd lends its descriptor by number only")]

use crate::Error;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// An eventfd of which the peer has a copy.
#[derive(Debug)]
pub struct SharedEventFd(EventFd);

impl SharedEventFd {
    /// A new one, its counter 0, close-on-exec.
    pub fn new() -> Result<Self, Error> {
        EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC).map(Self).map_err(Error::io("eventfd2"))
    }

    /// What KVM's ioctls take.
    #[must_use]
    pub fn as_eventfd(&self) -> &EventFd {
        &self.0
    }

    /// Adds one, unless the counter is full: then whoever waits for it has been told already.
    /// Not for vCPUs, see above.
    pub fn signal(&self) {
        if self.ready(PollFlags::POLLOUT) {
            // Full after all: see above. Nothing else can go wrong with an eventfd of ours.
            let _ = self.0.write(1);
        }
    }

    /// Adds one to an eventfd that **no peer was given**: it is non-blocking and will stay so. For any thread.
    pub fn signal_unshared(&self) {
        // Only a full counter refuses, and then whoever waits for it has been told already.
        let _ = self.0.write(1);
    }

    /// Whether the counter is above 0. Never waits.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.ready(PollFlags::POLLIN)
    }

    fn ready(&self, flags: PollFlags) -> bool {
        let mut fds = [PollFd::new(self.as_fd(), flags)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
            && fds.iter().any(|fd| fd.revents().is_some_and(|found| found.intersects(flags)))
    }
}

impl AsRawFd for SharedEventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for SharedEventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is owned by `self.0`, which outlives the borrow and never closes it before.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_counter_is_left_alone() {
        let event = SharedEventFd::new().unwrap();
        assert!(!event.is_pending());
        event.signal();
        assert!(event.is_pending());
        event.0.write(u64::MAX - 2).unwrap();
        event.signal();
        assert_eq!(event.0.read().unwrap(), u64::MAX - 1);
        assert!(!event.is_pending());
    }
}
