//! What a file system is told.

use bincode::{Decode, Encode};

use super::within;
use crate::{Error, limits};

/// A directory of the host by a tag. The directory is the program's root, and so the resource is nothing: `/dev/null`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsOptions {
    /// What the guest mounts it by: 1 to 36 bytes.
    pub tag: String,
    /// Nothing in it can be changed: its mount is read-only.
    pub readonly: bool,
    /// Request queues offered; there is one more, for what must not wait.
    pub queues: u16,
}

/// The required part as it stands on the wire.
#[derive(Encode, Decode)]
pub(super) struct Wire {
    tag: String,
    readonly: bool,
    queues: u16,
}

impl FsOptions {
    /// Of the device: one that must not wait (`hiprio`), and the request queues.
    pub fn all_queues(&self) -> u16 {
        self.queues.saturating_add(1)
    }

    /// Whether each is within its limits.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub fn check(&self) -> Result<(), Error> {
        // The driver's end of a tag is its first zero.
        let length = if self.tag.contains('\0') { 0 } else { self.tag.len() };
        let most = limits::MAX_FS_TAG as u64;
        within("length of a tag", length as u64, 1, most, "1 to 36 bytes, none of them zero")?;
        let most = limits::MAX_QUEUES.saturating_sub(1);
        within("number of request queues", self.queues.into(), 1, most.into(), "1 to 63")
    }

    pub(super) fn wire(&self) -> Wire {
        Wire { tag: self.tag.clone(), readonly: self.readonly, queues: self.queues }
    }

    pub(super) fn from_wire(Wire { tag, readonly, queues }: Wire) -> Self {
        Self { tag, readonly, queues }
    }
}
