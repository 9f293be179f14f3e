//! What `cargo xtask test` tells the tests: where things are, and how patient to be.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// The file of one of the product's programs.
pub fn program(name: &str) -> Result<PathBuf> {
    folder("VMM_BIN_DIR").map(|folder| folder.join(name))
}

/// One of the guests' artifacts: `vmlinuz`, `vmlinux`, `initramfs` or `busybox`.
pub fn artifact(name: &str) -> Result<PathBuf> {
    folder("VMM_ARTIFACTS").map(|folder| folder.join(name))
}

/// When to give up on something that ought to have happened long ago: a limit on hangs. An emulated
/// machine on a busy host is slow.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(if is_nested() { 420 } else { 180 })
}

/// Whether guests run inside an emulated machine.
pub(crate) fn is_nested() -> bool {
    std::env::var_os("VMM_RIG").is_some_and(|rig| rig == "nested")
}

/// Looks again and again until `look` finds something, which `what` names if it never does.
pub fn within<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let (started, patience) = (Instant::now(), patience());
    while started.elapsed() < patience {
        if let Some(found) = look() {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(Error::Silent { what: what.to_owned(), patience, seen: String::new() })
}

/// Says how far a long test has come, to whoever watches it: the harness keeps back what a test prints until its end, and a
/// machine that says nothing for long is taken for one that stands still.
pub fn progress(text: &str) {
    // Not by the macros, whose output it is that is kept back. Nobody to read it is no failure.
    let _ = writeln!(std::io::stderr(), "@@progress {text}");
}

fn folder(variable: &'static str) -> Result<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).ok_or(Error::Environment(variable))
}
