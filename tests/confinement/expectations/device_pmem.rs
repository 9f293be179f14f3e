//! What the posture of `device-pmem` must be.

use super::{DEVICE, Expectation};

/// `device-pmem`.
pub const DEVICE_PMEM: Expectation = Expectation {
    threads: &["device-pmem", "device-pmem"],
    others: &[
        ("/memfd:inflight (deleted)", 2),
        ("/memfd:keep (deleted)", 1),
        ("MEMORY", 1),
        ("anon_inode:[eventfd]", 1),
        ("socket", 2),
    ],
    ..DEVICE
};
