//! What the posture of `vmm` must be.

use super::Expectation;

/// `vmm`.
pub const LAUNCHER: Expectation = Expectation {
    threads: &["vmm"],
    filters: 1,
    // SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGTERM and SIGWINCH come by its signalfd.
    signals: [1 | 1 << 1 | 1 << 2 | 1 << 9 | 1 << 14 | 1 << 27, 1 << 12, 0],
    apart: false,
    // Standard input, output and error as the test gives them.
    placed: &[(0, "pipe"), (1, "pipe"), (2, "pipe")],
    others: &[
        // For the state of its one device that outlives a process; handed on, and mapped by nobody here.
        ("/memfd:keep (deleted)", 1),
        ("anon_inode:[eventpoll]", 1),
        // Of each of its two programs: the process, its log, its control channel; of the spawner the first and the last.
        ("anon_inode:[pidfd]", 3),
        ("anon_inode:[signalfd]", 1),
        ("pipe", 2),
        ("socket", 3),
    ],
    directory: false,
    root_entries: 0,
    limits: &[("Max core file size", 0), ("Max msgqueue size", 0), ("Max open files", 4736)],
};
