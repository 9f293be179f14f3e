//! What a device is to this library: feature bits, configuration bytes, queues, state, and who serves each queue:
//! somebody who handles the requests that the driver makes, who fills the buffers that it offers, or who holds one. Nothing
//! here knows about vhost-user or rings.
//!
//! # What outlives a process
//!
//! A device program may end at any moment and another one goes on under the running driver, which was told of no reset.
//! Of what the driver set up, the front end says features, rings and memory again, and the requests in flight are in the
//! front end's in-flight region. What is left is the device's own: what the driver changed by writing to its
//! configuration or by a request, and builds on. That is the state that [`Device::kept`] gives and [`Device::restore`]
//! takes; it is kept whenever [`Device::write_config`], [`Device::reset`] or [`Device::started`] says that it has changed, and by the device
//! itself where a request changes it ([`Device::keep_with`]), before the driver is told that the change is made. Everything else begins anew with each process, and has to be what a device may forget
//! at any time, or find out again from its resource: caches, counters, how far a request had come (it is done again).
//! What a reset takes back ([`Device::reset`]; virtio 1.2, §2.4) a new process has to keep all the same.
//!
//! Under a launcher that has no place for it, and in a program that was started by hand, a device's state ends with its
//! process. A front end notices by the configuration, which is another than before.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use protocol::Setting;

use crate::{Error, GuestPages, Inquiry, Keeper, Kept, Reader, Room, Writer};

/// Why a ring breaks that gives a device a buffer beyond the memory that it knows.
pub(crate) const OUTSIDE: &str = "a descriptor points outside guest memory";

/// Why nothing, or nothing of the kind, can be set of a device.
pub const NOTHING_TO_SET: &str = "this device has nothing of the kind to be set while it runs";

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

    /// The user sets something while the machine runs. Answers as `write_config` does. If the configuration is another then,
    /// the library tells the front end.
    ///
    /// # Errors
    /// Why not, in one line. Nothing has changed.
    fn set(&self, _setting: Setting) -> Result<bool, String> {
        Err(NOTHING_TO_SET.to_owned())
    }

    /// A front end asks for the configuration, or begins without, and this process has not served yet: what of it the
    /// resource says may be another than when the process began, as after a setting that the one which serves was told of.
    /// For a spare that is long ago. Called any number of times, and not any more from the first ring or setting on.
    fn look_again(&self) {}

    /// An event descriptor on which the device says that its configuration has changed by itself, where it may: the library
    /// then tells the front end. The same for the life of the process.
    fn changes(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// What the user can ask the guest's driver, where that is something. The same for the life of the process.
    fn inquiry(&self) -> Option<&Inquiry> {
        None
    }

    /// Numbers that the user may want to know, beside those that the library counts. Names of letters, digits, `-` and `_`.
    fn numbers(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Back to the state of a device that no driver has touched. Answers as `write_config` does.
    fn reset(&self) -> bool {
        false
    }

    /// A ring is about to be served, and from here on the device is this process's. Answers as `write_config` does.
    fn started(&self) -> bool {
        false
    }

    /// Bytes of heap that serving takes at most beside what the requests take, which the library knows.
    fn heap(&self) -> usize {
        0
    }

    /// The state that must outlive the process; none, as here, for a device that has none. Whether there is one must not
    /// change.
    fn kept(&self) -> Option<Kept> {
        None
    }

    /// Goes on with what a predecessor kept, perhaps more than once before the first ring is served. The predecessor may
    /// have been taken over: these are bytes to be parsed, of any version and length. False: it is not understood, and the
    /// device is as if reset, or as if the worst had been kept.
    fn restore(&self, _kept: &Kept) -> bool {
        false
    }

    /// Where a state is to be kept that changes while a request is handled, before that is answered. Called at most once,
    /// before [`Device::service`]: where there is no keep it is not called.
    fn keep_with(&self, _keeper: Keeper) {}

    /// The front end lets a ring be served, or no more (VHOST_USER_SET_VRING_ENABLE), for a driver that accepted
    /// `features`; a reset of the device lets none be. Not when a ring is stopped for a while only, to be served on by this
    /// process or another. A front end that has no such request lets all be served from the beginning.
    fn ring_enabled(&self, _queue: u16, _enabled: bool, _features: u64) {}

    /// Queues with the same number share the device's limits. One number, as here, makes them limits of the device; more
    /// than one of each direction.
    fn limited_with(&self, _queue: u16) -> u16 {
        0
    }

    /// Whether the user may limit it. One that may not need not be able to tell the time.
    fn can_be_limited(&self) -> bool {
        true
    }

    /// The device is limited: a request for more than so many bytes is to be refused, and not to be asked for. Called at
    /// most once, before everything else.
    ///
    /// # Errors
    /// [`Error::Resource`] where that is too little to work with.
    fn bound_requests(&mut self, _bytes: u64) -> Result<(), Error> {
        Ok(())
    }

    /// Makes who serves one queue. Called once per queue, before the serving filter: allocate here.
    fn service(self: &Arc<Self>, queue: u16) -> Service
    where
        Self: Sized;
}

/// Who serves a queue, by which side speaks first.
pub enum Service {
    /// The driver: each chain is a request.
    Requests(Box<dyn Handler>),
    /// The host: a chain is a buffer that waits for something to arrive.
    Arrivals(Box<dyn Receiver>),
    /// The host, by giving back the one buffer that the driver has offered: it is a question. For a driver that accepted
    /// `feature`, a bit, that is; for any other the queue of this number is another, of requests.
    Held {
        /// For those that accepted it.
        holder: Box<dyn Holder>,
        /// The bit.
        feature: u64,
        /// For those that did not.
        otherwise: Box<dyn Handler>,
    },
    /// That hangs on what the driver accepted: what its queues are is known only then.
    ByFeatures(Box<Choice>),
}

/// Who serves a queue that is one thing for some drivers and another for the others.
pub struct Choice {
    /// Told the features that the driver accepted, whether it is the second.
    pub second: fn(u64) -> bool,
    /// Neither is a choice again.
    pub services: (Service, Service),
}

/// Serves a queue of requests, on a thread of its own.
pub trait Handler: Send {
    /// Guest memory, whenever the ring is begun to be served or served on: for a device that does more with it than to read and
    /// write requests.
    fn attach(&mut self, _memory: &GuestPages) {}

    /// A batch of requests follows: as many as were available at one look, and at most as the ring has places. An order to
    /// stop is looked for between two batches, not within, so that a handler that waits for something of the host has
    /// to bound how long it waits in one.
    fn begin_batch(&mut self) {}

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

    /// Answers a request of which some buffer lies outside the memory that this device knows, as one in persistent memory
    /// does, with this device's error. Without an answer, as here, the ring breaks: right where no honest driver makes such
    /// a request. Returns as `handle` does.
    ///
    /// # Errors
    /// When there is no answer to give.
    fn refuse_outside(&mut self, _request: Outside<'_, '_>) -> Result<u32, &'static str> {
        Err(OUTSIDE)
    }

    /// Whether a request that a process had begun when it ended may be done again. Where it may not (a packet must not
    /// be sent twice) its successor refuses it: nobody knows whether it was done.
    fn repeats(&self) -> bool {
        true
    }
}

/// What this device knows of a request of which some buffer lies outside its memory.
pub struct Outside<'a, 'm> {
    /// What the driver lets it read, without what is outside.
    pub reader: Reader<'a, 'm>,
    /// Its room before the first buffer that is outside; all of it if none of its room is.
    pub before: Writer<'a, 'm>,
    /// Its room behind the last such buffer; all of it if none is.
    pub behind: Writer<'a, 'm>,
}

/// Fills a queue of buffers, on a thread of its own.
pub trait Receiver: Send {
    /// What can be read from when something has arrived; the same for the life of the process.
    fn source(&self) -> BorrowedFd<'_>;

    /// The room that there must be before anything is received, by the features that the driver accepted.
    fn needs(&self, features: u64) -> Needs;

    /// Receives one arrival, if there is one. Never waits.
    ///
    /// # Errors
    /// When nothing can arrive any more. The ring is then broken and stops.
    fn receive(&mut self, features: u64, room: &Room<'_, '_>) -> Result<Arrival, &'static str>;
}

/// Holds a queue's one buffer, on a thread of its own.
pub trait Holder: Send {
    /// What can be read from when the driver is to be asked; the same for the life of the process.
    fn source(&self) -> BorrowedFd<'_>;

    /// Looks at the buffer that is there. Called whenever there is one to be looked at: it may be the same as before.
    fn look(&mut self, reader: Reader<'_, '_>) -> Turn;
}

/// What is to become of a buffer that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It stays where it is: the source is to be waited for.
    Hold,
    /// It is the driver's again, which is asked thereby.
    GiveBack,
}

/// The room for one arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// The most bytes that one may have.
    pub bytes: usize,
    /// Whether it may lie in several chains, one after the other. If not it has one, whatever that one's size.
    pub spread: bool,
}

/// What came of looking for an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// There is none: the source is to be waited for.
    None,
    /// One was taken from the source and is not for the driver: the room is as before.
    Dropped,
    /// One of so many bytes lies at the start of the room, without a gap.
    Received(usize),
}
