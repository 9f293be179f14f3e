//! Lines for a person, to the log pipe at descriptor 2. The launcher bounds and prefixes them.

use std::fmt::Arguments;
use std::io::Write;

/// Writes one line. A log that nobody reads any more is no reason to stop a guest.
pub fn line(text: Arguments<'_>) {
    let line = format!("{text}\n");
    let _unread = std::io::stderr().write_all(line.as_bytes());
}
