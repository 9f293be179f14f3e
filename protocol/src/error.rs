//! What can be wrong with a frame or its sender.

use nix::errno::Errno;

/// Why a frame could not be sent or was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{call} on the control channel failed: {errno}")]
    System {
        /// The call.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
    /// Nothing to receive, or no room to send, on a non-blocking channel.
    #[error("the control channel is not ready")]
    WouldBlock,
    /// The descriptor is not a `SOCK_SEQPACKET` Unix socket.
    #[error("the descriptor is no control channel: {what}")]
    NoChannel {
        /// What it is instead.
        what: String,
    },
    /// The frame is shorter than its header, or than its header says.
    #[error("a frame of {size} bytes, {expected} expected")]
    Size {
        /// Bytes received.
        size: usize,
        /// Bytes that the header calls for.
        expected: usize,
    },
    /// A frame beyond [`crate::limits::MAX_FRAME`].
    #[error("a frame of more than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// The first four bytes are not ours.
    #[error("a frame that starts with {found:#010x} is not of this protocol")]
    Magic {
        /// What was found.
        found: u32,
    },
    /// The peer speaks another major version.
    #[error(
        "the peer speaks version {theirs} of the protocol, this program {ours}: use programs of one release"
    )]
    Version {
        /// Its major version.
        theirs: u8,
        /// Ours.
        ours: u8,
    },
    /// A message that this receiver does not know.
    #[error("message {kind:#06x} is not known here")]
    Kind {
        /// Its number.
        kind: u16,
    },
    /// A message that may not be sent in this phase.
    #[error("message {name} is not allowed in phase {phase}")]
    Phase {
        /// Its name.
        name: &'static str,
        /// The receiver's phase.
        phase: crate::Phase,
    },
    /// The wrong number of file descriptors.
    #[error("message {name} came with {found} descriptors, {expected} expected")]
    Descriptors {
        /// The message's name.
        name: &'static str,
        /// How many came.
        found: usize,
        /// How many belong to it.
        expected: usize,
    },
    /// A body that does not decode.
    #[error("the body of message {name} is malformed: {what}")]
    Body {
        /// The message's name.
        name: &'static str,
        /// The decoder's words.
        what: String,
    },
    /// A value beyond its limit.
    #[error("{what} is {value}, allowed is {allowed}")]
    Limit {
        /// Which value.
        what: &'static str,
        /// The value.
        value: u64,
        /// The limit in words.
        allowed: &'static str,
    },
}

impl Error {
    /// `EAGAIN` becomes [`Error::WouldBlock`], all else [`Error::System`].
    pub(crate) fn system(call: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::EAGAIN => Self::WouldBlock,
            errno => Self::System { call, errno },
        }
    }
}
