//! The virtio socket device (virtio 1.2, §5.10) of `device-vsock`: everything but the program around it.

mod backlog;
mod connection;
mod credit;
mod device;
mod greeting;
mod host;
mod link;
mod request;
mod switch;
mod table;
mod wire;

pub use device::Vsock;
