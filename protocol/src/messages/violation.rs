//! The word of a program whose policy has refused a system call of its. The program's handler of SIGSYS says it, which
//! may neither allocate nor encode: the message has one size, and its frame is laid out before.

use super::{from_core, from_device};
use crate::{Error, Fields, Message, fields, frame};
use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};

/// A system call that the sender's policy refused. What a program says of itself: that it must end is certain, which call
/// it was is its claim.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Violation {
    /// The number of the call.
    pub call: u32,
    /// Its argument registers, whether the call has so many arguments or not.
    pub arguments: [u64; 6],
}

impl Violation {
    /// Bytes of it in a frame: the number, then each argument, little-endian.
    pub const SIZE: usize = size_of::<u32>() + 6 * size_of::<u64>();

    pub(super) fn encode(&self) -> Result<Vec<u8>, Error> {
        fields::encode("Violation", self, &Fields::default())
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, Error> {
        Ok(fields::decode_body("Violation", body)?.0)
    }
}

/// Not by derivation: there numbers are as long as their values ask for.
impl Encode for Violation {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        (self.call.to_le_bytes(), self.arguments.map(u64::to_le_bytes)).encode(encoder)
    }
}

impl<Context> Decode<Context> for Violation {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let (call, arguments) = <([u8; 4], [[u8; 8]; 6])>::decode(decoder)?;
        Ok(Self { call: u32::from_le_bytes(call), arguments: arguments.map(u64::from_le_bytes) })
    }
}

/// The frame of a violation without what is not known before: the [`Violation::SIZE`] bytes between the two parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViolationFrame {
    /// What goes before them.
    pub before: Vec<u8>,
    /// What follows.
    pub after: Vec<u8>,
}

impl ViolationFrame {
    /// For a device.
    ///
    /// # Errors
    /// None that can be.
    pub fn of_device() -> Result<Self, Error> {
        Self::of(&from_device::FromDevice::Violation(Violation::default()))
    }

    /// For the core.
    ///
    /// # Errors
    /// None that can be.
    pub fn of_core() -> Result<Self, Error> {
        Self::of(&from_core::FromCore::Violation(Violation::default()))
    }

    fn of<M: Message>(message: &M) -> Result<Self, Error> {
        let mut before = frame::encode(message.kind(), &message.encode()?, 0)?;
        let mut rest = before.split_off(frame::HEADER);
        let after = rest.split_off(Violation::SIZE.min(rest.len()));
        Ok(Self { before, after })
    }
}
