//! What the posture of `device-console` must be.

use super::{DEVICE, Expectation};

/// `device-console`, on a pseudoterminal.
pub const DEVICE_CONSOLE: Expectation = Expectation {
    threads: &["device-console", "device-console", "device-console"],
    others: &[
        ("/memfd:inflight (deleted)", 2),
        ("/dev/ptmx", 1),
        ("/memfd:keep (deleted)", 1),
        // To wake each queue's thread, that the driver opened its port, and that it is to be told something.
        ("anon_inode:[eventfd]", 4),
        ("socket", 2),
    ],
    ..DEVICE
};

/// `device-console` with a port beside the console, on two pseudoterminals.
pub const DEVICE_CONSOLE_OF_TWO_PORTS: Expectation = Expectation {
    // Its control thread, two for each port and two for the control channel.
    threads: &["device-console"; 7],
    others: &[
        ("/memfd:inflight (deleted)", 2),
        ("/dev/ptmx", 2),
        ("/memfd:keep (deleted)", 1),
        // To wake each queue's thread, that the driver opened each port, and that it is to be told something.
        ("anon_inode:[eventfd]", 9),
        ("socket", 2),
    ],
    ..DEVICE_CONSOLE
};
