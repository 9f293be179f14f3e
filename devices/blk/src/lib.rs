//! The virtio block device (virtio 1.2, §5.2): everything but the program around it, and, behind [`Medium`], what the
//! sectors are in: a raw file or block device here, an image of a format in a program of its own.

mod arguments;
mod device;
mod disk;
mod geometry;
mod medium;
mod request;
mod size;
mod wire;

pub use arguments::Arguments;
pub use device::Blk;
pub use disk::Disk;
pub use geometry::{AlignedBuffer, BUFFER, Geometry};
pub use medium::Medium;
pub use request::Range;
