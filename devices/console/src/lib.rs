//! The virtio console device (virtio 1.2, §5.3) of `device-console`: everything but the program around it.

mod control;
mod device;
mod host;
mod output;
mod port;
mod ports;
mod wire;

pub use device::Console;
