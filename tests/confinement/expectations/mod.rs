//! What the posture of each program must be while it serves, written out, in a file of its own for each: whoever widens a
//! privilege changes that file, too.
//!
//! The machine has two vCPUs, one disk of one queue, which its guest drives, and a console.

mod device_balloon;
mod device_blk;
mod device_blk_qcow2;
mod device_console;
mod device_fs;
mod device_mem;
mod device_net;
mod device_pmem;
mod device_rng;
mod device_vsock;
mod vmm;
mod vmm_core;
mod vmm_spawner;

pub use device_balloon::DEVICE_BALLOON;
pub use device_blk::DEVICE_BLK;
pub use device_blk_qcow2::DEVICE_BLK_QCOW2;
pub use device_console::{DEVICE_CONSOLE, DEVICE_CONSOLE_OF_TWO_PORTS};
pub use device_fs::DEVICE_FS;
pub use device_mem::DEVICE_MEM;
pub use device_net::{DEVICE_NET, DEVICE_NET_ON_A_STREAM};
pub use device_pmem::DEVICE_PMEM;
pub use device_rng::DEVICE_RNG;
pub use device_vsock::DEVICE_VSOCK;
pub use vmm::LAUNCHER;
pub use vmm_core::CORE;
pub use vmm_spawner::{SPAWNER, SPAWNER_CAPABILITIES};

/// The expectation for one program.
pub struct Expectation {
    /// Its threads by name, in alphabetical order.
    pub threads: &'static [&'static str],
    /// Seccomp filters on each thread.
    pub filters: u32,
    /// Signals that each thread has blocked, and those that the process ignores and handles: number N is bit N - 1.
    pub signals: [u64; 3],
    /// Whether it is in namespaces of its own ([`NAMESPACES`]), in an empty root, with an empty environment
    /// and ids of its own: as a spawned program, and unlike the launcher.
    pub apart: bool,
    /// Descriptors whose numbers are fixed.
    pub placed: &'static [(i32, &'static str)],
    /// All others by kind, with their count. `DISK` stands for the path of the disk, `MEMORY` for that of
    /// the file that is persistent memory, `PROGRAM` for that of device-blk.
    pub others: &'static [(&'static str, usize)],
    /// Whether its root is a directory of the host instead of an empty one.
    pub directory: bool,
    /// What there is in it.
    pub root_entries: usize,
    /// By name as in /proc/PID/limits; soft and hard alike, where the host's own are no lower.
    pub limits: &'static [(&'static str, u64)],
}

/// The namespaces of a spawned program that are not the host's.
pub const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// Its only mount.
pub const MOUNT: &str = "/ tmpfs ro,nosuid,nodev,noexec";

/// The least that the only mount of one says that has a directory as its root.
pub const DIRECTORY_MOUNT: [&str; 4] = ["/", "nosuid", "nodev", "noexec"];

/// What its files are not to have.
pub const UMASK: u32 = 0o077;

/// The first of the ids that a launcher of root's gives to its programs, and how many each launcher has.
pub const IDS: (u32, u32) = (0x7000_0000, 64);

/// The signals of a spawned program: none blocked, SIGPIPE (13) ignored, and handled besides SIGSYS (31), by which a
/// refused system call is told, that by which the C library changes ids in all threads (33).
pub const SIGNALS: [u64; 3] = [0, 1 << 12, 1 << 30 | 1 << 32];

/// A thread that KVM makes in its user's process, as the kernel's own: it never runs in user space.
pub const KERNEL_THREAD: &str = "kvm-nx-lpage-re";

/// What all devices have in common: the rest is each one's own.
const DEVICE: Expectation = Expectation {
    threads: &[],
    // `setup`, the one that hides clone3, and `serve`.
    filters: 3,
    signals: SIGNALS,
    apart: true,
    placed: &[(0, "/dev/null"), (1, "/dev/null"), (2, "pipe"), (3, "socket")],
    others: &[],
    directory: false,
    root_entries: 0,
    limits: &[("Max open files", 384), ("Max processes", 0)],
};
