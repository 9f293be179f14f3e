//! The messages of each direction.

pub(crate) mod balloon;
pub(crate) mod blk;
pub(crate) mod console;
pub(crate) mod control;
pub(crate) mod from_core;
pub(crate) mod from_device;
pub(crate) mod fs;
pub(crate) mod mem;
pub(crate) mod net;
pub(crate) mod pmem;
pub(crate) mod rates;
pub(crate) mod setting;
pub(crate) mod spawner;
pub(crate) mod statistics;
pub(crate) mod to_core;
pub(crate) mod to_device;
pub(crate) mod violation;
pub(crate) mod vsock;

use crate::{Error, limits};

/// A number inside `least..=most`, or the error that names both.
fn within(what: &'static str, value: u64, least: u64, most: u64, allowed: &'static str) -> Result<(), Error> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(Error::Limit { what, value, allowed }) }
}

/// A text of at most `most` bytes.
fn short(what: &'static str, text: &str, most: usize, allowed: &'static str) -> Result<(), Error> {
    if text.len() <= most { Ok(()) } else { Err(Error::Limit { what, value: text.len() as u64, allowed }) }
}

/// A device's name: 1 to [`limits::MAX_NAME`] letters, digits, `-` and `_`. It goes into log lines and
/// process names, so nothing else may be in it.
fn name(text: &str) -> Result<(), Error> {
    let fine = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    let length = if fine { text.len() } else { 0 };
    within("length of a name", length as u64, 1, limits::MAX_NAME as u64, "1 to 32 letters, digits, - and _")
}

/// The number of a device on PCI bus 0.
fn slot(number: u8) -> Result<(), Error> {
    within("PCI slot", number.into(), 1, limits::MAX_DEVICES as u64, "1 to 31")
}

/// At most [`limits::MAX_ENTRIES`] entries.
fn entries(count: usize) -> Result<(), Error> {
    within("entries of a list", count as u64, 0, limits::MAX_ENTRIES as u64, "at most 64")
}
