//! What the posture of `vmm-core` must be.

use super::{Expectation, SIGNALS};

/// `vmm-core`.
pub const CORE: Expectation = Expectation {
    threads: &["blk0", "console", "vcpu0", "vcpu1", "vmm-core"],
    // `setup`, the one that hides clone3, and the thread's own.
    filters: 3,
    signals: SIGNALS,
    apart: true,
    placed: &[(0, "/dev/null"), (1, "/dev/null"), (2, "pipe"), (3, "socket")],
    others: &[
        ("/memfd:guest-memory (deleted)", 1),
        // The file, and the mapping's own.
        ("/memfd:inflight (deleted)", 2),
        ("anon_inode:[eventfd]", 8),
        ("anon_inode:[eventpoll]", 2),
        ("anon_inode:kvm-vcpu:0", 1),
        ("anon_inode:kvm-vcpu:1", 1),
        ("anon_inode:kvm-vm", 1),
        // The console's input and output.
        ("pipe", 2),
        // The device's vhost-user socket, and both ends of the channel on which it may say that its configuration changed.
        ("socket", 3),
    ],
    directory: false,
    root_entries: 0,
    limits: &[
        ("Max core file size", 0),
        ("Max msgqueue size", 0),
        ("Max open files", 8192),
        ("Max pending signals", 256),
        ("Max processes", 0),
    ],
};
