//! What the posture of `device-blk` must be.

use super::{DEVICE, Expectation};

/// `device-blk`.
pub const DEVICE_BLK: Expectation = Expectation {
    // Its control thread and one for its queue.
    threads: &["device-blk", "device-blk"],
    others: &[
        ("/memfd:guest-memory (deleted)", 1),
        // Made before it was asked for, with its mapping's own; and as the front end set it.
        ("/memfd:inflight (deleted)", 3),
        // The mapping's own.
        ("/memfd:keep (deleted)", 1),
        ("DISK", 1),
        // Of its queue: to wake the thread, kick and call.
        ("anon_inode:[eventfd]", 3),
        // The vhost-user socket, and the channel on which it says that its configuration changed.
        ("socket", 2),
    ],
    limits: &[
        ("Max core file size", 0),
        ("Max msgqueue size", 0),
        ("Max open files", 640),
        ("Max pending signals", 256),
        ("Max processes", 0),
    ],
    ..DEVICE
};
