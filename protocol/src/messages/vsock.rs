//! What a vsock is told.

use bincode::{Decode, Encode};

use super::within;
use crate::{Error, limits};

/// A vsock. The resource is the stream socket on which it listens for programs of the host; it does not block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsockOptions {
    /// The guest's context identifier, 3 to 2^32-2 (virtio 1.2, 5.10.4).
    pub cid: u32,
    /// The socket's name in the directory that is the program's root: `NAME_PORT` beside it is whom the guest reaches at
    /// that port of the host. Empty: the guest reaches nobody.
    pub name: String,
}

/// The required part as it stands on the wire.
#[derive(Encode, Decode)]
pub(super) struct Wire {
    cid: u32,
    name: String,
}

impl VsockOptions {
    /// Whether each is within its limits.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub fn check(&self) -> Result<(), Error> {
        let (cid, least, most) = (self.cid, limits::MIN_CID, limits::MAX_CID);
        within("CID of a guest", cid.into(), least.into(), most.into(), "3 to 4294967294")?;
        // It is a name in one directory.
        let fine = !self.name.bytes().any(|byte| byte == b'/' || byte == 0);
        let length = if fine { self.name.len() } else { usize::MAX };
        let most = limits::MAX_VSOCK_NAME as u64;
        within("length of a socket's name", length as u64, 0, most, "at most 95 bytes, without a slash")
    }

    pub(super) fn wire(&self) -> Wire {
        Wire { cid: self.cid, name: self.name.clone() }
    }

    pub(super) fn from_wire(Wire { cid, name }: Wire) -> Self {
        Self { cid, name }
    }
}
