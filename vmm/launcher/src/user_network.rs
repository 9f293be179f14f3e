//! The network of a user without privileges: passt(1), a program of the distribution's, which is started with the machine
//! and ends with it. It takes the guest's frames from a stream and opens sockets of the host's for what they ask for.
//!
//! It confines itself: namespaces of its own but for the network, an empty root, no capabilities, a list of system calls, and
//! as root it becomes nobody. From here it has what cannot break that: an empty environment, exactly four descriptors, no
//! privileges by exec, no core dumps, a session of its own. It hears the guest's frames, and nobody of ours hears it but
//! `device-net`, and the log.
//!
//! It ends when its stream does (`--fd` means to serve one), which is when the device's last process and the spawner are gone,
//! whatever they died of. Besides it is killed when the machine ends, and by the kernel when the launcher dies; neither
//! reaches root's, which has changed its ids. When it ends before, the link of the guest is down, and that is all.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::pipe2;
use sandbox_policies::cgroup::Group;
use sandbox_policies::spawn::foreign::{self, Foreign};
use sandbox_policies::spawn::{Child, Ended};

use crate::error::Error;
use crate::exit_code::Code;
use crate::open;
use crate::supervise::log_relay::LogRelay;

/// The program's, in what is said of a machine's processes.
pub const NAME: &str = "passt";
/// Milliseconds that it has to end by itself.
const LAST_WORK: u16 = 2000;
/// In the foreground, saying errors alone, on descriptor 3. The gateway's address is not the host's loopback: what listens
/// there counts on strangers not reaching it.
const ARGUMENTS: [&str; 5] = ["--foreground", "--quiet", "--fd=3", "--no-map-gw", "--mtu"];

/// A passt that was started, until it is dropped.
#[derive(Debug)]
pub struct UserNetwork {
    /// The device whose network it is.
    pub device: String,
    /// The process.
    pub child: Child,
    /// What it writes to its descriptor 2.
    pub log: LogRelay,
    has_ended: bool,
    /// Removed once the process is gone.
    _group: Option<Group>,
}

/// Looks whether `path` can be the program.
pub fn look(path: &Path) -> Result<OwnedFd, Error> {
    open::program(path).map_err(|error| {
        let what = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "it is not there; install the package passt, or name it with passt=PATH"
            }
            std::io::ErrorKind::PermissionDenied => "no permission to read it",
            _ => "it is no file that can be opened",
        };
        Error::Path { what: "start", path: path.to_owned(), text: what.to_owned(), code: Code::Resource }
    })
}

/// One that can be started.
#[derive(Debug)]
pub struct Planned {
    /// The device whose network it is.
    pub device: String,
    program: OwnedFd,
    /// What its driver is told of the largest packet.
    mtu: u16,
    /// Its end of the stream.
    stream: OwnedFd,
}

impl Planned {
    /// The program at `path` for `device`, whose driver is told `mtu`. With it our end of its stream.
    pub fn new(device: &str, path: &Path, mtu: u16) -> Result<(Planned, OwnedFd), Error> {
        let program = look(path)?;
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)
            .map_err(Error::system("make a socket pair"))?;
        protocol::take_no_descriptors(&ours);
        protocol::take_no_descriptors(&theirs);
        Ok((Planned { device: device.to_owned(), program, mtu, stream: theirs }, ours))
    }

    /// Starts it, in this control group.
    pub fn start(self, group: Option<Group>) -> Result<UserNetwork, Error> {
        let Planned { device, program, mtu, stream } = self;
        let (log, their_log) = pipe2(OFlag::O_CLOEXEC).map_err(Error::system("make a pipe"))?;
        fcntl(&log, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(Error::system("set a pipe non-blocking"))?;
        let (null, mtu) = (open::null()?, mtu.to_string());
        let mut arguments = ARGUMENTS.to_vec();
        arguments.push(&mtu);
        let child = foreign::spawn(&Foreign {
            program: program.as_fd(),
            name: NAME,
            arguments: &arguments,
            null: null.as_fd(),
            log: their_log.as_fd(),
            socket: stream.as_fd(),
            group: group.as_ref().map(AsFd::as_fd),
        })?;
        let log = LogRelay::new(&format!("{device}, {NAME}"), log);
        Ok(UserNetwork { device, child, log, has_ended: false, _group: group })
    }
}

impl UserNetwork {
    /// Whether its end has been seen.
    pub fn is_over(&self) -> bool {
        self.has_ended
    }

    /// Relays what it says; false once it says nothing any more.
    pub fn relay(&mut self) -> bool {
        self.log.relay()
    }

    /// How it ended, if it has. Says so once.
    pub fn ended(&mut self) -> Result<Option<Ended>, Error> {
        if self.has_ended {
            return Ok(None);
        }
        let ended = self.child.try_wait()?;
        if ended.is_some() {
            self.has_ended = true;
            self.log.relay_rest();
        }
        Ok(ended)
    }
}

impl Drop for UserNetwork {
    fn drop(&mut self) {
        // Root's is nobody's process and in nobody's namespace: without capabilities we cannot kill it, but its stream is
        // closed by now. All of this fails for one that is dead and reaped.
        let _ = self.child.kill();
        let mut end = [PollFd::new(self.child.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut end, PollTimeout::from(LAST_WORK));
        let _ = self.child.try_wait();
    }
}
