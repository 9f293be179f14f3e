//! What a balloon is told.

use bincode::{Decode, Encode};

use super::within;
use crate::{Error, limits};

/// The name of the counter that says how much the guest is to give back, in bytes. Since minor version 5.
pub const BALLOON_TARGET: &str = "balloon-target";
/// How much it has given, as its driver says, in bytes. Since minor version 5.
pub const BALLOON_ACTUAL: &str = "balloon-actual";

/// A balloon. It has no resource: guest memory comes from the front end, and the descriptor that a hand-over has for one
/// is that of `/dev/null`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BalloonOptions {
    /// How many bytes the guest is to give back at first.
    pub size: u64,
    /// Whether its driver may take pages back when the guest runs out of memory.
    pub deflate_on_oom: bool,
    /// Whether its driver may report pages that are free.
    pub free_page_reporting: bool,
}

impl BalloonOptions {
    pub(super) fn check(&self) -> Result<(), Error> {
        within("size of a balloon", self.size, 0, limits::MAX_MEMORY, "at most 384G")
    }
}
