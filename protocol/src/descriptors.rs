//! Received file descriptors become owned here, and nowhere else in the crate.
#![expect(unsafe_code, reason = "adopts the file descriptors that the kernel put into our table")]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes ownership of the descriptors of one `SCM_RIGHTS` control message, or of the one that `accept4` returned.
///
/// Called once per control message, on the very list that `recvmsg` returned, and once per connection: each number is
/// new in this process' table and nobody else knows it. Dropping the result closes them, which is how strays go.
pub(crate) fn adopt(received: &[RawFd]) -> Vec<OwnedFd> {
    // SAFETY: see above: the kernel has just installed these descriptors for this call alone.
    received.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }).collect()
}
