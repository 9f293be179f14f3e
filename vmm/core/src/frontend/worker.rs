//! The thread of one front end: it does what the vCPUs left in the mailbox, within deadlines, and sees the back end go.
//!
//! A back end that dies, misbehaves or no longer moves is lost: the launcher is told, and nothing is said to it any more. What becomes of
//! the device is the launcher's to say. Until then, if the two kept account of the requests in flight, **the guest sees
//! nothing but a pause**: its rings and registers stay, its kicks add up. A successor is told what its predecessor was
//! told, and goes on from where the rings are. Without that account, and when the launcher says that nobody will come,
//! the device has failed (DEVICE_NEEDS_RESET).
//!
//! A back end that serves can be **replaced**: the other one is agreed with and given guest memory while it serves, then its
//! rings are drained, and the other goes on where it says that they stand. What is drained writes no more, which is what
//! tells it from one that is lost and why it need not be dead: it has given back all that it had taken, so no request of
//! its can come late into memory that the guest has put to another use, and none is done twice. (A back end that lies
//! about that has guest memory in its hands, as it had before, until the launcher ends it.) The launcher gets one answer,
//! refused or taken up, before any other word about the new one.
//!
//! A lost back end may still write to guest memory, so a reset of the guest is then not confirmed before its end of the
//! connection is gone or a successor comes: the launcher sends none before it has reaped the predecessor. Of a back end
//! that somebody else runs it cannot know that; there the old connection is closed before the first word on the new one,
//! and a back end has one front end at a time.

use super::backend_channel::BackendChannel;
use super::config_writes::ConfigWrites;
use super::connection::{Connection, Deadline, whole_milliseconds};
use super::fault::Fault;
use super::mailbox::{Mailbox, Succession, Work};
use super::session::{self, Agreement, From, Shares, Wanted};
use super::watchdog::{Look, TICK, Watchdog};
use crate::virtio_pci::{Activation, DeviceType, Ring, Shared};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::{FromCore, Reconnected, Refused};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How the launcher hears of something; with a connection that is closed once it has been told, and not before.
pub type Tell<'a> = dyn Fn(FromCore, Option<Connection>) + 'a;

/// What the user is told beside the fault. Both are short of the limit of a text by far.
const NO_ACCOUNT: &str = "; it kept no account of its requests (VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD), so that the guest's \
                          driver has to reset the device";

/// The state of the connection.
pub(super) enum Link {
    /// In use.
    Up(Connection),
    /// Given up; its end or a successor is awaited.
    Lost(Connection),
    /// Ended; a successor is awaited.
    Gone,
}

/// See above. Made with its device, run by a thread of its own.
pub struct Worker {
    pub(super) slot: u8,
    pub(super) name: String,
    pub(super) kind: DeviceType,
    pub(super) limit: Duration,
    pub(super) link: Link,
    /// What the last back end agreed to, and what its successor has to cover.
    pub(super) agreement: Agreement,
    /// The configuration at the start.
    pub(super) attached: Vec<u8>,
    /// What the guest has set up since its last reset.
    pub(super) activation: Option<Activation>,
    /// Whether a back end has heard of it: from then on requests may be in flight.
    pub(super) started: bool,
    /// There will be no successor.
    pub(super) abandoned: bool,
    pub(super) shares: Shares,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) shared: Arc<Shared>,
    pub(super) reset_waits: bool,
    /// A driver begins anew, and no back end has heard of it.
    pub(super) anew: bool,
    pub(super) watchdog: Watchdog,
    pub(super) config_writes: ConfigWrites,
    /// On which back ends say that their configuration has changed.
    pub(super) channel: Option<BackendChannel>,
}

impl Worker {
    /// The device's name, for the thread's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Serves until the device is dropped. `tell` is called once for each connection that is lost and once for each
    /// successor that serves.
    pub fn run(mut self, tell: &Tell<'_>) {
        loop {
            if let Err(fault) = self.wait() {
                self.lose(fault, tell);
            }
            let work = self.mailbox.take();
            if work.closed {
                return;
            }
            if let Err(fault) = self.perform(work, tell) {
                self.lose(fault, tell);
            }
        }
    }

    /// Returns when there is work or the connection is no more what it was.
    fn wait(&mut self) -> Result<(), Fault> {
        let (socket, unasked) = match &self.link {
            Link::Up(connection) => (Some(connection), PollFlags::POLLIN),
            Link::Lost(connection) => (Some(connection), PollFlags::empty()),
            Link::Gone => (None, PollFlags::empty()),
        };
        let channel = self.channel.as_ref().filter(|_| self.listens());
        let rests = channel.and_then(|channel| channel.rests(Instant::now()));
        let mut fds = vec![PollFd::new(self.mailbox.wake().as_fd(), PollFlags::POLLIN)];
        fds.extend(socket.map(|socket| PollFd::new(socket.as_fd(), unasked)));
        fds.extend(channel.filter(|_| rests.is_none()).map(|it| PollFd::new(it.as_fd(), PollFlags::POLLIN)));
        let tick = self.is_watched().then_some(TICK);
        match poll(
            &mut fds,
            tick.into_iter().chain(rests).min().map_or(PollTimeout::NONE, whole_milliseconds),
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Fault::System { call: "poll", errno }),
        }
        let seen = |place: usize| fds.get(place).and_then(PollFd::revents).unwrap_or(PollFlags::empty());
        let (connection, changed) = (seen(1), !seen(2).is_empty());
        if connection.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL) {
            return Err(Fault::Closed);
        }
        if connection.contains(PollFlags::POLLIN) {
            return Err(Fault::Unasked);
        }
        if changed {
            self.follow_change()?;
        }
        self.watch()
    }

    /// Whether the back end may say that its configuration has changed.
    fn listens(&self) -> bool {
        let open = self.channel.as_ref().is_some_and(BackendChannel::is_open);
        matches!(self.link, Link::Up(_)) && self.agreement.announces_changes() && open
    }

    /// Takes what is said on the channel, and shows the driver what the configuration is now.
    fn follow_change(&mut self) -> Result<(), Fault> {
        let (Link::Up(connection), Some(channel)) = (&self.link, &mut self.channel) else { return Ok(()) };
        if channel.look(Instant::now(), connection.is_acknowledged())? {
            let deadline = Deadline::after(self.limit);
            let queues = self.agreement.queues;
            self.agreement.config = session::read_config(connection, &self.kind, queues, deadline)?;
            self.show_config();
        }
        Ok(())
    }

    /// Whether rings that stand still say something.
    fn is_watched(&self) -> bool {
        matches!(self.link, Link::Up(_)) && self.started && self.kind.answers_each_request()
    }

    fn watch(&mut self) -> Result<(), Fault> {
        if !self.is_watched() {
            return Ok(());
        }
        let memory = &self.shares.memory;
        let rings = self.activation.iter().flat_map(|activation| &activation.rings);
        let indices =
            rings.filter_map(|ring| Some((memory.available_index(ring)?, memory.used_index(ring)?)));
        match self.watchdog.look(Instant::now(), indices) {
            Look::Well => Ok(()),
            Look::Hung => Err(Fault::Hung),
            Look::Hopeless => {
                self.shared.fail();
                Ok(())
            }
        }
    }

    fn perform(&mut self, work: Work, tell: &Tell<'_>) -> Result<(), Fault> {
        let Work { activate, reset, config_writes, kicks, succession, closed: _ } = work;
        // The reset first: a successor need not take up what is to be thrown away. Should the old back end fail at
        // it, its loss is told before anything else.
        if reset && let Err(fault) = self.reset() {
            self.lose(fault, tell);
        }
        self.config_writes.add(config_writes);
        // Before whatever can go wrong: what the driver has set up is started by whoever serves it then.
        let begins = activate.is_some();
        if begins {
            self.activation = activate;
        }
        match succession {
            Some(Succession::Successor(socket)) if !self.abandoned => self.reconnect(socket, tell)?,
            Some(Succession::Replacement(socket)) => self.replace(socket, tell)?,
            Some(Succession::Successor(_)) | None => {}
            Some(Succession::Abandoned) => {
                self.abandoned = true;
                self.shared.fail();
                // No successor comes, and a reset waits for nobody any more. One of ours is dead by now; one of somebody
                // else's that hangs is let go of, as one is that another takes the place of.
                if !matches!(self.link, Link::Up(_)) {
                    self.link = Link::Gone;
                    self.confirm();
                }
            }
        }
        self.write_config()?;
        if begins && !self.started {
            self.start()?;
        }
        for ring in self.rings() {
            let wanted = kicks & 1_u64.checked_shl(ring.index.into()).unwrap_or(0) != 0;
            let kick = self.shares.events.kicks.get(usize::from(ring.index));
            if let Some(kick) = kick.filter(|_| wanted && self.started) {
                kick.signal();
            }
        }
        Ok(())
    }

    /// Has the back end make the changes of the configuration that wait for one, and shows what came of them.
    fn write_config(&mut self) -> Result<(), Fault> {
        if self.config_writes.all().is_empty() {
            return Ok(());
        }
        self.begin_anew()?;
        let Link::Up(connection) = &self.link else { return Ok(()) };
        let mut writes = self.config_writes.all().iter();
        let written = writes.try_for_each(|(offset, data)| {
            session::write_config(connection, *offset, data, Deadline::after(self.limit))
        });
        let config = written.and_then(|()| {
            let deadline = Deadline::after(self.limit);
            session::read_config(connection, &self.kind, self.agreement.queues, deadline)
        });
        match config {
            Ok(config) => {
                self.config_writes.forget();
                self.agreement.config = config;
                self.show_config();
                Ok(())
            }
            Err(fault) => {
                self.config_writes.lose();
                Err(fault)
            }
        }
    }

    /// What the driver has written and no back end has confirmed stays as it is shown.
    fn show_config(&self) {
        if self.config_writes.all().is_empty() {
            self.shared.set_config(self.agreement.config.clone(), &self.mailbox);
        }
    }

    /// Starts what the guest has set up on the back end that there is, or will be.
    fn start(&mut self) -> Result<(), Fault> {
        if self.activation.is_some() && !self.started && !self.abandoned {
            self.begin_anew()?;
        }
        let Some(activation) = &self.activation else { return Ok(()) };
        if self.abandoned {
            self.shared.fail();
            return Ok(());
        }
        let Link::Up(connection) = &self.link else { return Ok(()) };
        let from = if self.started { From::Predecessor } else { From::Reset };
        if let (From::Reset, Some(region)) = (from, &self.shares.inflight) {
            region.clear();
        }
        match from {
            From::Reset => self.watchdog.forget(),
            From::Predecessor | From::Drained(_) => self.watchdog.restart(Instant::now()),
        }
        // Before the first message: what fails half-way must be stopped, or taken up, as a whole.
        self.started = true;
        session::prepare(connection, activation, &self.shares, self.limit)?;
        session::start(connection, activation, &self.shares, from, self.limit)
    }

    /// Goes on with another back end.
    fn reconnect(&mut self, socket: OwnedFd, tell: &Tell<'_>) -> Result<(), Fault> {
        // The predecessor is dead, or has no connection from here on: nobody writes to guest memory for this device.
        self.link = Link::Gone;
        if self.reset_waits {
            self.confirm();
        }
        if let Some(channel) = &mut self.channel {
            channel.renew();
        }
        let mut connection = Connection::new(socket);
        let outcome = self.agree(&mut connection);
        // From here on its faults are those of this connection.
        self.link = Link::Up(connection);
        self.adopt(outcome?);
        // Before it has the rings: the driver may count on them already.
        self.write_config()?;
        self.start()?;
        tell(FromCore::Reconnected(Reconnected { slot: self.slot }), None);
        Ok(())
    }

    /// A handshake, and whether what comes of it can take the place of what there was.
    fn agree(&self, connection: &mut Connection) -> Result<Agreement, Fault> {
        let channel = self.channel.as_ref().and_then(BackendChannel::descriptor);
        let wanted = Wanted { kind: self.kind, queues: self.agreement.queues, limit: self.limit, channel };
        let agreement = session::handshake(connection, &wanted)?;
        let accepted = self.activation.as_ref().map_or(0, |activation| activation.features);
        // As it was last, or at the start: what a predecessor announced before it was lost may have been a lie, and is no
        // measure of who comes after it.
        let as_it_was = |config: &[u8]| {
            let mut old = Agreement { config: config.to_vec(), ..self.agreement.clone() };
            self.config_writes.excuse(&mut old.config, &agreement.config);
            if agreement.announces_changes() {
                self.kind.excuse_settings(&mut old.config, &agreement.config);
            }
            agreement.succeeds(&old, accepted)
        };
        as_it_was(&self.agreement.config).or_else(|fault| as_it_was(&self.attached).map_err(|_| fault))?;
        if self.shares.inflight.is_some() && !agreement.tracks_requests() {
            return Err(Fault::Lacks("VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD, as its predecessor did"));
        }
        Ok(agreement)
    }

    fn adopt(&mut self, agreement: Agreement) {
        self.shared.narrow_features(agreement.features);
        self.agreement = Agreement { features: self.agreement.features & agreement.features, ..agreement };
        self.show_config();
    }

    /// Goes on with another back end than the one that serves, or with that as before. A fault is that of the one that is
    /// in use when it is returned.
    fn replace(&mut self, socket: OwnedFd, tell: &Tell<'_>) -> Result<(), Fault> {
        let refuse = |text: &str| tell(FromCore::Refused(Refused::new(self.slot, text)), None);
        let Link::Up(current) = &self.link else {
            refuse("the device has no back end that could be replaced");
            return Ok(());
        };
        let activation = self.activation.clone().filter(|_| self.started);
        let mut successor = Connection::new(socket);
        // Until here the old one serves, and a refusal leaves it alone.
        let prepared = self.agree(&mut successor).and_then(|agreement| {
            let activation = activation.iter();
            let mut prepared =
                activation.map(|it| session::prepare(&successor, it, &self.shares, self.limit));
            prepared.next().unwrap_or(Ok(())).map(|()| agreement)
        });
        let agreement = match prepared {
            Ok(agreement) => agreement,
            Err(fault) => {
                refuse(&fault.to_string());
                return Ok(());
            }
        };
        let bases = match activation.as_ref().map(|it| self.drain(current, it)).unwrap_or_else(|| Ok(vec![]))
        {
            Ok(bases) => bases,
            Err(fault) => {
                refuse("the one that serves failed when its rings were to be drained");
                return Err(fault);
            }
        };
        self.adopt(agreement);
        self.watchdog.restart(Instant::now());
        let started = activation.map_or(Ok(()), |activation| {
            session::start(&successor, &activation, &self.shares, From::Drained(&bases), self.limit)
        });
        let old = std::mem::replace(&mut self.link, Link::Up(successor));
        // It is closed when the launcher has been told: a back end ends when its connection does, and an end that comes
        // before the word is the death of the one that serves.
        let old = if let Link::Up(old) = old { Some(old) } else { None };
        tell(FromCore::Reconnected(Reconnected { slot: self.slot }), old);
        started
    }

    /// Has all rings drained, and says where they stand.
    fn drain(&self, connection: &Connection, activation: &Activation) -> Result<Vec<u16>, Fault> {
        let bases = session::stop(connection, &activation.rings, self.limit)?;
        let with_rings = activation.rings.iter().zip(bases);
        let index = |(ring, base): (&Ring, u32)| {
            u16::try_from(base).map_err(|_| Fault::Base { queue: ring.index, base })
        };
        with_rings.map(index).collect()
    }

    fn reset(&mut self) -> Result<(), Fault> {
        (self.reset_waits, self.anew) = (true, true);
        // What the driver wrote last has gone with the rest of the mailbox.
        self.show_config();
        let stopped = match &self.link {
            Link::Up(connection) if self.started => {
                // Where they stand is of no use: after a reset the guest starts at 0.
                session::stop(connection, self.rings(), self.limit).map(drop)
            }
            Link::Up(_) | Link::Gone => Ok(()),
            Link::Lost(_) => return Ok(()),
        };
        stopped?;
        // Before the driver sees that it is reset: what it reads from then on is what the device has after that.
        let heard = self.begin_anew();
        self.confirm();
        heard
    }

    /// Has the back end forget what an earlier driver told it, before it hears anything of the next one's, and shows what its
    /// configuration is then.
    fn begin_anew(&mut self) -> Result<(), Fault> {
        let Link::Up(connection) = &self.link else { return Ok(()) };
        if !self.anew {
            return Ok(());
        }
        if session::reset(connection, &self.agreement, self.limit)? && self.kind.config_size > 0 {
            let deadline = Deadline::after(self.limit);
            self.agreement.config =
                session::read_config(connection, &self.kind, self.agreement.queues, deadline)?;
            self.show_config();
        }
        self.anew = false;
        Ok(())
    }

    /// Nobody writes to guest memory for this device any more.
    fn confirm(&mut self) {
        if std::mem::take(&mut self.reset_waits) {
            self.activation = None;
            self.started = false;
            self.shared.reset_done();
        }
    }

    fn rings(&self) -> &[Ring] {
        self.activation.as_ref().map_or(&[], |activation| &activation.rings)
    }

    fn lose(&mut self, fault: Fault, tell: &Tell<'_>) {
        self.link = match std::mem::replace(&mut self.link, Link::Gone) {
            Link::Up(connection) => {
                let mut lost = fault.loss(self.slot, &self.name);
                if self.started && self.shares.inflight.is_none() {
                    // What was in flight nobody can tell: the driver has to begin anew.
                    self.activation = None;
                    self.shared.fail();
                    lost.text.push_str(NO_ACCOUNT);
                }
                tell(FromCore::DeviceLost(lost), None);
                // Whether it is only lost or gone as well, the next wait says.
                Link::Lost(connection)
            }
            Link::Lost(connection) if fault != Fault::Closed => Link::Lost(connection),
            Link::Lost(_) | Link::Gone => {
                self.confirm();
                Link::Gone
            }
        };
    }
}
