//! What the posture of `device-net` must be.

use super::{DEVICE, Expectation};

/// `device-net`.
pub const DEVICE_NET: Expectation = Expectation {
    threads: &["device-net", "device-net", "device-net", "device-net"],
    others: &[
        // The tap.
        ("/dev/net/tun", 1),
        ("/memfd:inflight (deleted)", 2),
        ("/memfd:keep (deleted)", 1),
        // To wake the thread of each of its three queues.
        ("anon_inode:[eventfd]", 3),
        ("socket", 2),
    ],
    ..DEVICE
};

/// `device-net` on a stream.
pub const DEVICE_NET_ON_A_STREAM: Expectation = Expectation {
    others: &[
        ("/memfd:inflight (deleted)", 2),
        ("/memfd:keep (deleted)", 1),
        // To wake the thread of each of its three queues, and that the link is down.
        ("anon_inode:[eventfd]", 4),
        // What has arrived on the stream.
        ("anon_inode:[eventpoll]", 1),
        // The vhost-user socket, the channel on which it says that its configuration changed, and the stream.
        ("socket", 3),
    ],
    ..DEVICE_NET
};
