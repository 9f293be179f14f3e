//! The spawner: the part of the launcher that can spawn a device's program again once the launcher itself, confined,
//! can spawn nothing any more.
//!
//! It is forked off before the first program is spawned, holds the device programs and what they serve, and does two
//! things. Told the number of a device, and whether a request may have ended its predecessor, it spawns that device's
//! program, or one that comes along for it, with the same resource and in the same confinement, as a child of the
//! launcher's, and sends the launcher what belongs to it. Told the number of a device that a back end of somebody else serves, it connects to the socket that
//! the user named for it and sends the launcher the connection. It hears nobody but the launcher and reads nothing but
//! that; so all that a launcher that was taken over gains by it is one more confined device program, or one more
//! connection to a back end that the machine has anyway. It ends with the launcher, or when that closes the channel; then
//! it removes the names on which the machine listened.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::{
    Channel, Connect, Failure, FailureKind, FromSpawner, NotConnected, Phase, Respawn, SpawnFailed, Spawned,
    ToSpawner,
};
use sandbox_policies::spawn::{Child, Plan, spawner};
use sandbox_policies::{KeptCapabilities, Requirement};

use crate::device_process::DeviceProcess;
use crate::error::Error;
use crate::listening::Listening;
use crate::open;
use crate::spawn::{Parent, Spawning};

const NAME: &str = "the spawner";
/// Milliseconds that it has to end by itself.
const LAST_WORK: u16 = 2000;

/// All that the spawner can make again.
#[derive(Debug)]
pub struct Makings<'a> {
    /// Devices that programs of ours serve, numbered from 0.
    pub devices: &'a [DeviceProcess<'a>],
    /// The sockets of back ends that somebody else runs, by the PCI device numbers of their devices.
    pub sockets: &'a [(u8, &'a Path)],
    /// On what the machine listens: the spawner removes the names when it ends.
    pub listening: &'a [&'a Listening],
}

impl Makings<'_> {
    /// What of root's capabilities it takes to make these.
    fn capabilities(&self) -> KeptCapabilities {
        let mut kept = KeptCapabilities::IDS;
        if !self.sockets.is_empty() || !self.listening.is_empty() {
            kept = kept.and(KeptCapabilities::FILES);
        }
        for Spawning { requirement, group, directory, identity, .. } in
            self.devices.iter().map(|device| &device.spawning)
        {
            if *requirement == Requirement::Available {
                return KeptCapabilities::ALL;
            }
            if identity.outer_uid == 0 {
                kept = kept.and(KeptCapabilities::ROOT);
            }
            if group.is_some() {
                kept = kept.and(KeptCapabilities::FILES);
            }
            if directory.is_some() {
                kept = kept.and(KeptCapabilities::MOUNTS);
            }
        }
        kept
    }
}

/// The launcher's hold on its spawner. Dropping it ends it.
#[derive(Debug)]
pub struct Spawner {
    /// There until it is dropped.
    channel: Option<Channel>,
    child: Child,
}

impl Spawner {
    /// Forks it off.
    pub fn fork(makings: &Makings<'_>, null: BorrowedFd<'_>) -> Result<Spawner, Error> {
        let wrong = |error| Error::HandOver { name: NAME.to_owned(), error };
        let (channel, theirs) = Channel::pair().map_err(wrong)?;
        let mut kept = vec![theirs.as_fd()];
        for device in makings.devices {
            kept.extend([device.resource, device.spawning.executable.fd.as_fd()]);
            kept.extend(&device.more);
            kept.extend(device.spawning.group);
            kept.extend(device.spawning.directory.map(|directory| directory.descriptor));
        }
        let child = spawner::fork("vmm", null, &kept, makings.capabilities(), || serve(&theirs, makings))?;
        channel.set_nonblocking(true).map_err(wrong)?;
        Ok(Spawner { channel: Some(channel), child })
    }

    /// Its pid, as we see it.
    pub fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// Asks for a successor. The answer is an event.
    pub fn ask(&self, request: ToSpawner, program: Option<BorrowedFd<'_>>) -> Result<(), protocol::Error> {
        let fds: Vec<BorrowedFd<'_>> = program.into_iter().collect();
        let gone = protocol::Error::System { call: "sendmsg", errno: Errno::EPIPE };
        self.channel.as_ref().map_or(Err(gone), |channel| channel.send(&request, &fds))
    }

    /// The next answer, if it has come; `None` when the spawner is gone.
    pub fn answer(&self) -> Result<Option<(FromSpawner, Vec<OwnedFd>)>, protocol::Error> {
        self.channel.as_ref().map_or(Ok(None), |channel| channel.receive(Phase::Serving))
    }
}

impl AsFd for Spawner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_ref().map_or(self.child.as_fd(), AsFd::as_fd)
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        // It ends by itself when the channel does, and may have something to do before; but nothing waits for it for ever.
        // All of this fails for one that is dead and reaped.
        self.channel = None;
        let mut end = [PollFd::new(self.child.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut end, PollTimeout::from(LAST_WORK));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The spawner's life.
fn serve(channel: &Channel, makings: &Makings<'_>) {
    while let Ok(Some((request, fds))) = channel.receive(Phase::Serving) {
        let done = match request {
            ToSpawner::Respawn(respawn) => respond(channel, respawn, fds.first(), makings),
            ToSpawner::Connect(Connect { slot }) => connect(channel, slot, makings),
        };
        if done.is_none() {
            break;
        }
    }
    // The launcher is gone or wants no more of us; confined, it could not do this itself.
    makings.listening.iter().for_each(|socket| socket.remove());
}

/// `None`: there is no such device, or nobody to tell.
fn respond(
    channel: &Channel,
    respawn: Respawn,
    program: Option<&OwnedFd>,
    makings: &Makings<'_>,
) -> Option<()> {
    let device = respawn.device;
    let process = makings.devices.get(usize::from(device))?;
    let mut launcher = Launcher { left: Vec::new() };
    let Err(error) = spawn(channel, respawn, program, process, &mut launcher) else { return Some(()) };
    let failure = Failure::new(FailureKind::Internal, &error.to_string());
    let left: Vec<BorrowedFd<'_>> = launcher.left.iter().map(AsFd::as_fd).collect();
    let failed = SpawnFailed { device, failure, left: launcher.count() };
    channel.send(&FromSpawner::Failed(failed), &left).ok()
}

/// Whose children the spawner's are: it alone can wait for them.
struct Launcher {
    /// Such as came to nothing.
    left: Vec<Child>,
}

impl Launcher {
    fn count(&self) -> u8 {
        u8::try_from(self.left.len()).unwrap_or(u8::MAX)
    }
}

impl Parent for Launcher {
    fn spawn(&mut self, plan: &Plan<'_>) -> Result<Child, sandbox_policies::Error> {
        spawner::spawn_sibling(plan, &mut |failed| self.left.push(failed))
    }

    fn bury(&mut self, child: Child) {
        self.left.push(child);
    }
}

/// Connects to a path that was given on the command line: the request has its number and nothing else. What connects is
/// not what serves: the connection goes on to the core, which says the first word on it.
fn connect(channel: &Channel, slot: u8, makings: &Makings<'_>) -> Option<()> {
    let (_, path) = makings.sockets.iter().find(|(of, _)| *of == slot)?;
    match open::back_end_again(path) {
        Ok(socket) => channel.send(&FromSpawner::Connected(Connect { slot }), &[socket.as_fd()]).ok(),
        Err(why) => {
            let failure = Failure::new(FailureKind::Device, &why);
            channel.send(&FromSpawner::NotConnected(NotConnected { slot, failure }), &[]).ok()
        }
    }
}

fn spawn(
    channel: &Channel,
    respawn: Respawn,
    program: Option<&OwnedFd>,
    process: &DeviceProcess<'_>,
    launcher: &mut Launcher,
) -> Result<(), Error> {
    let Respawn { device, blamed, program: _ } = respawn;
    let program = program.map(AsFd::as_fd);
    let ((child, control, log), front_end) = process.spawn(launcher, blamed, program)?;
    let wrong = |error| Error::HandOver { name: process.spawning.name.to_owned(), error };
    // The launcher waits for nobody, and by then has no means to say so.
    control.set_nonblocking(true).map_err(wrong)?;
    let answer = Spawned::new(device, child.pid(), child.lacking(), launcher.count());
    let mut fds = vec![child.as_fd(), control.as_fd(), log.as_fd(), front_end.as_fd()];
    fds.extend(launcher.left.iter().map(AsFd::as_fd));
    channel.send(&FromSpawner::Spawned(answer), &fds).map_err(wrong)
}
