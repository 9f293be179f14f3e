//! Attempts to become more than one is: code, processes, privileges, kernel interfaces, other entries.

use super::words::{ALL_ONES, CAPABILITY_HEADER, CLONE_ARGUMENTS, CWD, INFINITE, ONE, ZEROES, address, text};
use super::{Attempt, attempt};
use crate::raw::{call, call_32_bit, call_and_end_child};

/// Attempts to become more than one is: code, processes, privileges, kernel interfaces, other entries.
pub const GAINING_POWER: &[Attempt] = &[
    attempt("exec", "execve a path", |_| call(libc::SYS_execve, [text(c"/bin/sh"), 0, 0])),
    attempt("exec", "execveat a memfd", |h| call(libc::SYS_execveat, [h.memory_fd, text(c""), 0, 0, 0x1000])),
    attempt("exec", "execveat an inherited descriptor", |_| {
        call(libc::SYS_execveat, [3, text(c""), 0, 0, 0x1000])
    }),
    attempt("exec", "memfd_create to exec from", |_| call(libc::SYS_memfd_create, [text(c"a"), 0])),
    attempt("exec", "uselib", |_| call(libc::SYS_uselib, [text(c"/lib/a")])),
    attempt("executable memory", "mmap anonymous, writable and executable", |_| {
        call(libc::SYS_mmap, [0, 4096, 7, 0x22, u64::MAX, 0])
    }),
    attempt("executable memory", "mmap anonymous, executable", |_| {
        call(libc::SYS_mmap, [0, 4096, 5, 0x22, u64::MAX, 0])
    }),
    attempt("executable memory", "mmap guest memory executable", |h| {
        call(libc::SYS_mmap, [0, 4096, 5, 1, h.memory_fd, 0])
    }),
    attempt("executable memory", "mprotect own memory executable", |h| {
        call(libc::SYS_mprotect, [h.page, 4096, 5])
    }),
    attempt("executable memory", "mprotect guest memory executable", |h| {
        call(libc::SYS_mprotect, [h.memory, 4096, 7])
    }),
    attempt("executable memory", "pkey_mprotect", |h| {
        call(libc::SYS_pkey_mprotect, [h.page, 4096, 5, u64::MAX])
    }),
    attempt("executable memory", "personality READ_IMPLIES_EXEC", |_| {
        call(libc::SYS_personality, [0x0400000])
    }),
    attempt("executable memory", "shmat executable", |_| call(libc::SYS_shmat, [0, 0, 0o100000])),
    attempt("executable memory", "remap_file_pages", |h| {
        call(libc::SYS_remap_file_pages, [h.memory, 4096, 0, 0, 0])
    }),
    attempt("executable memory", "memfd_secret", |_| call(libc::SYS_memfd_secret, [0])),
    attempt("executable memory", "prctl PR_SET_MDWE off", |_| call(libc::SYS_prctl, [65, 0, 0, 0, 0])),
    attempt("executable memory", "prctl PR_SET_MM", |h| call(libc::SYS_prctl, [35, 1, h.page, 0, 0])),
    attempt("guest memory", "ftruncate", |h| call(libc::SYS_ftruncate, [h.memory_fd, 0])),
    attempt("guest memory", "madvise MADV_REMOVE", |h| call(libc::SYS_madvise, [h.memory, 4096, 9])),
    attempt("guest memory", "madvise MADV_HWPOISON", |h| call(libc::SYS_madvise, [h.memory, 4096, 100])),
    attempt("guest memory", "madvise MADV_DODUMP", |h| call(libc::SYS_madvise, [h.memory, 4096, 17])),
    attempt("guest memory", "fcntl F_ADD_SEALS", |h| call(libc::SYS_fcntl, [h.memory_fd, 1033, 0x10])),
    attempt("guest memory", "fallocate that grows or cuts", |h| {
        call(libc::SYS_fallocate, [h.memory_fd, 0x8, 0, 4096])
    }),
    attempt("guest memory", "flock", |h| call(libc::SYS_flock, [h.memory_fd, 2])),
    attempt("processes", "fork", |_| call_and_end_child(libc::SYS_fork, [])),
    attempt("processes", "vfork", |_| call_and_end_child(libc::SYS_vfork, [])),
    attempt("processes", "clone a thread", |_| call_and_end_child(libc::SYS_clone, [0x3d_0f00, 0, 0, 0, 0])),
    attempt("processes", "clone as fork does", |_| call_and_end_child(libc::SYS_clone, [17, 0, 0, 0, 0])),
    attempt("processes", "clone into new namespaces", |_| {
        call_and_end_child(libc::SYS_clone, [0x7e020011, 0, 0, 0, 0])
    }),
    attempt("processes", "clone3 as fork does", |_| {
        call_and_end_child(libc::SYS_clone3, [address(&CLONE_ARGUMENTS), 88])
    }),
    attempt("processes", "waitid for others", |h| call(libc::SYS_waitid, [0, 0, h.page, 0x4000005, 0])),
    attempt("processes", "setpriority", |_| call(libc::SYS_setpriority, [0, 0, u64::MAX - 19])),
    attempt("processes", "sched_setscheduler to real time", |_| {
        call(libc::SYS_sched_setscheduler, [0, 1, address(&ONE)])
    }),
    attempt("processes", "sched_setaffinity", |_| call(libc::SYS_sched_setaffinity, [0, 8, address(&ONE)])),
    attempt("processes", "prlimit64 of another", |h| call(libc::SYS_prlimit64, [2, 7, 0, h.page])),
    attempt("processes", "setrlimit", |_| call(libc::SYS_setrlimit, [4, address(&INFINITE)])),
    attempt("processes", "mlockall", |_| call(libc::SYS_mlockall, [3])),
    attempt("kernel interfaces", "io_uring_setup", |h| call(libc::SYS_io_uring_setup, [8, h.page])),
    attempt("kernel interfaces", "userfaultfd", |_| call(libc::SYS_userfaultfd, [0])),
    attempt("kernel interfaces", "bpf", |h| call(libc::SYS_bpf, [0, h.page, 72])),
    attempt("kernel interfaces", "keyctl", |_| call(libc::SYS_keyctl, [0, u64::MAX - 2, 1, 0, 0])),
    attempt("kernel interfaces", "add_key", |_| {
        call(libc::SYS_add_key, [text(c"user"), text(c"a"), text(c"b"), 1, u64::MAX - 2])
    }),
    attempt("kernel interfaces", "fanotify_init", |_| call(libc::SYS_fanotify_init, [0, 0])),
    attempt("kernel interfaces", "seccomp with a listener", |h| call(libc::SYS_seccomp, [1, 8, h.page])),
    attempt("kernel interfaces", "landlock_create_ruleset", |_| {
        call(libc::SYS_landlock_create_ruleset, [0, 0, 1])
    }),
    attempt("kernel interfaces", "timer_create", |h| call(libc::SYS_timer_create, [0, 0, h.page])),
    attempt("kernel interfaces", "io_setup", |h| call(libc::SYS_io_setup, [1, h.page])),
    attempt("kernel interfaces", "splice", |_| call(libc::SYS_splice, [3, 0, 2, 0, 1, 0])),
    attempt("kernel interfaces", "vmsplice", |h| call(libc::SYS_vmsplice, [2, h.page, 1, 0])),
    attempt("kernel interfaces", "lookup_dcookie", |h| call(libc::SYS_lookup_dcookie, [0, h.page, 4096])),
    attempt("kernel interfaces", "rseq", |h| call(libc::SYS_rseq, [h.page, 32, 0, 0])),
    attempt("mounts and namespaces", "mount a tmpfs", |_| {
        call(libc::SYS_mount, [text(c"none"), text(c"/"), text(c"tmpfs"), 0, 0])
    }),
    attempt("mounts and namespaces", "remount the root writable", |_| {
        call(libc::SYS_mount, [text(c"none"), text(c"/"), text(c"tmpfs"), 0x20, 0])
    }),
    attempt("mounts and namespaces", "umount2", |_| call(libc::SYS_umount2, [text(c"/"), 2])),
    attempt("mounts and namespaces", "pivot_root", |_| call(libc::SYS_pivot_root, [text(c"/"), text(c"/")])),
    attempt("mounts and namespaces", "chroot", |_| call(libc::SYS_chroot, [text(c"/")])),
    attempt("mounts and namespaces", "unshare: user namespace", |_| call(libc::SYS_unshare, [0x10000000])),
    attempt("mounts and namespaces", "unshare: mount namespace", |_| call(libc::SYS_unshare, [0x20000])),
    attempt("mounts and namespaces", "setns", |_| call(libc::SYS_setns, [3, 0])),
    attempt("mounts and namespaces", "fsopen", |_| call(libc::SYS_fsopen, [text(c"proc"), 0])),
    attempt("mounts and namespaces", "open_tree", |_| call(libc::SYS_open_tree, [CWD, text(c"/"), 1])),
    attempt("mounts and namespaces", "move_mount", |_| {
        call(libc::SYS_move_mount, [3, text(c""), CWD, text(c"/"), 4])
    }),
    attempt("mounts and namespaces", "mount_setattr", |h| {
        call(libc::SYS_mount_setattr, [CWD, text(c"/"), 0, h.page, 32])
    }),
    attempt("mounts and namespaces", "sethostname", |_| call(libc::SYS_sethostname, [text(c"a"), 1])),
    attempt("another entry", "32-bit call, int 0x80", |_| call_32_bit()),
    attempt("another entry", "x32 call", |_| call(0x4000_0000 | libc::SYS_getpid, [])),
    attempt("another entry", "modify_ldt", |h| call(libc::SYS_modify_ldt, [1, h.page, 16])),
    attempt("another entry", "arch_prctl", |h| call(libc::SYS_arch_prctl, [0x1001, h.page])),
    attempt("another entry", "a handler of its own for SIGSYS", |h| {
        call(libc::SYS_rt_sigaction, [31, h.page, 0, 8])
    }),
    attempt("another entry", "a number that is none", |_| call(4095, [])),
    attempt("ids and privileges", "setuid 0", |_| call(libc::SYS_setuid, [0])),
    attempt("ids and privileges", "setresuid 0", |_| call(libc::SYS_setresuid, [0, 0, 0])),
    attempt("ids and privileges", "setgid 0", |_| call(libc::SYS_setgid, [0])),
    attempt("ids and privileges", "setgroups", |_| call(libc::SYS_setgroups, [1, address(&ZEROES)])),
    attempt("ids and privileges", "setfsuid 0", |_| call(libc::SYS_setfsuid, [0])),
    attempt("ids and privileges", "capset all", |_| {
        call(libc::SYS_capset, [address(&CAPABILITY_HEADER), address(&ALL_ONES)])
    }),
    attempt("ids and privileges", "prctl PR_SET_DUMPABLE", |_| call(libc::SYS_prctl, [4, 1, 0, 0, 0])),
    attempt("ids and privileges", "prctl PR_SET_PDEATHSIG off", |_| call(libc::SYS_prctl, [1, 0, 0, 0, 0])),
    attempt("ids and privileges", "prctl PR_SET_SECUREBITS", |_| call(libc::SYS_prctl, [28, 0, 0, 0, 0])),
    attempt("ids and privileges", "prctl PR_SET_KEEPCAPS", |_| call(libc::SYS_prctl, [8, 1, 0, 0, 0])),
    attempt("ids and privileges", "prctl PR_SET_PTRACER", |_| {
        call(libc::SYS_prctl, [0x59616d61, u64::MAX, 0, 0, 0])
    }),
    attempt("ids and privileges", "prctl PR_CAP_AMBIENT_RAISE", |_| call(libc::SYS_prctl, [47, 2, 0, 0, 0])),
    attempt("ids and privileges", "setsid", |_| call(libc::SYS_setsid, [])),
];
