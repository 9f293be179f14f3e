//! What the posture of `vmm-spawner` must be.

use super::{Expectation, LAUNCHER};

/// `vmm-spawner`, the launcher's copy of itself that starts the successors.
pub const SPAWNER: Expectation = Expectation {
    threads: &["vmm-spawner"],
    filters: 1,
    placed: &[(0, "/dev/null"), (1, "/dev/null"), (2, "/dev/null")],
    others: &[
        ("/dev/null", 1),
        // The device's, to execute it.
        ("PROGRAM", 1),
        ("DISK", 1),
        // Its control channel.
        ("socket", 1),
    ],
    ..LAUNCHER
};

/// What root's spawner has of its capabilities where it has nothing to do with mounts and folders of others, permitted and
/// effective: CAP_SETGID and CAP_SETUID.
pub const SPAWNER_CAPABILITIES: u64 = 1 << 6 | 1 << 7;
