//! The virtio entropy device (virtio 1.3, §5.4) of `device-rng`: everything but the program around it.

mod device;

pub use device::{Rng, check};
