//! The virtio network device (virtio 1.2, §5.1) of `device-net`: everything but the program around it.

mod choices;
mod control;
mod device;
mod frame;
mod host;
mod stream;
mod tap;
mod wire;

pub use device::Net;
pub use host::Host;
pub use stream::Stream;
pub use tap::Tap;
