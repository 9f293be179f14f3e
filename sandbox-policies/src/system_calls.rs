//! The system calls that neither the standard library nor nix offers safely, one thin function each.
//!
//! This is the only file of the crate with `unsafe` in it. Invariants: nothing here allocates, locks or goes
//! through a wrapper of the C library that signals other threads (`setresuid` and its kin), because most of
//! it runs in a child between clone and exec; every pointer handed to the kernel is to a value that outlives
//! the call.
#![expect(
    unsafe_code,
    reason = "raw system calls: clone3, execveat, capset, prctl and others that have no safe wrapper; a signal handler"
)]

use std::ffi::{CStr, c_int, c_long, c_ulong};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;

use nix::errno::Errno;

/// What `clone3` answers: one of the two sides.
pub enum Clone {
    /// This is the new process.
    Child,
    /// This is the caller: the child's pid, as the caller sees it, and its pidfd.
    Parent(i32, OwnedFd),
}

/// From linux/sched.h; the constant of the C library does not fit its own type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `clone3` with `flags` (CLONE_PIDFD is added), without a new stack: a fork; into the control group of this directory,
/// if one is given. The child's end is told by SIGCHLD, or with CLONE_PARENT as the caller's is, which the kernel sees
/// to itself.
///
/// The child is a copy of the calling thread alone. It may use only what is async-signal-safe until it execs.
pub fn clone3(flags: u64, group: Option<BorrowedFd<'_>>) -> Result<Clone, Errno> {
    let mut pidfd: RawFd = -1;
    // SAFETY: an all-zero clone_args is valid: no stack, no TLS, no tid pointers, no cgroup.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    // CLONE_PIDFD is 0x1000, so the sign of the C type does not matter.
    arguments.flags = flags | u64::from(libc::CLONE_PIDFD.unsigned_abs());
    if let Some(group) = group {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(group.as_raw_fd().unsigned_abs());
    }
    arguments.pidfd = ptr::from_mut(&mut pidfd) as u64;
    if flags & u64::from(libc::CLONE_PARENT.unsigned_abs()) == 0 {
        arguments.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    }
    // SAFETY: no CLONE_VM, hence the child runs on its own copy of this stack; the only pointer is to
    // `pidfd`.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, ptr::from_mut(&mut arguments), size_of::<libc::clone_args>())
    };
    match checked(pid)? {
        0 => Ok(Clone::Child),
        pid => {
            // SAFETY: the kernel has just put this new descriptor here for us alone.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Clone::Parent(i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?, pidfd))
        }
    }
}

/// Arguments for [`execute`], made before the clone so that the child allocates nothing.
pub struct ArgumentVector<'a> {
    pointers: Vec<*const libc::c_char>,
    strings: std::marker::PhantomData<&'a CStr>,
}

impl<'a> ArgumentVector<'a> {
    /// A null-terminated vector of `strings`.
    pub fn new(strings: &[&'a CStr]) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
        Self { pointers, strings: std::marker::PhantomData }
    }
}

/// `execveat(program, "", arguments, {}, AT_EMPTY_PATH)`: returns only when it failed.
pub fn execute(program: RawFd, arguments: &ArgumentVector<'_>) -> Errno {
    let environment: [*const libc::c_char; 1] = [ptr::null()];
    // SAFETY: both vectors are null-terminated and their strings live as long as `arguments`.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program,
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    checked(answer).err().unwrap_or(Errno::UnknownErrno)
}

/// `_exit(status)`: no destructors, no handlers.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit takes any status and touches no memory of ours.
    unsafe { libc::_exit(status) }
}

/// `close_range(first, ~0, flags)`: flags 0 closes, CLOSE_RANGE_CLOEXEC marks.
pub fn close_range(first: u32, flags: u32) -> Result<(), Errno> {
    // SAFETY: no pointers. Callers own all descriptors from `first` on or are about to exec.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) }).map(drop)
}

/// `close_range(first, last, 0)`.
pub fn close_between(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: no pointers. The caller is a new process that uses none of these any more and never drops what owned them.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// `fcntl(fd, F_DUPFD_CLOEXEC, at_least)`: a copy out of the way of the low numbers.
pub fn duplicate_above(fd: RawFd, at_least: c_int) -> Result<RawFd, Errno> {
    // SAFETY: no pointers; a bad descriptor is an error.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, at_least) };
    Errno::result(copy)
}

/// `dup3(fd, at, 0)`: `at` becomes a copy that survives exec.
pub fn duplicate_at(fd: RawFd, at: RawFd) -> Result<(), Errno> {
    // SAFETY: no pointers; the caller is in a child that owns all its descriptors.
    Errno::result(unsafe { libc::dup3(fd, at, 0) }).map(drop)
}

/// Whether descriptor `number` is open.
pub fn is_open(number: RawFd) -> bool {
    // SAFETY: F_GETFD takes no pointer and changes nothing.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

/// Borrows one of the descriptors 0..=3 that the spawner placed.
pub fn placed(number: RawFd) -> Result<BorrowedFd<'static>, Errno> {
    if !(0..=3).contains(&number) || !is_open(number) {
        return Err(Errno::EBADF);
    }
    // SAFETY: it is open, and the four placed descriptors stay open as long as stage one looks at them.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

/// The ids of the calling thread, real, effective and saved; groups before user, for lack of rights
/// afterwards.
pub fn set_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    // SAFETY: three integers.
    checked(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: three integers.
    checked(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Drops all supplementary groups of the calling thread.
pub fn clear_groups() -> Result<(), Errno> {
    // SAFETY: a count of zero: the pointer is not read.
    checked(unsafe { libc::syscall(libc::SYS_setgroups, 0, ptr::null::<u32>()) }).map(drop)
}

/// `prctl` with integer arguments only.
pub fn process_control(option: c_int, first: c_ulong, second: c_ulong) -> Result<c_int, Errno> {
    let none: c_ulong = 0;
    // SAFETY: this crate calls only options that take integers.
    Errno::result(unsafe { libc::prctl(option, first, second, none, none) })
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

/// `_LINUX_CAPABILITY_VERSION_3`: two 32-bit words for each set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// The effective, permitted and inheritable sets, low word first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilityWords {
    /// 32 bits of the effective set.
    pub effective: u32,
    /// 32 bits of the permitted set.
    pub permitted: u32,
    /// 32 bits of the inheritable set.
    pub inheritable: u32,
}

/// `capset` on the calling thread.
pub fn set_capabilities(words: &[CapabilityWords; 2]) -> Result<(), Errno> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    // SAFETY: version 3 reads exactly two words from `words`.
    checked(unsafe { libc::syscall(libc::SYS_capset, ptr::from_mut(&mut header), words.as_ptr()) }).map(drop)
}

/// `capget` of the calling thread.
pub fn capabilities() -> Result<[CapabilityWords; 2], Errno> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut words = [CapabilityWords::default(); 2];
    // SAFETY: version 3 writes exactly two words to `words`.
    let answer = unsafe { libc::syscall(libc::SYS_capget, ptr::from_mut(&mut header), words.as_mut_ptr()) };
    checked(answer)?;
    Ok(words)
}

/// `signal` to its default action.
pub fn reset_signal(signal: libc::c_int) -> Result<(), Errno> {
    // The kernel's own sigaction: handler (SIG_DFL), flags, restorer, mask.
    let default = [0_u64; 4];
    // SAFETY: reads 32 bytes, writes nothing; 8 is the kernel's size of a signal set.
    checked(unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null::<u64>(), 8) })
        .map(drop)
}

/// Every signal to its default action, none blocked: an exec'd program inherits both.
pub fn reset_signals() -> Result<(), Errno> {
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        reset_signal(signal)?;
    }
    let none = 0_u64;
    // SAFETY: reads the 8 bytes of `none`.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            ptr::from_ref(&none),
            ptr::null::<u64>(),
            8,
        )
    };
    checked(answer).map(drop)
}

/// `open_tree`: a copy of the mount that `directory` is on, from that directory on and without the mounts beneath it,
/// mounted nowhere. None: of the working directory's.
pub fn mount_tree(directory: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Errno> {
    let at = directory.map_or(libc::AT_FDCWD, |directory| directory.as_raw_fd());
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH.unsigned_abs();
    // SAFETY: the path is a string of the program's, and empty.
    let tree = checked(unsafe { libc::syscall(libc::SYS_open_tree, at, c"".as_ptr(), flags) })?;
    let tree = RawFd::try_from(tree).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the kernel has just put this new descriptor here for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(tree) })
}

/// What [`change_mount`] changes, on top of nosuid, nodev and noexec.
#[derive(Clone, Copy, Debug)]
pub struct MountChange<'a> {
    /// Nothing can be changed by way of this mount.
    pub readonly: bool,
    /// Owners are shown and taken as this user namespace maps them.
    pub ids: Option<BorrowedFd<'a>>,
}

/// `mount_setattr` of the one mount at `tree`.
pub fn change_mount(tree: BorrowedFd<'_>, change: MountChange<'_>) -> Result<(), Errno> {
    let mut set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    if change.readonly {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    let mut namespace = 0;
    if let Some(ids) = change.ids {
        set |= libc::MOUNT_ATTR_IDMAP;
        namespace = u64::from(ids.as_raw_fd().unsigned_abs());
    }
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: namespace };
    // SAFETY: the path is empty, and the kernel reads as many bytes of the attributes as it is told.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// From linux/mount.h: the source is the descriptor itself.
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;

/// `move_mount`: mounts `tree` at `place`.
pub fn move_tree(tree: BorrowedFd<'_>, place: &CStr) -> Result<(), Errno> {
    // SAFETY: both paths are strings that outlive the call.
    checked(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            place.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// `pidfd_send_signal(process, signal)`.
pub fn signal_process(process: BorrowedFd<'_>, signal: c_int) -> Result<(), Errno> {
    // SAFETY: a null siginfo means "as kill(2) would".
    let answer = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, ptr::null::<u8>(), 0)
    };
    checked(answer).map(drop)
}

/// A system call that a filter refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its number.
    pub call: u32,
    /// Its argument registers.
    pub arguments: [u64; 6],
}

/// What [`on_refusal`] was told to do.
static ON_REFUSAL: OnceLock<fn(Option<Refused>) -> !> = OnceLock::new();

/// `SYS_SECCOMP` of asm-generic/siginfo.h: a SIGSYS that a filter has sent, which nobody can do otherwise.
const SENT_BY_FILTER: c_int = 1;

/// Has `then` run on the thread whose system call a filter refuses with SIGSYS, and for each other SIGSYS, with all
/// signals blocked. It must be async-signal-safe. The first `then` stays.
pub fn on_refusal(then: fn(Option<Refused>) -> !) -> Result<(), Errno> {
    let _second = ON_REFUSAL.set(then);
    // SAFETY: an all-zero sigaction is valid: the default action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handle_refusal as *const () as usize;
    // Not SA_NODEFER: that it is blocked meanwhile is what makes the next refusal fatal.
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the set is ours.
    unsafe { libc::sigfillset(&mut action.sa_mask) };
    // SAFETY: the handler is of the kind that SA_SIGINFO says, and never returns.
    Errno::result(unsafe { libc::sigaction(libc::SIGSYS, &action, ptr::null_mut()) }).map(drop)
}

extern "C" fn handle_refusal(_: c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands it to a handler with SA_SIGINFO, on its stack.
    let info = unsafe { &*info };
    // SAFETY: this as well.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    // The kernel has put the registers back to what they were at the call: seccomp_filter.rst, SECCOMP_RET_TRAP.
    let registers = &context.uc_mcontext.gregs;
    let [call, arguments @ ..] = [
        libc::REG_RAX,
        libc::REG_RDI,
        libc::REG_RSI,
        libc::REG_RDX,
        libc::REG_R10,
        libc::REG_R8,
        libc::REG_R9,
    ]
    .map(|name| usize::try_from(name).ok().and_then(|place| registers.get(place)))
    .map(|register| register.map_or(0, |value| value.cast_unsigned()));
    // A number has 32 bits, of which the filter and the kernel look at no more.
    let call = u32::try_from(call & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let refused = (info.si_code == SENT_BY_FILTER).then_some(Refused { call, arguments });
    match ON_REFUSAL.get() {
        Some(then) => then(refused),
        None => exit_now(1),
    }
}

/// `sendmsg` of one packet in `parts` on `socket`, never waiting. Async-signal-safe.
pub fn send_now(socket: RawFd, parts: [&[u8]; 4]) -> Result<(), Errno> {
    let mut parts = parts.map(|part| libc::iovec {
        // It is only read from.
        iov_base: part.as_ptr().cast_mut().cast(),
        iov_len: part.len(),
    });
    // SAFETY: an all-zero msghdr is valid: no name, no parts, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len();
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the message and what it points to outlive the call, which reads them.
    checked(unsafe { libc::syscall(libc::SYS_sendmsg, socket, ptr::from_ref(&message), flags) }).map(drop)
}

/// The system call that is in no list. It does no harm where there is no filter.
pub fn make_forbidden_call() {
    // SAFETY: no arguments, and it always succeeds.
    unsafe { libc::syscall(libc::SYS_getppid) };
}

/// Waits for the next of what the calling thread traces, or is the parent of, that stops or ends: its id and its status as
/// of wait(2). `None`: there is nothing to be told now. Status words of the C library's are not turned into a type here,
/// because nix has none for a stop by a real-time signal.
pub fn next_of_traced() -> Result<Option<(i32, c_int)>, Errno> {
    let mut status = 0;
    // SAFETY: it writes the status, which outlives the call.
    let id = unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::WNOHANG) };
    Errno::result(id).map(|id| (id != 0).then_some((id, status)))
}

/// Lets a traced thread that has stopped go on, with this signal; 0: with none.
pub fn go_on(thread: i32, signal: c_int) -> Result<(), Errno> {
    resume(libc::PTRACE_CONT, thread, signal)
}

/// Lets a traced thread that job control has stopped stay so until it is continued.
pub fn stay_stopped(thread: i32) -> Result<(), Errno> {
    resume(libc::PTRACE_LISTEN, thread, 0)
}

fn resume(request: libc::c_uint, thread: i32, signal: c_int) -> Result<(), Errno> {
    // SAFETY: neither request reads or writes memory of ours: the third argument is ignored, the fourth a number.
    let answer = unsafe { libc::ptrace(request, thread, ptr::null_mut::<u8>(), c_long::from(signal)) };
    checked(answer).map(drop)
}

fn checked(answer: c_long) -> Result<c_long, Errno> {
    if answer < 0 { Err(Errno::last()) } else { Ok(answer) }
}
