//! What a guest's driver says of the guest, when it is asked: numbers under tags that the type of device defines, as those
//! of virtio-balloon (virtio 1.2, §5.5.6.3). Since minor version 5.
//!
//! Both are the guest's word. Nothing is done by them: they are shown to whoever asked.

use bincode::{Decode, Encode};

use super::from_core::one_line;
use super::{entries, short};
use crate::{Error, limits};

/// One number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Statistic {
    /// What of. There may be tags that nobody here knows.
    pub tag: u16,
    /// The number.
    pub value: u64,
}

/// What came of asking. The variant's number is its tag on the wire: add at the end.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Statistics {
    /// The driver has answered.
    Told(Vec<Statistic>),
    /// There is nobody to ask; why, in one line.
    Refused(String),
}

impl Statistics {
    /// There is nobody to ask; the text is made one line.
    #[must_use]
    pub fn refused(why: &str) -> Self {
        Self::Refused(one_line(why))
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        match self {
            Self::Told(told) => entries(told.len()),
            Self::Refused(why) => short("length of a text", why, limits::MAX_TEXT, "at most 1024"),
        }
    }
}
