//! The virtio memory device (virtio 1.2, §5.15) of `device-mem`: everything but the program around it.

mod blocks;
mod device;
mod request;
mod wire;

pub use device::Mem;
