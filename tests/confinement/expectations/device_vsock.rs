//! What the posture of `device-vsock` must be.

use super::{DEVICE, Expectation};

/// `device-vsock`, to which nobody is connected.
pub const DEVICE_VSOCK: Expectation = Expectation {
    threads: &["device-vsock", "device-vsock", "device-vsock", "device-vsock"],
    others: &[
        ("/memfd:inflight (deleted)", 2),
        ("/memfd:keep (deleted)", 1),
        // Of each queue, that which wakes who sends to the guest, and one that nobody writes to.
        ("anon_inode:[eventfd]", 5),
        ("anon_inode:[eventpoll]", 1),
        // Where it listens, and as for a disk.
        ("socket", 3),
    ],
    directory: true,
    // The name of the socket where it listens.
    root_entries: 1,
    limits: &[("Max open files", 896), ("Max processes", 0)],
    ..DEVICE
};
