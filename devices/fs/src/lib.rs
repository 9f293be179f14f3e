//! The virtio file system device (virtio 1.2, §5.11) of `device-fs`: everything but the program around it.

mod device;
mod handles;
mod host;
mod nodes;
mod request;
mod server;
mod wire;

pub use device::Fs;
