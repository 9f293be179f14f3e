//! Arguments of system calls that lie in memory.

use std::ffi::CStr;

/// `AT_FDCWD` as an argument.
pub const CWD: u64 = libc::AT_FDCWD as u64;

/// Enough zeroes for an `open_how`, a `timespec`, a signal set or a list of groups.
pub static ZEROES: [u64; 8] = [0; 8];

/// The number 1, as an int, a CPU set or a scheduling priority.
pub static ONE: [u64; 1] = [1];

/// A `sched_attr` that keeps policy and parameters: its size, and `SCHED_FLAG_KEEP_ALL`.
pub static KEEP: [u64; 6] = [48, 0x18, 0, 0, 0, 0];

/// An `rlimit` of infinity, soft and hard.
pub static INFINITE: [u64; 2] = [u64::MAX; 2];

/// Both words of all three capability sets.
pub static ALL_ONES: [u64; 3] = [u64::MAX; 3];

/// `_LINUX_CAPABILITY_VERSION_3`, this process.
pub static CAPABILITY_HEADER: [u32; 2] = [0x2008_0522, 0];

/// `struct clone_args` that ask for what fork does: only `exit_signal` is set.
pub static CLONE_ARGUMENTS: [u64; 11] = [0, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0, 0, 0, 0];

/// A `sockaddr_un` of the abstract name "launcher".
pub static ABSTRACT: [u8; 11] = *b"\x01\x00\x00launcher";

/// A string as an argument.
pub fn text(string: &'static CStr) -> u64 {
    string.as_ptr().expose_provenance() as u64
}

/// A static as an argument.
pub fn address<T: 'static>(value: &'static T) -> u64 {
    std::ptr::from_ref(value).expose_provenance() as u64
}
