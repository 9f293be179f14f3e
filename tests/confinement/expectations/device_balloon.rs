//! What the posture of `device-balloon` must be.

use super::{DEVICE, Expectation};

/// `device-balloon`.
pub const DEVICE_BALLOON: Expectation = Expectation {
    // Its control thread and one for each of its queues.
    threads: &["device-balloon"; 6],
    others: &[
        ("/memfd:inflight (deleted)", 2),
        ("/memfd:keep (deleted)", 1),
        // To wake each queue's thread.
        ("anon_inode:[eventfd]", 7),
        // The vhost-user socket, and the channel on which it says that its configuration changed.
        ("socket", 2),
    ],
    ..DEVICE
};
