//! What of a device the user may set while the machine runs: one word for all types of device, with a number for each.

use bincode::{Decode, Encode};

use super::console::ConsoleSize;
use super::from_core::one_line;
use super::{short, within};
use crate::{Error, limits};

/// See above. The variant's number is its tag on the wire: add at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Setting {
    /// How many bytes of its memory the guest is to give back to the host.
    Balloon(u64),
    /// How large a disk is from now on, in bytes; none for as large as what it lies on is by now. Since minor version 5.
    Disk(Option<u64>),
    /// The size of a console's terminal. Since minor version 5.
    Console(ConsoleSize),
    /// Whether the link of a network is up. Since minor version 5.
    Link(bool),
    /// How many bytes of memory the guest is to have plugged in. Since minor version 5.
    Mem(u64),
}

impl Setting {
    /// The first minor version that knows it: whoever is older would end at it.
    #[must_use]
    pub fn since(self) -> u8 {
        match self {
            Self::Balloon(_) => 4,
            Self::Disk(_) | Self::Console(_) | Self::Link(_) | Self::Mem(_) => 5,
        }
    }

    pub(super) fn check(self) -> Result<(), Error> {
        match self {
            Self::Balloon(bytes) => within("size of a balloon", bytes, 0, limits::MAX_MEMORY, "at most 384G"),
            Self::Disk(None) | Self::Link(_) => Ok(()),
            Self::Disk(Some(bytes)) => {
                within("size of a disk", bytes, 512, limits::MAX_DISK, "512 bytes to 4E")
            }
            Self::Console(size) => size.check(),
            Self::Mem(bytes) => within("size of memory", bytes, 0, limits::MAX_MEMORY, "at most 384G"),
        }
    }
}

/// What became of a setting. On the wire the text alone, which is empty if there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetOutcome {
    /// Why it was refused, in one line.
    pub refused: Option<String>,
}

impl SetOutcome {
    /// It was refused; the text is made one line.
    #[must_use]
    pub fn refused(why: &str) -> Self {
        let why = if why.is_empty() { "the device does not say why" } else { why };
        Self { refused: Some(one_line(why)) }
    }

    /// It is set.
    #[must_use]
    pub fn set() -> Self {
        Self { refused: None }
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        short("length of a text", self.wire(), limits::MAX_TEXT, "at most 1024")
    }

    pub(super) fn wire(&self) -> &str {
        self.refused.as_deref().unwrap_or_default()
    }

    pub(super) fn from_wire(refused: String) -> Self {
        Self { refused: Some(refused).filter(|refused| !refused.is_empty()) }
    }
}
