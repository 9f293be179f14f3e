//! What somebody tries who has taken a process over, as data: by kind of escape.
//!
//! An attempt counts as refused when its process is killed by SIGSYS or when the kernel answers with an
//! error.

mod gaining_power;
mod pressing_on;
mod reaching_out;
mod words;

use crate::raw::Answer;

/// One attempt.
pub struct Attempt {
    /// What kind of escape it belongs to.
    pub row: &'static str,
    /// What is tried.
    pub name: &'static str,
    /// Tries it.
    pub make: fn(&Hand) -> Answer,
}

/// What an attempt has to work with besides descriptors 0 to 3. Addresses and descriptors as system calls
/// take them.
pub struct Hand {
    /// A memfd: guest memory.
    pub memory_fd: u64,
    /// Where it is mapped, shared, to read and to write.
    pub memory: u64,
    /// A private page of zeroes.
    pub page: u64,
}

impl Hand {
    /// The size of both mappings.
    pub const SIZE: u64 = 4096;
}

/// All attempts. A probe is told the index of its own.
pub fn all() -> impl Iterator<Item = &'static Attempt> {
    reaching_out::REACHING_OUT.iter().chain(gaining_power::GAINING_POWER).chain(pressing_on::PRESSING_ON)
}

const fn attempt(row: &'static str, name: &'static str, make: fn(&Hand) -> Answer) -> Attempt {
    Attempt { row, name, make }
}
