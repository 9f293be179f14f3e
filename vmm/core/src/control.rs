//! The control loop: the core's one thread that hears the launcher, reads the console and ends the machine.
//!
//! It never waits for the guest: input goes no further than the UART's FIFO has room, and is taken up again
//! when the guest has made room.

use crate::bus::Bus;
use crate::console::ConsoleOutput;
use crate::frontend::Succession;
use crate::notices::{Notices, Waiting};
use crate::{Error, log};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use protocol::{Channel, FromCore, Phase, ToCore};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use vmm_sys_util::eventfd::EventFd;

const CHANNEL: u64 = 0;
const NOTICES: u64 = 1;
const INPUT: u64 = 2;
const INPUT_ROOM: u64 = 3;

/// How long the last lines of a guest may take to reach a console that is slow or stalled.
const LAST_LINES: Duration = Duration::from_secs(2);

/// What the loop looks after.
pub struct Control<'a> {
    channel: &'a Channel,
    epoll: Epoll,
    bus: Arc<Bus>,
    notices: Arc<Notices>,
    output: Arc<ConsoleOutput>,
    power_button: EventFd,
    input: Option<Input>,
}

/// Console input.
struct Input {
    fd: OwnedFd,
    /// Files and /dev/null are always readable, and epoll takes none of them.
    always_readable: bool,
}

/// What a message or an event means for the loop.
enum Next {
    Go,
    End,
}

impl<'a> Control<'a> {
    /// A loop that is ready to run; nothing is opened or made after this.
    ///
    /// # Errors
    /// The epoll instance could not be set up.
    pub fn new(
        channel: &'a Channel,
        bus: Arc<Bus>,
        notices: Arc<Notices>,
        output: Arc<ConsoleOutput>,
        power_button: EventFd,
        input: Option<OwnedFd>,
    ) -> Result<Self, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(Error::system("epoll_create1"))?;
        let watch = |token: u64| EpollEvent::new(EpollFlags::EPOLLIN, token);
        epoll.add(channel, watch(CHANNEL)).map_err(Error::system("epoll_ctl"))?;
        epoll.add(notices.event(), watch(NOTICES)).map_err(Error::system("epoll_ctl"))?;
        let input = input.map(|fd| Input::new(fd, &epoll)).transpose()?;
        if input.is_some() {
            epoll.add(bus.serial.input_room(), watch(INPUT_ROOM)).map_err(Error::system("epoll_ctl"))?;
        }
        Ok(Self { channel, epoll, bus, notices, output, power_button, input })
    }

    /// Serves until the guest or the launcher ends the machine.
    ///
    /// # Errors
    /// The launcher broke the protocol, or a system call failed that should not.
    pub fn serve(mut self) -> Result<(), Error> {
        if self.input.as_ref().is_some_and(|input| input.always_readable) {
            self.read_input();
        }
        loop {
            let mut events = [EpollEvent::empty(); 8];
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(Error::System { call: "epoll_wait", errno }),
            };
            for event in events.iter().take(count) {
                let next = match event.data() {
                    CHANNEL => self.hear()?,
                    NOTICES => self.take_notices()?,
                    INPUT => {
                        self.read_input();
                        Next::Go
                    }
                    _ => {
                        self.input_room();
                        Next::Go
                    }
                };
                if matches!(next, Next::End) {
                    return Ok(());
                }
            }
        }
    }

    /// One message of the launcher.
    fn hear(&self) -> Result<Next, Error> {
        let Some((message, fds)) = self.channel.receive::<ToCore>(Phase::Serving)? else {
            return Ok(Next::End);
        };
        match message {
            ToCore::PowerButton => {
                self.power_button.write(1).map_err(Error::io("pressing the power button"))?
            }
            ToCore::Query => {
                let dropped = [("console_dropped", self.bus.serial.dropped())];
                self.channel.send(&FromCore::Counters(self.bus.counters.read(dropped)), &[])?;
            }
            ToCore::Pause | ToCore::Resume => {
                log::line(format_args!("a running machine cannot be paused yet"))
            }
            ToCore::Reconnect(device) => {
                // Of what kind it is shows when the front end uses it: the calls that tell are gone with set-up.
                let successor = fds.into_iter().next().map(Succession::Successor);
                self.succeed(device.slot, successor.unwrap_or(Succession::Abandoned))?;
            }
            ToCore::Replace(device) => {
                let successor = fds.into_iter().next().map(Succession::Replacement);
                let successor = successor.ok_or(Error::HandOver("a replacement without a socket"))?;
                self.succeed(device.slot, successor)?;
            }
            ToCore::Abandon(device) => self.succeed(device.slot, Succession::Abandoned)?,
            _ => return Ok(Next::End),
        }
        Ok(Next::Go)
    }

    fn succeed(&self, slot: u8, succession: Succession) -> Result<(), Error> {
        let found = self.bus.pci.succeed(slot, succession);
        found.then_some(()).ok_or(Error::HandOver("a successor for a device that does not exist"))
    }

    /// What vCPUs and front ends have to tell.
    fn take_notices(&self) -> Result<Next, Error> {
        let Waiting { end, of_devices } = self.notices.take();
        for (message, closed_then) in of_devices {
            self.channel.send(&message, &[])?;
            drop(closed_then);
        }
        let Some(end) = end else { return Ok(Next::Go) };
        self.output.drain(LAST_LINES);
        self.channel.send(&end, &[])?;
        Ok(Next::End)
    }

    /// Moves what there is room for from the console to the UART, then waits for more: of input if there is
    /// still room, else of room.
    fn read_input(&mut self) {
        let Some(input) = &self.input else { return };
        loop {
            let room = self.bus.serial.input_capacity();
            if room == 0 {
                return;
            }
            let mut bytes = vec![0; room];
            match nix::unistd::read(&input.fd, &mut bytes) {
                Ok(count) if count > 0 => {
                    self.bus.serial.input(bytes.get(..count).unwrap_or_default());
                    if !input.always_readable {
                        break;
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                // Its end, or a terminal that hung up. The guest runs on without.
                _ => {
                    self.input = None;
                    return;
                }
            }
        }
        input.watch_again(&self.epoll);
    }

    /// The guest has emptied the FIFO.
    fn input_room(&mut self) {
        // Nobody else reads it, and a counter of zero is no matter.
        let _spurious = self.bus.serial.input_room().read();
        match &self.input {
            Some(input) if input.always_readable => self.read_input(),
            Some(input) => input.watch_again(&self.epoll),
            None => {}
        }
    }
}

impl Input {
    /// Watched once at a time, for a FIFO that is full would otherwise make the loop spin.
    fn new(fd: OwnedFd, epoll: &Epoll) -> Result<Self, Error> {
        match epoll.add(&fd, Self::once()) {
            Ok(()) => Ok(Self { fd, always_readable: false }),
            Err(Errno::EPERM) => Ok(Self { fd, always_readable: true }),
            Err(errno) => Err(Error::System { call: "epoll_ctl", errno }),
        }
    }

    fn once() -> EpollEvent {
        EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, INPUT)
    }

    fn watch_again(&self, epoll: &Epoll) {
        if self.always_readable {
            return;
        }
        if let Err(errno) = epoll.modify(&self.fd, &mut Self::once()) {
            log::line(format_args!("console input is lost: epoll_ctl: {errno}"));
        }
    }
}
