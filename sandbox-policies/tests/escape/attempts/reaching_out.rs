//! Attempts to reach what is outside: files, processes, the network, the machine.

use super::words::{ABSTRACT, CWD, ONE, ZEROES, address, text};
use super::{Attempt, attempt};
use crate::raw::call;

/// Attempts to reach what is outside: files, processes, the network, the machine.
pub const REACHING_OUT: &[Attempt] = &[
    attempt("files", "open the root", |_| call(libc::SYS_open, [text(c"/"), 0, 0])),
    attempt("files", "openat a host path", |_| call(libc::SYS_openat, [CWD, text(c"/etc/passwd"), 0, 0])),
    attempt("files", "openat2 a host path", |_| {
        call(libc::SYS_openat2, [CWD, text(c"/etc/passwd"), address(&ZEROES), 24])
    }),
    attempt("files", "creat", |_| call(libc::SYS_creat, [text(c"/new"), 0o600])),
    attempt("files", "openat O_TMPFILE", |_| call(libc::SYS_openat, [CWD, text(c"/"), 0o20200002, 0o600])),
    attempt("files", "stat", |h| call(libc::SYS_stat, [text(c"/"), h.page])),
    attempt("files", "newfstatat a path", |h| call(libc::SYS_newfstatat, [CWD, text(c"/"), h.page, 0])),
    attempt("files", "statx a path", |h| call(libc::SYS_statx, [CWD, text(c"/"), 0, 0x7ff, h.page])),
    attempt("files", "access", |_| call(libc::SYS_access, [text(c"/"), 0])),
    attempt("files", "faccessat2", |_| call(libc::SYS_faccessat2, [CWD, text(c"/"), 0, 0])),
    attempt("files", "readlink of its own executable", |h| {
        call(libc::SYS_readlink, [text(c"/proc/self/exe"), h.page, 4096])
    }),
    attempt("files", "getcwd", |h| call(libc::SYS_getcwd, [h.page, 4096])),
    attempt("files", "chdir", |_| call(libc::SYS_chdir, [text(c"/")])),
    attempt("files", "chmod", |_| call(libc::SYS_chmod, [text(c"/"), 0o777])),
    attempt("files", "fchmod guest memory", |h| call(libc::SYS_fchmod, [h.memory_fd, 0o777])),
    attempt("files", "chown", |_| call(libc::SYS_chown, [text(c"/"), 0, 0])),
    attempt("files", "setxattr", |_| {
        call(libc::SYS_setxattr, [text(c"/"), text(c"user.a"), text(c"b"), 1, 0])
    }),
    attempt("files", "getxattr", |h| call(libc::SYS_getxattr, [text(c"/"), text(c"user.a"), h.page, 4096])),
    attempt("files", "rename", |_| call(libc::SYS_rename, [text(c"/a"), text(c"/b")])),
    attempt("files", "link", |_| call(libc::SYS_link, [text(c"/a"), text(c"/b")])),
    attempt("files", "symlink", |_| call(libc::SYS_symlink, [text(c"/a"), text(c"/b")])),
    attempt("files", "mkdir", |_| call(libc::SYS_mkdir, [text(c"/a"), 0o700])),
    attempt("files", "rmdir", |_| call(libc::SYS_rmdir, [text(c"/a")])),
    attempt("files", "unlink", |_| call(libc::SYS_unlink, [text(c"/a")])),
    attempt("files", "mknod a device", |_| call(libc::SYS_mknod, [text(c"/sda"), 0o60666, 0x800])),
    attempt("files", "truncate", |_| call(libc::SYS_truncate, [text(c"/a"), 0])),
    // Anybody may do that to the host's, and device-fs does it to what is in its own directory, in which there is none.
    attempt("files", "utimensat", |_| call(libc::SYS_utimensat, [CWD, text(c"/tmp"), 0, 0])),
    attempt("files", "statfs", |h| call(libc::SYS_statfs, [text(c"/"), h.page])),
    attempt("files", "inotify_init1", |_| call(libc::SYS_inotify_init1, [0])),
    attempt("files", "name_to_handle_at", |h| {
        call(libc::SYS_name_to_handle_at, [CWD, text(c"/"), h.page, h.page, 0])
    }),
    attempt("files", "open_by_handle_at", |h| call(libc::SYS_open_by_handle_at, [CWD, h.page, 0])),
    attempt("inherited descriptors", "openat through the control channel", |_| {
        call(libc::SYS_openat, [3, text(c"."), 0, 0])
    }),
    attempt("inherited descriptors", "getdents64 of each descriptor", |h| {
        call(libc::SYS_getdents64, [h.memory_fd, h.page, 4096])
    }),
    attempt("inherited descriptors", "fchdir", |_| call(libc::SYS_fchdir, [3])),
    attempt("inherited descriptors", "dup", |_| call(libc::SYS_dup, [3])),
    attempt("inherited descriptors", "dup3 over the log", |_| call(libc::SYS_dup3, [3, 2, 0])),
    attempt("inherited descriptors", "fcntl F_SETOWN to others", |_| call(libc::SYS_fcntl, [3, 8, u64::MAX])),
    attempt("inherited descriptors", "fcntl F_SETSIG", |_| call(libc::SYS_fcntl, [3, 10, 9])),
    attempt("inherited descriptors", "fcntl F_NOTIFY", |_| call(libc::SYS_fcntl, [3, 1026, 1])),
    attempt("inherited descriptors", "fcntl F_SETPIPE_SZ of the log", |_| {
        call(libc::SYS_fcntl, [2, 1031, 1048576])
    }),
    attempt("/proc", "its own memory", |_| call(libc::SYS_open, [text(c"/proc/self/mem"), 2, 0])),
    attempt("/proc", "the environment of pid 1", |_| call(libc::SYS_open, [text(c"/proc/1/environ"), 0, 0])),
    attempt("/proc", "its own maps", |_| call(libc::SYS_open, [text(c"/proc/self/maps"), 0, 0])),
    attempt("/proc", "its own descriptors", |_| call(libc::SYS_open, [text(c"/proc/self/fd"), 0, 0])),
    attempt("signals", "kill −1", |_| call(libc::SYS_kill, [u64::MAX, 0])),
    attempt("signals", "kill pid 2", |_| call(libc::SYS_kill, [2, 0])),
    attempt("signals", "kill its process group", |_| call(libc::SYS_kill, [0, 0])),
    attempt("signals", "tkill another", |_| call(libc::SYS_tkill, [2, 0])),
    attempt("signals", "rt_sigqueueinfo", |h| call(libc::SYS_rt_sigqueueinfo, [2, 9, h.page])),
    attempt("signals", "pidfd_open", |_| call(libc::SYS_pidfd_open, [1, 0])),
    attempt("signals", "pidfd_send_signal", |_| call(libc::SYS_pidfd_send_signal, [3, 9, 0, 0])),
    attempt("signals", "signalfd4", |_| call(libc::SYS_signalfd4, [u64::MAX, address(&ZEROES), 8, 0])),
    attempt("other processes", "ptrace attach", |_| call(libc::SYS_ptrace, [16, 2, 0, 0])),
    attempt("other processes", "ptrace traceme", |_| call(libc::SYS_ptrace, [0, 0, 0, 0])),
    attempt("other processes", "process_vm_readv", |h| {
        call(libc::SYS_process_vm_readv, [2, h.page, 1, h.page, 1, 0])
    }),
    attempt("other processes", "process_vm_writev", |h| {
        call(libc::SYS_process_vm_writev, [2, h.page, 1, h.page, 1, 0])
    }),
    attempt("other processes", "pidfd_getfd", |_| call(libc::SYS_pidfd_getfd, [3, 0, 0])),
    attempt("other processes", "process_madvise", |h| call(libc::SYS_process_madvise, [3, h.page, 1, 4, 0])),
    attempt("other processes", "process_mrelease", |_| call(libc::SYS_process_mrelease, [3, 0])),
    attempt("other processes", "kcmp", |_| call(libc::SYS_kcmp, [1, 2, 0, 0, 0])),
    attempt("other processes", "perf_event_open", |h| {
        call(libc::SYS_perf_event_open, [h.page, 0, u64::MAX, u64::MAX, 0])
    }),
    attempt("other processes", "migrate_pages", |_| call(libc::SYS_migrate_pages, [2, 0, 0, 0])),
    attempt("network", "socket: Unix stream", |_| call(libc::SYS_socket, [1, 1, 0])),
    attempt("network", "socket: TCP", |_| call(libc::SYS_socket, [2, 1, 0])),
    attempt("network", "socket: UDP", |_| call(libc::SYS_socket, [2, 2, 0])),
    attempt("network", "socket: TCP over IPv6", |_| call(libc::SYS_socket, [10, 1, 0])),
    attempt("network", "socket: raw", |_| call(libc::SYS_socket, [2, 3, 0])),
    attempt("network", "socket: packet", |_| call(libc::SYS_socket, [17, 3, 0])),
    attempt("network", "socket: netlink", |_| call(libc::SYS_socket, [16, 3, 0])),
    attempt("network", "socket: vsock", |_| call(libc::SYS_socket, [40, 1, 0])),
    attempt("network", "socket: AF_ALG", |_| call(libc::SYS_socket, [38, 5, 0])),
    attempt("network", "socketpair", |h| call(libc::SYS_socketpair, [1, 1, 0, h.page])),
    attempt("network", "connect to an abstract Unix socket", |_| {
        call(libc::SYS_connect, [3, address(&ABSTRACT), 10])
    }),
    attempt("network", "bind", |_| call(libc::SYS_bind, [3, address(&ABSTRACT), 10])),
    attempt("network", "listen", |_| call(libc::SYS_listen, [3, 1])),
    attempt("network", "accept4", |_| call(libc::SYS_accept4, [3, 0, 0, 0])),
    attempt("network", "sendto", |h| call(libc::SYS_sendto, [3, h.page, 1, 0, address(&ABSTRACT), 10])),
    attempt("network", "setsockopt SO_PASSCRED", |_| {
        call(libc::SYS_setsockopt, [3, 1, 16, address(&ONE), 4])
    }),
    attempt("network", "getpeername", |h| call(libc::SYS_getpeername, [3, h.page, address(&ONE)])),
    attempt("the system", "init_module", |h| call(libc::SYS_init_module, [h.page, 4096, text(c"")])),
    attempt("the system", "finit_module", |h| call(libc::SYS_finit_module, [h.memory_fd, text(c""), 0])),
    attempt("the system", "delete_module", |_| call(libc::SYS_delete_module, [text(c"kvm"), 0])),
    attempt("the system", "kexec_load", |_| call(libc::SYS_kexec_load, [0, 0, 0, 0])),
    attempt("the system", "swapon", |_| call(libc::SYS_swapon, [text(c"/a"), 0])),
    attempt("the system", "clock_settime", |_| call(libc::SYS_clock_settime, [0, address(&ZEROES)])),
    attempt("the system", "settimeofday", |_| call(libc::SYS_settimeofday, [address(&ZEROES), 0])),
    attempt("the system", "adjtimex", |h| call(libc::SYS_adjtimex, [h.page])),
    attempt("the system", "syslog", |h| call(libc::SYS_syslog, [3, h.page, 4096])),
    attempt("the system", "iopl", |_| call(libc::SYS_iopl, [3])),
    attempt("the system", "ioperm", |_| call(libc::SYS_ioperm, [0, 1, 1])),
    attempt("the system", "acct", |_| call(libc::SYS_acct, [0])),
    attempt("the system", "vhangup", |_| call(libc::SYS_vhangup, [])),
    attempt("the system", "quotactl", |_| call(libc::SYS_quotactl, [0, 0, 0, 0])),
    attempt("the system", "reboot: only asked with wrong magic", |_| call(libc::SYS_reboot, [0, 0, 0, 0])),
    attempt("ioctl", "TUNSETIFF", |h| call(libc::SYS_ioctl, [3, 0x400454ca, h.page])),
    attempt("ioctl", "TUNSETPERSIST", |_| call(libc::SYS_ioctl, [3, 0x400454cb, 1])),
    attempt("ioctl", "TUNSETOFFLOAD of what nobody negotiates", |_| {
        call(libc::SYS_ioctl, [3, 0x400454d0, 0x11])
    }),
    attempt("ioctl", "TUNSETOFFLOAD with high bits set", |_| {
        call(libc::SYS_ioctl, [3, 0x400454d0, 0x1_0000_0001])
    }),
    attempt("ioctl", "SG_IO", |h| call(libc::SYS_ioctl, [3, 0x2285, h.page])),
    attempt("ioctl", "TIOCSTI", |h| call(libc::SYS_ioctl, [2, 0x5412, h.page])),
    attempt("ioctl", "KVM_CREATE_VM", |h| call(libc::SYS_ioctl, [h.memory_fd, 0xae01, 0])),
    attempt("ioctl", "KVM_SET_USER_MEMORY_REGION", |h| {
        call(libc::SYS_ioctl, [h.memory_fd, 0x4020ae46, h.page])
    }),
    attempt("ioctl", "FIOCLEX with high bits set", |_| call(libc::SYS_ioctl, [3, 0xffff_ffff_0000_5451, 0])),
    attempt("ioctl", "FS_IOC_SETFLAGS", |h| call(libc::SYS_ioctl, [h.memory_fd, 0x40086602, h.page])),
    attempt("ioctl", "FIFREEZE", |h| call(libc::SYS_ioctl, [h.memory_fd, 0xc0045877, 0])),
    attempt("IPC", "shmget", |_| call(libc::SYS_shmget, [0, 4096, 0o1600])),
    attempt("IPC", "semget", |_| call(libc::SYS_semget, [0, 1, 0o1600])),
    attempt("IPC", "msgget", |_| call(libc::SYS_msgget, [0, 0o1600])),
    attempt("IPC", "mq_open", |_| call(libc::SYS_mq_open, [text(c"a"), 0o102, 0o600, 0])),
];
