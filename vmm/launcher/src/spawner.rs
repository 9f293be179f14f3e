//! The spawner: the part of the launcher that can spawn a device's program again once the launcher itself, confined,
//! can spawn nothing any more.
//!
//! It is forked off before the first program is spawned, holds the device programs and what they serve, and does one
//! thing: told the number of a device, and whether a request may have ended its predecessor, it spawns that device's program with the same resource and in the same
//! confinement, as a child of the launcher's, and sends the launcher what belongs to it. It hears nobody but the
//! launcher and reads nothing but that; so all that a launcher that was taken over gains by it is one more
//! confined device program. It ends with the launcher, or when that closes the channel.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::{Channel, Failure, FailureKind, FromSpawner, Phase, Respawn, SpawnFailed, Spawned, ToSpawner};
use sandbox_policies::spawn::{Child, spawner};

use crate::device_process::DeviceProcess;
use crate::error::Error;

const NAME: &str = "the spawner";

/// The launcher's hold on its spawner. Dropping it ends it.
#[derive(Debug)]
pub struct Spawner {
    channel: Channel,
    child: Child,
}

impl Spawner {
    /// Forks it off, for these devices, numbered from 0.
    pub fn fork(devices: &[DeviceProcess<'_>], null: BorrowedFd<'_>) -> Result<Spawner, Error> {
        let wrong = |error| Error::HandOver { name: NAME.to_owned(), error };
        let (channel, theirs) = Channel::pair().map_err(wrong)?;
        let mut kept = vec![theirs.as_fd()];
        for device in devices {
            kept.extend([device.resource, device.spawning.executable.fd.as_fd()]);
            kept.extend(device.spawning.group);
        }
        let child = spawner::fork("vmm", null, &kept, || serve(&theirs, devices))?;
        channel.set_nonblocking(true).map_err(wrong)?;
        Ok(Spawner { channel, child })
    }

    /// Asks for a successor. The answer is an event.
    pub fn ask(&self, respawn: Respawn) -> Result<(), protocol::Error> {
        self.channel.send(&ToSpawner::Respawn(respawn), &[])
    }

    /// The next answer, if it has come; `None` when the spawner is gone.
    pub fn answer(&self) -> Result<Option<(FromSpawner, Vec<OwnedFd>)>, protocol::Error> {
        self.channel.receive(Phase::Serving)
    }
}

impl AsFd for Spawner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        // They fail for one that is dead and reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The spawner's life.
fn serve(channel: &Channel, devices: &[DeviceProcess<'_>]) {
    while let Ok(Some((ToSpawner::Respawn(respawn), _))) = channel.receive(Phase::Serving) {
        let device = respawn.device;
        let Some(process) = devices.get(usize::from(device)) else { return };
        if let Err(error) = spawn(channel, respawn, process) {
            let failure = Failure::new(FailureKind::Internal, &error.to_string());
            let failed = FromSpawner::Failed(SpawnFailed { device, failure });
            if channel.send(&failed, &[]).is_err() {
                return;
            }
        }
    }
}

fn spawn(channel: &Channel, respawn: Respawn, process: &DeviceProcess<'_>) -> Result<(), Error> {
    let Respawn { device, blamed } = respawn;
    let ((child, control, log), front_end) = process.spawn(spawner::spawn_sibling, blamed)?;
    let wrong = |error| Error::HandOver { name: process.spawning.name.to_owned(), error };
    // The launcher waits for nobody, and by then has no means to say so.
    control.set_nonblocking(true).map_err(wrong)?;
    let answer = FromSpawner::Spawned(Spawned { device, pid: child.pid() });
    let fds = [child.as_fd(), control.as_fd(), log.as_fd(), front_end.as_fd()];
    channel.send(&answer, &fds).map_err(wrong)
}
