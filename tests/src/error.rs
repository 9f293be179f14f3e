//! What can go wrong with a test's own means; what goes wrong with the product is asserted.

use std::time::Duration;

/// Why a step of a test could not be made.
#[derive(thiserror::Error)]
pub enum Error {
    /// An operating-system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// How it failed.
        source: std::io::Error,
    },
    /// A variable of the environment is not set.
    #[error("{0} is not set; run the tests by `cargo xtask test`")]
    Environment(&'static str),
    /// What was waited for did not come.
    #[error("{what} did not come (for {patience:?}, or before the end); seen:\n{seen}")]
    Silent {
        /// What was waited for.
        what: String,
        /// The limit.
        patience: Duration,
        /// Console and log.
        seen: String,
    },
    /// A program of the host's failed or said something unexpected.
    #[error("{0}")]
    Unexpected(String),
}

// Tests return this error and the harness prints it by Debug: readable, console and all.
impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Says what was being tried when an operating-system call failed.
pub(crate) fn tried(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into();
    move |source| Error::System { what, source }
}
