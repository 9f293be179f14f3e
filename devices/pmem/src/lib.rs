//! The virtio persistent memory device (virtio 1.2, §5.19) of `device-pmem`: everything but the program around it.

mod device;
mod wire;

pub use device::{Pmem, check};
