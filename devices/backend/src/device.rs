//! What a device is to this library: feature bits, configuration bytes, queues, and somebody who handles one
//! descriptor chain. Nothing here knows about vhost-user or rings.

use std::sync::Arc;

use crate::{Reader, Writer};

/// A virtio device. One object for all its queues.
pub trait Device: Send + Sync + 'static {
    /// Feature bits 0 to 23 and 50 to 127 that this device type defines and this device offers (virtio 1.2, §2.2).
    /// Those of the ring and the transport are the library's.
    fn features(&self) -> u64;

    /// The configuration space as the driver sees it, from offset 0 (virtio 1.2, §2.5). At most 256 bytes; empty for
    /// a type that has none, and VHOST_USER_PROTOCOL_F_CONFIG is then not offered.
    fn config(&self) -> Vec<u8>;

    /// Number of queues, at least 1.
    fn queues(&self) -> u16;

    /// Makes the handler of one queue. Called once per queue, before the serving filter: allocate here.
    fn handler(self: &Arc<Self>, queue: u16) -> Box<dyn Handler>
    where
        Self: Sized;
}

/// Serves one queue, on a thread of its own.
pub trait Handler: Send {
    /// Handles one request to its end. `features` are those that the driver accepted.
    ///
    /// Returns the bytes written, counted from the start of the writable part without a gap: what the driver
    /// is told, and so what it may read (virtio 1.2, §2.7.8.2).
    ///
    /// # Errors
    /// Only when there is no answer to give: the request has no room for one, or the device type has none that
    /// says "failed". The ring is then broken and stops.
    fn handle(
        &mut self,
        features: u64,
        reader: Reader<'_, '_>,
        writer: Writer<'_, '_>,
    ) -> Result<u32, &'static str>;

    /// Answers a request with this device's error instead of handling it, because processes ended while they handled it.
    /// Nothing but the answer is written, and nothing of what the request asks for is looked at. Returns
    /// as `handle` does.
    ///
    /// # Errors
    /// Only when there is no answer to give.
    fn refuse(&mut self, writer: Writer<'_, '_>) -> Result<u32, &'static str>;
}
