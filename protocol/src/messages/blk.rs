//! What a disk is told.

use bincode::{Decode, Encode};

use super::{short, within};
use crate::{Error, Fields, limits};

/// Optional field of the set-up: discard.
const DISCARD: u16 = 1;
/// Optional field of the set-up: backing.
const BACKING: u16 = 12;

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlkOptions {
    /// Writes are refused.
    pub readonly: bool,
    /// The descriptor was opened with `O_DIRECT`.
    pub direct: bool,
    /// What `VIRTIO_BLK_T_GET_ID` answers: at most 20 bytes of ASCII.
    pub serial: String,
    /// Virtqueues offered.
    pub queues: u16,
    /// Largest size of each, a power of two.
    pub queue_size: u16,
    /// Whether discard and unmapping write-zeroes give the space back to the host. Optional field.
    pub discard: bool,
    /// The files in which is what the image does not have, each for that above it; below a raw one there is none. Optional
    /// field, since minor version 5, sent only when there are any: a program that does not know of it refuses an image
    /// that has a backing file. Their descriptors follow by `More`.
    pub backing: Vec<DiskFormat>,
}

/// How the sectors of a disk are in its file. Said by the user and never looked for: what is in a raw disk its guest writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum DiskFormat {
    /// As they are.
    Raw,
    /// A qcow2 image.
    Qcow2,
}

/// The required part as it stands on the wire.
#[derive(Encode, Decode)]
pub(super) struct Wire {
    readonly: bool,
    direct: bool,
    serial: String,
    queues: u16,
    queue_size: u16,
}

impl BlkOptions {
    /// Checks what is to be sent.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub fn check(&self) -> Result<(), Error> {
        short("length of the serial", &self.serial, limits::MAX_SERIAL, "at most 20")?;
        within("number of queues", self.queues.into(), 1, limits::MAX_QUEUES.into(), "1 to 64")?;
        let size = if self.queue_size.is_power_of_two() { self.queue_size } else { 0 };
        within(
            "size of a queue",
            size.into(),
            2,
            limits::MAX_QUEUE_SIZE.into(),
            "a power of two up to 1024",
        )?;
        let layers = self.backing.len() as u64;
        within("backing files", layers, 0, limits::MAX_BACKING as u64, "at most 8")?;
        let raw = self.backing.iter().position(|format| *format == DiskFormat::Raw);
        let below = raw.map_or(0, |at| self.backing.len().saturating_sub(at.saturating_add(1)));
        within("files below a raw one", below as u64, 0, 0, "none")
    }

    /// How many descriptors the resource has beside the first.
    pub(super) fn more(&self) -> u8 {
        u8::try_from(self.backing.len()).unwrap_or(u8::MAX)
    }

    pub(super) fn wire(&self) -> Wire {
        let Self { readonly, direct, queues, queue_size, .. } = *self;
        Wire { readonly, direct, serial: self.serial.clone(), queues, queue_size }
    }

    pub(super) fn fields(&self) -> Result<Fields, Error> {
        let fields = Fields::default().with(DISCARD, &self.discard)?;
        if self.backing.is_empty() { Ok(fields) } else { fields.with(BACKING, &self.backing) }
    }

    pub(super) fn from_wire(wire: Wire, fields: &Fields) -> Result<Self, Error> {
        let Wire { readonly, direct, serial, queues, queue_size } = wire;
        let discard = fields.value(DISCARD, true)?;
        let backing = fields.value(BACKING, Vec::new())?;
        Ok(Self { readonly, direct, serial, queues, queue_size, discard, backing })
    }
}
