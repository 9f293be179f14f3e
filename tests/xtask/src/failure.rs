//! What a person reads when the tool cannot go on: one line that says what was tried, what was wrong
//! and what to do.

use std::fmt;

/// One line for a person.
#[derive(Debug)]
pub struct Failure(String);

/// What every step of the tool returns.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// A failure with `text` as its line.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says what was being tried when an operating-system call or a parser failed.
pub trait Tried<T> {
    /// Turns the error into `"<what>: <error>"`.
    fn tried(self, what: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: fmt::Display> Tried<T> for Result<T, E> {
    fn tried(self, what: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| Failure(format!("{}: {error}", what())))
    }
}
