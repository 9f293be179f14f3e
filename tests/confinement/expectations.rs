//! What the posture of each program must be while it serves, written out: whoever widens a privilege changes
//! this file, too.
//!
//! The machine has two vCPUs, one disk of one queue, which its guest drives, and a console.

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

/// `device-blk`.
pub const DEVICE_BLK: Expectation = Expectation {
    // Its control thread and one for its queue.
    threads: &["device-blk", "device-blk"],
    filters: 3,
    signals: SIGNALS,
    apart: true,
    placed: &[(0, "/dev/null"), (1, "/dev/null"), (2, "pipe"), (3, "socket")],
    others: &[
        ("/memfd:guest-memory (deleted)", 1),
        // Made before it was asked for, with its mapping's own; and as the front end set it.
        ("/memfd:inflight (deleted)", 3),
        // The mapping's own.
        ("/memfd:keep (deleted)", 1),
        ("DISK", 1),
        // Of its queue: to wake the thread, kick and call.
        ("anon_inode:[eventfd]", 3),
        // The vhost-user socket, and the channel on which it says that its configuration changed.
        ("socket", 2),
    ],
    directory: false,
    root_entries: 0,
    limits: &[
        ("Max core file size", 0),
        ("Max msgqueue size", 0),
        ("Max open files", 640),
        ("Max pending signals", 256),
        ("Max processes", 0),
    ],
};

/// `device-blk-qcow2`, which its guest does not drive; beside these it has the image.
pub const DEVICE_BLK_QCOW2: Expectation = Expectation {
    // The kernel keeps 15 bytes of a name.
    threads: &["device-blk-qcow", "device-blk-qcow"],
    others: &[
        ("/memfd:inflight (deleted)", 2),
        ("/memfd:keep (deleted)", 1),
        // To wake its queue's thread.
        ("anon_inode:[eventfd]", 1),
        ("socket", 2),
    ],
    ..DEVICE_BLK
};

/// `device-balloon`.
pub const DEVICE_BALLOON: Expectation = Expectation {
    // Its control thread and one for each of its queues.
    threads: &["device-balloon"; 6],
    others: &[
        ("/memfd:inflight (deleted)", 2),
        ("/memfd:keep (deleted)", 1),
        // To wake each queue's thread.
        ("anon_inode:[eventfd]", 7),
        // The vhost-user socket, and the channel on which it says that its configuration changed.
        ("socket", 2),
    ],
    ..DEVICE_RNG
};

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
    ..DEVICE_RNG
};

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
    ..DEVICE_RNG
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
    ..DEVICE_RNG
};

/// `device-fs`, with one request queue.
pub const DEVICE_FS: Expectation = Expectation {
    threads: &["device-fs", "device-fs", "device-fs"],
    others: &[
        ("/memfd:inflight (deleted)", 2),
        // Its root.
        ("/", 1),
        ("anon_inode:[eventfd]", 2),
        ("socket", 2),
    ],
    directory: true,
    limits: &[("Max open files", 4736), ("Max processes", 0)],
    ..DEVICE_BLK
};

/// `device-vsock`, to which nobody is connected.
pub const DEVICE_VSOCK: Expectation = Expectation {
    threads: &["device-vsock", "device-vsock", "device-vsock", "device-vsock"],
    others: &[
        ("/memfd:inflight (deleted)", 2),
        ("/memfd:keep (deleted)", 1),
        // Of each queue, that which wakes who sends to the guest, and one that nobody writes to.
        ("anon_inode:[eventfd]", 5),
        ("anon_inode:[eventpoll]", 1),
        // Where it listens, and as for a disk.
        ("socket", 3),
    ],
    directory: true,
    // The name of the socket where it listens.
    root_entries: 1,
    limits: &[("Max open files", 896), ("Max processes", 0)],
    ..DEVICE_BLK
};

/// `device-rng`.
pub const DEVICE_RNG: Expectation = Expectation {
    threads: &["device-rng", "device-rng"],
    others: &[
        ("/memfd:inflight (deleted)", 2),
        ("/dev/urandom", 1),
        ("anon_inode:[eventfd]", 1),
        ("socket", 1),
    ],
    limits: &[("Max open files", 384), ("Max processes", 0)],
    ..DEVICE_BLK
};

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
    ..DEVICE_RNG
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
