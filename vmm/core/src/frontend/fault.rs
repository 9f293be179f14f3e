//! What a back end did wrong, or failed to do. A dead or hostile peer is a normal, typed answer; the device that it
//! serves is lost, and nothing else is.

use nix::errno::Errno;
use protocol::DeviceLost;
use vhost::vhost_user::message::FrontendReq;

/// See above. The text is one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It closed the connection.
    #[error("the back end closed the connection")]
    Closed,
    /// It did not take a request, or answer it, in time.
    #[error("the back end did not answer {0:?} in time")]
    Deadline(FrontendReq),
    /// It sent something that nobody asked for.
    #[error("the back end sent a message that nobody asked for")]
    Unasked,
    /// It sent descriptors where none belong. They never entered this process.
    #[error("the back end sent file descriptors with its answer to {0:?}")]
    Descriptors(FrontendReq),
    /// The header of a reply is not the one of the reply.
    #[error("the back end answered {request:?} with request id {id} and flags {flags:#x}")]
    Header {
        /// What was asked.
        request: FrontendReq,
        /// The id in the answer.
        id: u32,
        /// The flags in the answer.
        flags: u32,
    },
    /// A reply has the wrong size.
    #[error("the back end answered {request:?} with {found} bytes instead of {expected}")]
    Size {
        /// What was asked.
        request: FrontendReq,
        /// Bytes that the answer must have.
        expected: usize,
        /// Bytes that it claims.
        found: u32,
    },
    /// It refused a request.
    #[error("the back end refused {request:?} with {value:#x}")]
    Refused {
        /// What was asked.
        request: FrontendReq,
        /// Its answer, which is 0 for success.
        value: u64,
    },
    /// A reply does not repeat what was asked about.
    #[error("the back end answered {request:?} about {found:?} when asked about {expected:?}")]
    Echo {
        /// What was asked.
        request: FrontendReq,
        /// What about.
        expected: (u32, u32),
        /// What the answer is about.
        found: (u32, u32),
    },
    /// A number of queues that cannot be.
    #[error("the back end offers {offered} queues, {wanted} are wanted")]
    Queues {
        /// What it offers.
        offered: u64,
        /// What is wanted.
        wanted: u16,
    },
    /// It does not offer what the front end cannot do without.
    #[error("the back end does not offer {0}")]
    Lacks(&'static str),
    /// A successor offers less than the driver has accepted.
    #[error(
        "the back end offers features {offered:#x}, and its predecessor's driver has accepted {accepted:#x}"
    )]
    Features {
        /// What it offers.
        offered: u64,
        /// What the driver has accepted.
        accepted: u64,
    },
    /// A successor is another device.
    #[error("the back end has another configuration than its predecessor, from byte {at} on")]
    Config {
        /// The first byte that differs.
        at: usize,
    },
    /// Where it says that a split ring stands is no index of one.
    #[error("the back end says that queue {queue} stands at {base:#x}, and indices have 16 bits")]
    Base {
        /// The queue.
        queue: u16,
        /// What it says.
        base: u32,
    },
    /// It asked for something on its channel that nobody offered, or in no form that there is.
    #[error(
        "the back end asked for {id} with flags {flags:#x} and {size} bytes on its channel, where nothing but CONFIG_CHANGE is understood"
    )]
    BackendRequest {
        /// What it asked for.
        id: u32,
        /// The flags of that.
        flags: u32,
        /// Bytes that follow.
        size: u32,
    },
    /// It sent descriptors on its channel. They never entered this process.
    #[error("the back end sent file descriptors on its channel")]
    BackendDescriptors,
    /// It wants answers on its channel and does not take them.
    #[error("the back end does not read the answers that it asked for")]
    Unread,
    /// A ring stands still.
    #[error("the back end has held a request for {} s and given none back", super::watchdog::LIMIT.as_secs())]
    Hung,
    /// A system call failed.
    #[error("{call}: {errno}")]
    System {
        /// The call.
        call: &'static str,
        /// Why.
        errno: Errno,
    },
}

impl Fault {
    /// What the launcher is told of a device that is lost by this. That a back end stood still is told apart: it is the one
    /// loss that the back end does not end of, and a request may be to blame for it.
    #[must_use]
    pub fn loss(self, slot: u8, name: &str) -> DeviceLost {
        DeviceLost { hung: self == Self::Hung, ..DeviceLost::new(slot, &format!("{name}: {self}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_back_end_stood_still_is_told_apart() {
        let hung = Fault::Hung.loss(3, "blk0");
        assert_eq!((hung.slot, hung.hung), (3, true));
        assert_eq!(hung.text, "blk0: the back end has held a request for 30 s and given none back");
        assert!(!Fault::Closed.loss(3, "blk0").hung);
        assert!(!Fault::Deadline(FrontendReq::GET_FEATURES).loss(3, "blk0").hung);
    }
}
