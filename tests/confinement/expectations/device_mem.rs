//! What the posture of `device-mem` must be.

use super::{DEVICE, Expectation};

/// `device-mem`.
pub const DEVICE_MEM: Expectation = Expectation {
    threads: &["device-mem"; 2],
    others: &[
        ("/memfd:inflight (deleted)", 2),
        // The mappings' own, of the keep and of the page on which it shows what is plugged.
        ("/memfd:keep (deleted)", 2),
        ("anon_inode:[eventfd]", 1),
        ("socket", 2),
    ],
    ..DEVICE
};
