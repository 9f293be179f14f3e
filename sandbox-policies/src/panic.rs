//! The ends of a confined program: by itself, and by a panic (one line in the log, then exit code 1,
//! "internal error").
//!
//! `abort()` would need five more system calls in every serving list (`rt_sigprocmask`, `getpid`, `gettid`,
//! `tgkill`, `rt_sigaction`), and as pid 1 of its namespace the process would not even die of SIGABRT.

use std::io::Write;
use std::panic;

use crate::system_calls::exit_now;

/// The exit code of an internal error, in the table that all programs share.
const INTERNAL_ERROR: i32 = 1;

/// Ends this process with `code` by one system call, `exit_group`, which every serving list has.
///
/// For programs in stage two: returning from `main` lets the standard library take its signal stack down
/// first, and `sigaltstack` is in no serving list. Nothing is flushed and no destructor runs.
pub fn end_process(code: i32) -> ! {
    exit_now(code)
}

/// Makes every later panic of this process end it.
pub fn on_panic_end_process() {
    panic::set_hook(Box::new(|info| {
        // There is nobody left to tell when even the log is gone.
        writeln!(std::io::stderr(), "internal error: {info}").ok();
        exit_now(INTERNAL_ERROR)
    }));
}
