//! What the sectors of a disk are in. One object for all queues, which call it at the same time.

use device_backend::{Durability, Reader, Writer};
use nix::errno::Errno;

use crate::disk::Disk;
use crate::geometry::{AlignedBuffer, Geometry};
use crate::request::Range;
use crate::size;

/// Ranges are checked: within the size that [`Medium::geometry`] or a later [`Medium::resized`] said, in whole sectors.
pub trait Medium: Send + Sync + 'static {
    /// Its sizes, as they were at the start.
    fn geometry(&self) -> Geometry;

    /// In what units discarding gives space back, in bytes; a multiple of 512.
    fn discard_unit(&self) -> u32 {
        self.geometry().physical
    }

    /// Reads `range` into `writer`, which has room for exactly that, and returns the bytes written there and whether that
    /// was all.
    fn read(&self, range: Range, writer: &mut Writer<'_, '_>, buffer: &mut AlignedBuffer) -> (usize, bool);

    /// Writes all of `reader` to `range`, which is exactly as long. When this returns the host has it, whatever becomes of
    /// this process.
    ///
    /// # Errors
    /// The host's, or EIO when it wrote less.
    fn write(
        &self,
        range: Range,
        reader: &mut Reader<'_, '_>,
        durability: Durability,
        buffer: &mut AlignedBuffer,
    ) -> Result<(), Errno>;

    /// Makes all completed writes durable.
    ///
    /// # Errors
    /// The host's.
    fn flush(&self) -> Result<(), Errno>;

    /// Gives the space of `range` back, where that can be. That it cannot is no error: discard is a hint.
    ///
    /// # Errors
    /// Any other of the host's.
    fn discard(&self, range: Range) -> Result<(), Errno>;

    /// Makes `range` read as zeroes, giving the space back if `unmap`.
    ///
    /// # Errors
    /// The host's.
    fn write_zeroes(&self, range: Range, unmap: bool, buffer: &mut AlignedBuffer) -> Result<(), Errno>;

    /// What the user wants, for a disk that the guest knows with `known` bytes: the size from now on.
    ///
    /// # Errors
    /// Why not, in one line. What the guest knows is as it was.
    fn resized(&self, known: u64, wanted: Option<u64>, readonly: bool) -> Result<u64, String>;

    /// The size in bytes, which was `near` when it was last looked at.
    ///
    /// # Errors
    /// Why it is not known, or cannot be used.
    fn present(&self, near: u64) -> Result<u64, String>;

    /// Requests will come, and no other process changes the medium any more. Called once or more, on the thread that made
    /// the medium.
    fn started(&self) {}

    /// Bytes that it allocates at most at a time while it serves, beside the requests.
    fn heap(&self) -> usize {
        0
    }
}

impl Medium for Disk {
    fn geometry(&self) -> Geometry {
        self.geometry()
    }

    fn read(&self, range: Range, writer: &mut Writer<'_, '_>, buffer: &mut AlignedBuffer) -> (usize, bool) {
        self.read(range, writer, buffer)
    }

    fn write(
        &self,
        range: Range,
        reader: &mut Reader<'_, '_>,
        durability: Durability,
        buffer: &mut AlignedBuffer,
    ) -> Result<(), Errno> {
        self.write(range, reader, durability, buffer)
    }

    fn flush(&self) -> Result<(), Errno> {
        self.flush()
    }

    fn discard(&self, range: Range) -> Result<(), Errno> {
        self.discard(range)
    }

    fn write_zeroes(&self, range: Range, unmap: bool, buffer: &mut AlignedBuffer) -> Result<(), Errno> {
        self.write_zeroes(range, unmap, buffer)
    }

    fn resized(&self, known: u64, wanted: Option<u64>, readonly: bool) -> Result<u64, String> {
        size::resized(self, known, wanted, readonly)
    }

    fn present(&self, near: u64) -> Result<u64, String> {
        size::present(self, near)
    }
}
