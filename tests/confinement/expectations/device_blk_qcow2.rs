//! What the posture of `device-blk-qcow2` must be.

use super::{DEVICE_BLK, Expectation};

/// `device-blk-qcow2`, which its guest does not drive; beside these it has the image.
pub const DEVICE_BLK_QCOW2: Expectation = Expectation {
    // The kernel keeps 15 bytes of a name.
    threads: &["device-blk-qcow", "device-blk-qcow"],
    others: &[
        ("/memfd:inflight (deleted)", 2),
        ("/memfd:keep (deleted)", 1),
        // To wake its queue's thread.
        ("anon_inode:[eventfd]", 1),
        ("socket", 2),
    ],
    ..DEVICE_BLK
};
