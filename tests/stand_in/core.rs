//! A core without a guest: it sees its disk's back end go and takes the successor.
//!
//! The first word of the kernel's command line says what it does meanwhile: `idle` leaves the disk alone, `drive` keeps so
//! many reads in flight as the second word says, and writes the time of the first that comes back from each back end to the
//! console.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::{
    Channel, DeviceLost, Exit, FromCore, Message, Phase, Ready, Reconnect, Reconnected, ToCore, frame,
};
use system_tests::front_end::{FrontEnd, Kind};
use system_tests::stand_ins::monotonic;
use system_tests::{Error, Result, packet};

/// The disk's PCI device number.
const SLOT: u8 = 1;
/// Sectors that are read.
const SECTORS: u64 = 8;

pub fn run() -> Result<()> {
    let control = control()?;
    let Some((ToCore::Setup(setup), fds)) = receive(&control, Phase::HandOver)? else {
        return Err(Error::Unexpected("no set-up".to_owned()));
    };
    // KVM, the memory, the kernel, and the console's two ends, as there is no initrd.
    let mut files: Vec<File> = fds.into_iter().map(File::from).collect();
    let (Some(console), true) = (files.pop(), files.len() > 3) else {
        return Err(Error::Unexpected("no console".to_owned()));
    };
    let memory = files.swap_remove(1);
    let mut sockets = Vec::new();
    loop {
        match receive(&control, Phase::HandOver)? {
            Some((ToCore::Start, _)) => break,
            Some((_, fds)) => sockets.extend(fds),
            None => return Ok(()),
        }
    }
    let socket = sockets.pop().ok_or_else(|| Error::Unexpected("no device".to_owned()))?;
    let mut words = setup.command_line.split_whitespace();
    let size = setup.memory.first().map_or(0, |region| region.size);
    let disk = match (words.next(), words.next().and_then(|depth| depth.parse().ok())) {
        (Some("drive"), Some(depth)) => Disk::driven(FrontEnd::new(memory, size)?, depth, socket)?,
        _ => Disk::Idle(Some(socket)),
    };
    Core { control, console, disk, is_first: true }.serve()
}

/// The inherited control channel. It is sent to ourselves, since a descriptor that was received is one that is owned; to
/// adopt one by its number takes unsafe code.
fn control() -> Result<Channel> {
    let (one, other) = Channel::pair().map_err(unexpected)?;
    let carrier = ToCore::Reconnect(Reconnect { slot: SLOT });
    let body = carrier.encode().map_err(unexpected)?;
    let frame = frame::encode(carrier.kind(), &body, 1).map_err(unexpected)?;
    packet::send(one.as_fd().as_raw_fd(), &frame, &[3])?;
    let received = receive(&other, Phase::Serving)?.and_then(|(_, mut fds)| fds.pop());
    let owned = received.ok_or_else(|| Error::Unexpected("descriptor 3 was not received".to_owned()))?;
    Channel::from_fd(owned).map_err(unexpected)
}

fn receive(control: &Channel, phase: Phase) -> Result<Option<(ToCore, Vec<OwnedFd>)>> {
    control.receive(phase).map_err(unexpected)
}

fn unexpected(error: protocol::Error) -> Error {
    Error::Unexpected(error.to_string())
}

enum Disk {
    /// Its connection.
    Idle(Option<OwnedFd>),
    Driven(Box<FrontEnd>),
}

impl Disk {
    fn driven(mut front_end: FrontEnd, depth: u16, socket: OwnedFd) -> Result<Self> {
        front_end.attach(socket)?;
        for slot in 0..depth {
            front_end.submit(slot, Kind::Read, u64::from(slot).wrapping_mul(SECTORS))?;
        }
        Ok(Self::Driven(Box::new(front_end)))
    }

    /// What to wait for besides the launcher: the end of the connection, and requests that come back.
    fn events(&self) -> Vec<PollFd<'_>> {
        match self {
            Self::Idle(socket) => {
                socket.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::empty())).collect()
            }
            Self::Driven(front_end) => {
                let call = PollFd::new(front_end.call().as_fd(), PollFlags::POLLIN);
                let socket = front_end.socket().map(|it| PollFd::new(it.as_fd(), PollFlags::empty()));
                socket.into_iter().chain([call]).collect()
            }
        }
    }

    fn attach(&mut self, socket: OwnedFd) -> Result<()> {
        match self {
            Self::Idle(place) => *place = Some(socket),
            Self::Driven(front_end) => front_end.attach(socket)?,
        }
        Ok(())
    }

    fn detach(&mut self) {
        match self {
            Self::Idle(socket) => *socket = None,
            Self::Driven(front_end) => front_end.detach(),
        }
    }
}

struct Core {
    control: Channel,
    console: File,
    disk: Disk,
    /// No request has come back from this back end yet.
    is_first: bool,
}

impl Core {
    fn serve(mut self) -> Result<()> {
        self.say(&FromCore::Ready(Ready { landlock_abi: 0, lacking: Vec::new() }))?;
        loop {
            let mut events = vec![PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
            events.extend(self.disk.events());
            poll(&mut events, PollTimeout::NONE)
                .map_err(|errno| Error::Unexpected(format!("cannot wait: {errno}")))?;
            let seen: Vec<PollFlags> = events.iter().filter_map(PollFd::revents).collect();
            let hung_up = seen.iter().skip(1).any(|seen| seen.contains(PollFlags::POLLHUP));
            self.take_completed()?;
            if hung_up {
                self.disk.detach();
                // All that it gave back before its end.
                self.take_completed()?;
                self.is_first = true;
                self.say(&FromCore::DeviceLost(DeviceLost::new(SLOT, "it hung up")))?;
            }
            if seen.first().is_some_and(|seen| !seen.is_empty()) && !self.heed()? {
                return Ok(());
            }
        }
    }

    /// What the launcher says; whether to go on.
    fn heed(&mut self) -> Result<bool> {
        match receive(&self.control, Phase::Serving)? {
            Some((ToCore::PowerButton, _)) => {
                self.say(&FromCore::Exited(Exit::PowerOff))?;
                return Ok(false);
            }
            Some((ToCore::Stop, _)) | None => return Ok(false),
            Some((ToCore::Reconnect(Reconnect { slot }), fds)) => {
                for socket in fds {
                    self.disk.attach(socket)?;
                }
                self.say(&FromCore::Reconnected(Reconnected { slot }))?;
            }
            Some(_) => {}
        }
        Ok(true)
    }

    /// Each request that has come back is made once more.
    fn take_completed(&mut self) -> Result<()> {
        let Disk::Driven(front_end) = &mut self.disk else { return Ok(()) };
        while let Some((slot, status)) = front_end.completed()? {
            if status != 0 {
                return Err(Error::Unexpected(format!("request {slot} ended with status {status}")));
            }
            if std::mem::take(&mut self.is_first) {
                let line = format!("{}\n", monotonic()?);
                self.console.write_all(line.as_bytes()).map_err(|source| Error::System {
                    what: "cannot write to the console".to_owned(),
                    source,
                })?;
            }
            front_end.submit(slot, Kind::Read, u64::from(slot).wrapping_mul(SECTORS))?;
        }
        Ok(())
    }

    fn say(&self, message: &FromCore) -> Result<()> {
        self.control.send(message, &[]).map_err(unexpected)
    }
}
