//! One heap for all threads.
//!
//! With its usual arenas for each thread glibc looks up the number of processors in /sys once there are
//! more than eight, by system calls that no policy has; and threads that rarely allocate need none.
#![expect(unsafe_code, reason = "mallopt is a C function")]

/// To be called before the second thread exists.
pub fn share_among_threads() {
    // SAFETY: called while there is one thread, with a documented parameter (mallopt(3)).
    let _as_before_if_refused = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
