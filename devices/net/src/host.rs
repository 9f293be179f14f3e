//! What of the host a network device is joined to: the queues of a tap, or a stream.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use crate::choices::Follows;
use crate::stream::Stream;
use crate::tap::{Queues, Tap};

/// See above.
#[derive(Debug)]
pub enum Host {
    /// A queue of a tap for each pair of the device's.
    Tap(Queues),
    /// A stream, for its one pair.
    Stream(Stream),
}

impl Host {
    /// Of a tap.
    #[must_use]
    pub fn tap(first: Tap) -> Self {
        Self::Tap(Queues::new(first))
    }

    /// The other queues of a tap. A stream has none.
    pub fn add(&mut self, more: impl IntoIterator<Item = Tap>) {
        if let Self::Tap(queues) = self {
            queues.add(more);
        }
    }

    /// Whether there is a network at the other end.
    #[must_use]
    pub fn is_there(&self) -> bool {
        match self {
            Self::Tap(_) => true,
            Self::Stream(stream) => stream.is_open(),
        }
    }

    /// What becomes readable when there is none any more, where that can be.
    #[must_use]
    pub fn changes(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tap(_) => None,
            Self::Stream(stream) => Some(stream.changes()),
        }
    }
}

/// A stream has nothing that would follow: one queue, and frames in one form.
impl Follows for Host {
    fn set_queue(&self, pair: u16, attached: bool) -> Result<(), Errno> {
        match self {
            Self::Tap(queues) => queues.set_queue(pair, attached),
            Self::Stream(_) => Ok(()),
        }
    }

    fn set_offload(&self, features: u64) -> Result<(), Errno> {
        match self {
            Self::Tap(queues) => queues.set_offload(features),
            Self::Stream(_) => Ok(()),
        }
    }
}
