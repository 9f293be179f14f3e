//! What each program's posture must be, written out: whoever widens a privilege changes this file too.

use std::collections::BTreeMap;

use sandbox_policies::{Program, Stage};

/// The expectation for one program.
pub struct Expectation {
    /// Which program.
    pub program: Program,
    /// The stage that its main thread serves in.
    pub stage: Stage,
    /// How many threads a probe of it has.
    pub threads: usize,
    /// "Max open files" as in /proc/PID/limits.
    pub open_files: u64,
}

/// By name as in /proc/PID/limits, the same for all: soft and hard limit alike.
pub const LIMITS: [(&str, u64); 4] =
    [("Max core file size", 0), ("Max processes", 0), ("Max pending signals", 256), ("Max msgqueue size", 0)];

/// Filters on each thread: `setup`, the one that hides clone3, and the serving one.
pub const FILTERS: u32 = 3;

/// Signals of each thread: none blocked; the standard library ignores SIGPIPE (13); SIGSYS (31) has the one handler, by
/// which a refused call is told, where threads were made besides that of the C library for setuid(2) and its kin (33).
pub fn signals(threads: usize) -> [u64; 3] {
    let of_c_library = u64::from(threads > 1) << 32;
    [0, 1 << 12, 1 << 30 | of_c_library]
}

/// The namespaces that are not the host's.
pub const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// The only mount.
pub const MOUNT: &str = "/ tmpfs ro,nosuid,nodev,noexec";

/// What the only mount of a program is that has a directory as its root, whatever that is on: these at least.
pub const DIRECTORY_MOUNT: [&str; 3] = ["nosuid", "nodev", "noexec"];

/// One for each spawned program.
pub const EXPECTATIONS: [Expectation; 11] = [
    Expectation { program: Program::Core, stage: Stage::Control, threads: 2, open_files: 8192 },
    Expectation { program: Program::DeviceBlk, stage: Stage::Serve, threads: 1, open_files: 640 },
    Expectation { program: Program::DeviceBlkQcow2, stage: Stage::Serve, threads: 1, open_files: 640 },
    Expectation { program: Program::DeviceRng, stage: Stage::Serve, threads: 1, open_files: 384 },
    Expectation { program: Program::DeviceNet, stage: Stage::Serve, threads: 1, open_files: 384 },
    Expectation { program: Program::DeviceConsole, stage: Stage::Serve, threads: 1, open_files: 384 },
    Expectation { program: Program::DevicePmem, stage: Stage::Serve, threads: 1, open_files: 384 },
    Expectation { program: Program::DeviceBalloon, stage: Stage::Serve, threads: 1, open_files: 384 },
    Expectation { program: Program::DeviceFs, stage: Stage::Serve, threads: 1, open_files: 4736 },
    Expectation { program: Program::DeviceVsock, stage: Stage::Serve, threads: 1, open_files: 896 },
    Expectation { program: Program::DeviceMem, stage: Stage::Serve, threads: 1, open_files: 384 },
];

/// The descriptors at the hand-over, and the memory that the driver hands to each probe.
pub fn descriptors() -> BTreeMap<i32, String> {
    [(0, "/dev/null"), (1, "/dev/null"), (2, "pipe"), (3, "socket"), (4, "/memfd:guest (deleted)")]
        .map(|(number, kind)| (number, kind.to_owned()))
        .into()
}
