//! What a user writes: the arguments of `vmm` and its settings file, which may come from other hands than his.
//!
//! The input is the arguments, a line each, up to an empty line, and the file. Whatever they are, a machine comes of them or
//! one line that says why none does.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// More than the arguments of any sensible machine: what counts is what they are.
const ARGUMENTS: usize = 64;

/// Reads them.
pub fn run(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let words = lines.by_ref().take_while(|line| !line.is_empty()).take(ARGUMENTS);
    let arguments: Vec<OsString> =
        std::iter::once(b"vmm".to_vec()).chain(words.map(<[u8]>::to_vec)).map(OsString::from_vec).collect();
    let file = String::from_utf8_lossy(&lines.collect::<Vec<_>>().join(&b'\n')).into_owned();
    if let Err(why) = vmm::understands(&arguments, &file) {
        // Whoever prints it makes what a terminal would act on visible; it says something in any case.
        assert!(!why.trim().is_empty(), "nothing is said of {arguments:?} and {file:?}");
    }
}
