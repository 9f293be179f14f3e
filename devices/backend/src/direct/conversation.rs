//! A device with the threads of its queues, and a front end's conversation with it, a message at a time in the caller's
//! thread. The threads outlive a conversation, since nothing ends them but the process.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use crate::connection::{Connection, State};
use crate::inflight::InflightFile;
use crate::memory::Unsealed;
use crate::message::Request;
use crate::pace::Lane;
use crate::session::Session;
use crate::state::DeviceState;
use crate::vring::{MAX_QUEUE_SIZE, Vring};
use crate::worker::Worker;
use crate::{Device, Error};

/// A device that no front end is connected to.
pub struct DirectBackend<D> {
    device: Arc<D>,
    workers: Vec<Worker>,
}

/// A front end is.
pub struct Conversation<D> {
    device: Arc<D>,
    connection: Connection,
    session: Session,
}

impl<D: Device> DirectBackend<D> {
    /// Starts a thread for each queue, without a filter.
    ///
    /// # Errors
    /// The host has none.
    pub fn new(device: D) -> Result<Self, Error> {
        let device = Arc::new(device);
        let worker =
            |queue| Worker::spawn(device.service(queue), Lane::new(queue, None, Instant::now()), || Ok(()));
        let workers: Vec<Worker> = (0..device.queues()).map(worker).collect::<Result<_, _>>()?;
        workers.iter().try_for_each(Worker::confined)?;
        Ok(Self { device, workers })
    }

    /// As a program begins that was handed `socket`.
    ///
    /// # Errors
    /// There is no in-flight area.
    pub fn connect(self, socket: OwnedFd) -> Result<Conversation<D>, Error> {
        let inflight = InflightFile::create(self.device.queues(), MAX_QUEUE_SIZE)?;
        let state = DeviceState::new(Arc::clone(&self.device) as Arc<dyn Device>, None);
        let session = Session::new(state, self.workers, inflight, Unsealed::Refuse, false);
        Ok(Conversation { device: self.device, connection: Connection::new(socket), session })
    }
}

impl<D: Device> Conversation<D> {
    /// Waits for a message and answers it. False: the front end is gone.
    ///
    /// # Errors
    /// Those that end the program.
    pub fn serve_one(&mut self) -> Result<bool, Error> {
        self.connection.serve_one(&mut self.session).map(|state| state == State::Open)
    }

    /// Stops the rings and forgets the front end: the device is as it was.
    ///
    /// # Errors
    /// None that a device has which keeps nothing.
    pub fn end(mut self) -> Result<DirectBackend<D>, Error> {
        self.session.handle(Request::ResetOwner)?;
        let workers = self.session.into_vrings().into_iter().map(Vring::into_worker).collect();
        Ok(DirectBackend { device: self.device, workers })
    }
}
