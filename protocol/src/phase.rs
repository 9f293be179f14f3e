//! When which message may be sent.

use std::fmt;

/// The receiver's phase. What a message may be in each is part of the message ([`crate::Message::allowed`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Configuration and descriptors go to the program, `Ready` or `Failed` comes back.
    HandOver,
    /// The guest runs.
    Serving,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HandOver => "hand-over",
            Self::Serving => "serving",
        })
    }
}
