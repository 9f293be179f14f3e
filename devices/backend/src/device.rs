//! What a device is to this library: feature bits, configuration bytes, queues, state, and somebody who handles one
//! descriptor chain. Nothing here knows about vhost-user or rings.
//!
//! # What outlives a process
//!
//! A device program may end at any moment and another one goes on under the running driver, which was told of no reset.
//! Of what the driver set up, the front end says features, rings and memory again, and the requests in flight are in the
//! front end's in-flight region. What is left is the device's own: what the driver changed by writing to its
//! configuration or by a request, and builds on. That is the state that [`Device::kept`] gives and [`Device::restore`]
//! takes; it is kept whenever [`Device::write_config`] or [`Device::reset`] says that it has changed, before the driver
//! is told that the change is made. Everything else begins anew with each process, and has to be what a device may forget
//! at any time, or find out again from its resource: caches, counters, how far a request had come (it is done again).
//! What a reset takes back ([`Device::reset`]; virtio 1.2, §2.4) a new process has to keep all the same.
//!
//! Under a launcher that has no place for it, and in a program that was started by hand, a device's state ends with its
//! process. A front end notices by the configuration, which is another than before.

use std::sync::Arc;

use crate::{Kept, Reader, Writer};

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

    /// The driver writes to its configuration, within the bytes of [`Device::config`]. Answers whether the state that
    /// must outlive the process is another now. What no field that can be written covers changes nothing, and is no error:
    /// a guest's write must not end a connection.
    fn write_config(&self, _offset: usize, _data: &[u8]) -> bool {
        false
    }

    /// Back to the state of a device that no driver has touched. Answers as `write_config` does.
    fn reset(&self) -> bool {
        false
    }

    /// The state that must outlive the process; none, as here, for a device that has none. Whether there is one must not
    /// change.
    fn kept(&self) -> Option<Kept> {
        None
    }

    /// Goes on with what a predecessor kept, perhaps more than once before the first ring is served. The predecessor may
    /// have been taken over: these are bytes to be parsed, of any version and length. False: it is not understood, and the
    /// device is as if reset.
    fn restore(&self, _kept: &Kept) -> bool {
        false
    }

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
