//! Attempts to press on what is there: memory, limits, timers, rarely used calls of the kernel and its forgotten ones.
//!
//! Calls that the C library's crate does not name are here by their numbers for x86-64.

use super::words::{CWD, INFINITE, KEEP, ONE, ZEROES, address, text};
use super::{Attempt, attempt};
use crate::raw::call;

/// Attempts to press on what is there.
pub const PRESSING_ON: &[Attempt] = &[
    attempt("memory", "mlock", |h| call(libc::SYS_mlock, [h.page, 4096])),
    attempt("memory", "mlock2", |h| call(libc::SYS_mlock2, [h.page, 4096, 0])),
    attempt("memory", "mmap at address 0", |_| call(libc::SYS_mmap, [0, 4096, 7, 0x32, u64::MAX, 0])),
    attempt("memory", "mmap private guest memory executable", |h| {
        call(libc::SYS_mmap, [0, 4096, 7, 2, h.memory_fd, 0])
    }),
    attempt("memory", "mprotect PROT_EXEC and PROT_GROWSDOWN", |h| {
        call(libc::SYS_mprotect, [h.page, 4096, 0x0100_0007])
    }),
    attempt("memory", "madvise MADV_MERGEABLE", |h| call(libc::SYS_madvise, [h.memory, 4096, 12])),
    attempt("memory", "madvise MADV_SOFT_OFFLINE", |h| call(libc::SYS_madvise, [h.memory, 4096, 101])),
    attempt("memory", "madvise MADV_GUARD_INSTALL", |h| call(libc::SYS_madvise, [h.memory, 4096, 102])),
    attempt("memory", "madvise MADV_WIPEONFORK", |h| call(libc::SYS_madvise, [h.page, 4096, 18])),
    attempt("memory", "mbind", |h| call(libc::SYS_mbind, [h.memory, 4096, 0, 0, 0, 0])),
    attempt("memory", "set_mempolicy", |_| call(libc::SYS_set_mempolicy, [0, 0, 0])),
    attempt("memory", "set_mempolicy_home_node", |h| call(450, [h.memory, 4096, 0, 0])),
    attempt("memory", "move_pages", |h| call(libc::SYS_move_pages, [0, 1, h.page, 0, h.page, 0])),
    attempt("memory", "mincore", |h| call(libc::SYS_mincore, [h.memory, 4096, h.page])),
    attempt("memory", "mseal", |h| call(462, [h.page, 4096, 0])),
    attempt("memory", "pkey_alloc", |_| call(libc::SYS_pkey_alloc, [0, 0])),
    attempt("memory", "map_shadow_stack", |_| call(453, [0, 4096, 0])),
    attempt("memory", "cachestat", |h| call(451, [h.memory_fd, address(&ZEROES), h.page, 0])),
    attempt("memory", "personality ADDR_NO_RANDOMIZE", |_| call(libc::SYS_personality, [0x40000])),
    attempt("limits", "prlimit64 of itself", |_| call(libc::SYS_prlimit64, [0, 4, address(&INFINITE), 0])),
    attempt("limits", "sched_setparam", |_| call(libc::SYS_sched_setparam, [0, address(&ONE)])),
    attempt("limits", "sched_setattr", |_| call(libc::SYS_sched_setattr, [0, address(&KEEP), 0])),
    attempt("limits", "ioprio_set to real time", |_| call(libc::SYS_ioprio_set, [1, 0, 0x2000])),
    attempt("limits", "setitimer", |_| call(libc::SYS_setitimer, [0, address(&ZEROES), 0])),
    attempt("limits", "alarm", |_| call(libc::SYS_alarm, [0])),
    attempt("limits", "timer_settime", |_| call(libc::SYS_timer_settime, [0, 0, address(&ZEROES), 0])),
    attempt("rings", "io_uring_enter", |_| call(libc::SYS_io_uring_enter, [3, 1, 0, 0, 0])),
    attempt("rings", "io_uring_register", |h| call(libc::SYS_io_uring_register, [3, 0, h.page, 1])),
    attempt("filters", "seccomp, strict", |_| call(libc::SYS_seccomp, [0, 0, 0])),
    attempt("filters", "seccomp, sizes of notifications", |h| call(libc::SYS_seccomp, [3, 0, h.page])),
    attempt("filters", "prctl PR_SET_SECCOMP, strict", |_| call(libc::SYS_prctl, [22, 1, 0])),
    attempt("filters", "prctl PR_SET_SYSCALL_USER_DISPATCH", |h| {
        call(libc::SYS_prctl, [59, 1, 0, 0, h.page])
    }),
    attempt("filters", "SECCOMP_IOCTL_NOTIF_RECV", |h| call(libc::SYS_ioctl, [3, 0xc050_2100, h.page])),
    attempt("filters", "SECCOMP_IOCTL_NOTIF_ADDFD", |h| call(libc::SYS_ioctl, [3, 0x4018_2103, h.page])),
    attempt("filters", "landlock_add_rule", |h| call(libc::SYS_landlock_add_rule, [3, 1, h.page, 0])),
    attempt("filters", "landlock_restrict_self", |_| call(libc::SYS_landlock_restrict_self, [3, 0])),
    attempt("filters", "lsm_set_self_attr", |h| call(460, [100, h.page, 32, 0])),
    attempt("attributes", "prctl PR_SET_CHILD_SUBREAPER", |_| call(libc::SYS_prctl, [36, 1, 0, 0, 0])),
    attempt("attributes", "prctl PR_SET_SPECULATION_CTRL", |_| call(libc::SYS_prctl, [53, 0, 2, 0, 0])),
    attempt("attributes", "prctl PR_SET_TSC", |_| call(libc::SYS_prctl, [26, 1, 0, 0, 0])),
    attempt("attributes", "prctl PR_SET_IO_FLUSHER", |_| call(libc::SYS_prctl, [57, 1, 0, 0, 0])),
    attempt("attributes", "prctl PR_SCHED_CORE", |_| call(libc::SYS_prctl, [62, 1, 0, 0, 0])),
    attempt("attributes", "prctl PR_MCE_KILL", |_| call(libc::SYS_prctl, [33, 0, 0, 0, 0])),
    attempt("attributes", "prctl PR_SET_TIMERSLACK", |_| call(libc::SYS_prctl, [29, 1, 0, 0, 0])),
    attempt("attributes", "arch_prctl ARCH_SET_CPUID", |_| call(libc::SYS_arch_prctl, [0x1012, 1])),
    attempt("attributes", "arch_prctl ARCH_MAP_VDSO_64", |_| call(libc::SYS_arch_prctl, [0x2003, 0])),
    attempt("attributes", "arch_prctl ARCH_REQ_XCOMP_PERM", |_| call(libc::SYS_arch_prctl, [0x1023, 18])),
    attempt("attributes", "setpgid", |_| call(libc::SYS_setpgid, [0, 0])),
    attempt("attributes", "setreuid 0", |_| call(libc::SYS_setreuid, [0, 0])),
    attempt("attributes", "setresgid 0", |_| call(libc::SYS_setresgid, [0, 0, 0])),
    attempt("attributes", "setfsgid 0", |_| call(libc::SYS_setfsgid, [0])),
    attempt("mount calls", "fsmount", |_| call(libc::SYS_fsmount, [3, 0, 0])),
    attempt("mount calls", "fsconfig", |_| call(libc::SYS_fsconfig, [3, 6, 0, 0, 0])),
    attempt("mount calls", "fspick", |_| call(libc::SYS_fspick, [CWD, text(c"/"), 0])),
    attempt("mount calls", "statmount", |h| call(457, [address(&ZEROES), h.page, 4096, 0])),
    attempt("mount calls", "listmount", |h| call(458, [address(&ZEROES), h.page, 1, 0])),
    attempt("mount calls", "open_tree_attr", |h| call(467, [CWD, text(c"/"), 1, h.page, 32])),
    attempt("mount calls", "quotactl_fd", |_| call(443, [3, 0, 0, 0])),
    attempt("marks and attributes of files", "fanotify_mark", |_| {
        call(libc::SYS_fanotify_mark, [3, 1, 2, CWD, text(c"/")])
    }),
    attempt("marks and attributes of files", "inotify_add_watch", |_| {
        call(libc::SYS_inotify_add_watch, [3, text(c"/"), 2])
    }),
    attempt("marks and attributes of files", "removexattr", |_| {
        call(libc::SYS_removexattr, [text(c"/"), text(c"user.a")])
    }),
    attempt("marks and attributes of files", "listxattr", |h| {
        call(libc::SYS_listxattr, [text(c"/"), h.page, 4096])
    }),
    attempt("marks and attributes of files", "setxattrat", |h| {
        call(463, [CWD, text(c"/"), 0, text(c"user.a"), h.page, 16])
    }),
    attempt("marks and attributes of files", "file_setattr", |h| call(469, [CWD, text(c"/"), h.page, 24, 0])),
    attempt("marks and attributes of files", "lchown", |_| call(libc::SYS_lchown, [text(c"/"), 0, 0])),
    attempt("marks and attributes of files", "utime", |_| call(libc::SYS_utime, [text(c"/"), 0])),
    attempt("marks and attributes of files", "fchmodat2", |_| call(452, [CWD, text(c"/"), 0o777, 0])),
    attempt("marks and attributes of files", "sync", |_| call(libc::SYS_sync, [])),
    attempt("between descriptors", "tee", |_| call(libc::SYS_tee, [3, 2, 1, 0])),
    attempt("between descriptors", "sendfile", |h| call(libc::SYS_sendfile, [3, h.memory_fd, 0, 1])),
    attempt("between descriptors", "sendmmsg", |h| call(libc::SYS_sendmmsg, [3, h.page, 0, 0])),
    attempt("between descriptors", "recvmmsg", |h| call(libc::SYS_recvmmsg, [3, h.page, 0, 0x40, 0])),
    attempt("between descriptors", "FIOASYNC", |_| call(libc::SYS_ioctl, [3, 0x5452, address(&ONE)])),
    attempt("between descriptors", "FIOSETOWN", |_| call(libc::SYS_ioctl, [3, 0x8901, address(&ONE)])),
    attempt("device ioctl", "VHOST_SET_OWNER", |_| call(libc::SYS_ioctl, [3, 0xaf01, 0])),
    attempt("device ioctl", "VHOST_NET_SET_BACKEND", |h| call(libc::SYS_ioctl, [3, 0x4008_af30, h.page])),
    attempt("device ioctl", "TUNSETOWNER", |_| call(libc::SYS_ioctl, [3, 0x4004_54cc, 0])),
    attempt("device ioctl", "TUNATTACHFILTER", |h| call(libc::SYS_ioctl, [3, 0x4010_54d5, h.page])),
    attempt("device ioctl", "SIOCSIFFLAGS", |h| call(libc::SYS_ioctl, [3, 0x8914, h.page])),
    attempt("device ioctl", "TIOCLINUX", |h| call(libc::SYS_ioctl, [2, 0x541c, h.page])),
    attempt("device ioctl", "TIOCSCTTY", |_| call(libc::SYS_ioctl, [2, 0x540e, 1])),
    attempt("device ioctl", "TIOCSETD", |h| call(libc::SYS_ioctl, [2, 0x5423, h.page])),
    attempt("device ioctl", "LOOP_SET_FD", |h| call(libc::SYS_ioctl, [h.memory_fd, 0x4c00, 3])),
    attempt("device ioctl", "DM_VERSION", |h| call(libc::SYS_ioctl, [3, 0xc138_fd00, h.page])),
    attempt("device ioctl", "UFFDIO_API", |h| call(libc::SYS_ioctl, [3, 0xc018_aa3f, h.page])),
    attempt("device ioctl", "FICLONE", |h| call(libc::SYS_ioctl, [h.memory_fd, 0x4004_9409, h.memory_fd])),
    attempt("families of sockets", "AF_KEY", |_| call(libc::SYS_socket, [15, 3, 2])),
    attempt("families of sockets", "AF_CAN", |_| call(libc::SYS_socket, [29, 3, 1])),
    attempt("families of sockets", "AF_TIPC", |_| call(libc::SYS_socket, [30, 2, 0])),
    attempt("families of sockets", "AF_BLUETOOTH", |_| call(libc::SYS_socket, [31, 3, 1])),
    attempt("families of sockets", "AF_SMC", |_| call(libc::SYS_socket, [43, 1, 0])),
    attempt("families of sockets", "AF_XDP", |_| call(libc::SYS_socket, [44, 3, 0])),
    attempt("families of sockets", "AF_UNIX datagram", |_| call(libc::SYS_socket, [1, 2, 0])),
    attempt("the system, rarely", "kexec_file_load", |h| {
        call(libc::SYS_kexec_file_load, [h.memory_fd, u64::MAX, 0, text(c""), 4])
    }),
    attempt("the system, rarely", "swapoff", |_| call(libc::SYS_swapoff, [text(c"/a")])),
    attempt("the system, rarely", "clock_adjtime", |h| call(libc::SYS_clock_adjtime, [0, h.page])),
    attempt("the system, rarely", "setdomainname", |_| call(libc::SYS_setdomainname, [text(c"a"), 1])),
    attempt("the system, rarely", "_sysctl", |h| call(libc::SYS__sysctl, [h.page])),
    attempt("the system, rarely", "ustat", |h| call(libc::SYS_ustat, [0, h.page])),
    attempt("the system, rarely", "sysfs", |_| call(libc::SYS_sysfs, [3])),
    attempt("the system, rarely", "nfsservctl", |_| call(libc::SYS_nfsservctl, [0, 0, 0])),
    attempt("the system, rarely", "request_key", |_| {
        call(libc::SYS_request_key, [text(c"user"), text(c"a"), 0, 0])
    }),
    attempt("signals, rarely", "rt_tgsigqueueinfo", |h| call(libc::SYS_rt_tgsigqueueinfo, [2, 2, 9, h.page])),
    attempt("signals, rarely", "tgkill another", |_| call(libc::SYS_tgkill, [2, 2, 0])),
    attempt("IPC, rarely", "shmat", |_| call(libc::SYS_shmat, [0, 0, 0])),
    attempt("IPC, rarely", "semop", |h| call(libc::SYS_semop, [0, h.page, 1])),
    attempt("IPC, rarely", "msgsnd", |h| call(libc::SYS_msgsnd, [0, h.page, 1, 0])),
    attempt("IPC, rarely", "mq_unlink", |_| call(libc::SYS_mq_unlink, [text(c"a")])),
    attempt("other numbers", "x32 execve", |_| call(0x4000_0000 | 520, [text(c"/bin/sh"), 0, 0])),
    attempt("other numbers", "x32 ioctl", |_| call(0x4000_0000 | 514, [3, 0x5452, 0])),
    attempt("other numbers", "a number above all", |_| call(0x3fff_ffff, [])),
];
