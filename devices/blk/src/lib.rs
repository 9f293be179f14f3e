//! The virtio block device (virtio 1.2, §5.2) of `device-blk`: everything but the program around it.

mod device;
mod disk;
mod geometry;
mod request;
mod size;
mod wire;

pub use device::Blk;
pub use disk::Disk;
