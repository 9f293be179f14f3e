//! What the posture of `device-rng` must be.

use super::{DEVICE, Expectation};

/// `device-rng`.
pub const DEVICE_RNG: Expectation = Expectation {
    threads: &["device-rng", "device-rng"],
    others: &[
        ("/memfd:inflight (deleted)", 2),
        ("/dev/urandom", 1),
        ("anon_inode:[eventfd]", 1),
        ("socket", 1),
    ],
    ..DEVICE
};
