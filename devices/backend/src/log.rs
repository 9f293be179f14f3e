//! Lines for the log pipe, descriptor 2: one write each, so that lines of several threads never mix.

use std::fmt::Display;
use std::io::Write;

/// Writes `text` and a newline. A log that cannot be written is no reason to stop serving.
pub fn line(text: impl Display) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}
