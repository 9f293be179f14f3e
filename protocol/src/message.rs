//! What a message is to the channel.

use crate::{Error, Phase};

/// A direction's messages: one enum each for launcher to core, core to launcher, launcher to device and
/// device to launcher.
pub trait Message: Sized {
    /// Its number on the wire.
    fn kind(&self) -> u16;
    /// Its name, for error texts.
    fn name(&self) -> &'static str;
    /// How many descriptors belong to it.
    fn fds(&self) -> usize;
    /// Whether its sender may send it to a receiver in this phase.
    fn allowed(&self, phase: Phase) -> bool;
    /// The body's bytes.
    ///
    /// # Errors
    /// A value beyond its limit: what a peer would refuse is not sent.
    fn encode(&self) -> Result<Vec<u8>, Error>;
    /// The message of this kind with this body, every value inside its limit.
    ///
    /// # Errors
    /// An unknown kind, a malformed body, a value beyond its limit.
    fn decode(kind: u16, body: &[u8]) -> Result<Self, Error>;
}
