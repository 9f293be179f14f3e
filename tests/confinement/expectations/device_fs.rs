//! What the posture of `device-fs` must be.

use super::{DEVICE, Expectation};

/// `device-fs`, with one request queue.
pub const DEVICE_FS: Expectation = Expectation {
    threads: &["device-fs", "device-fs", "device-fs"],
    others: &[
        ("/memfd:inflight (deleted)", 2),
        // Its root.
        ("/", 1),
        ("anon_inode:[eventfd]", 2),
        ("socket", 2),
    ],
    directory: true,
    limits: &[("Max open files", 4736), ("Max processes", 0)],
    ..DEVICE
};
