//! The virtio memory balloon (virtio 1.2, §5.5) of `device-balloon`: everything but the program around it.

mod device;
mod request;
mod wire;

pub use device::Balloon;
