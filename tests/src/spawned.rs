//! A device program spawned as the launcher spawns it, in its full confinement, without a launcher.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use protocol::Channel;
use sandbox_policies::Requirement;
use sandbox_policies::spawn::{Child, Ended, Identity, Plan, spawn};

use crate::error::tried;
use crate::{Capture, Error, Result};

/// The process and our end of its control channel. It lives at most as long as the thread that spawned it.
pub struct Spawned {
    child: Child,
    /// The launcher's end.
    pub control: Channel,
    log: Capture,
}

impl Spawned {
    /// Spawns the program `name` in the file `program`. Nothing has been told to it yet.
    pub fn start(program: &Path, name: &str) -> Result<Self> {
        let file = File::open(program).map_err(tried(format!("cannot open {}", program.display())))?;
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(tried("cannot open /dev/null"))?;
        let (log, their_log) =
            pipe2(OFlag::O_CLOEXEC).map_err(|errno| tried("cannot make a pipe")(errno.into()))?;
        let (control, theirs) = Channel::pair().map_err(|error| Error::Unexpected(error.to_string()))?;
        let child = spawn(&Plan {
            program: file.as_fd(),
            name,
            arguments: &["--hand-over=3", "--sandbox=required"],
            log: their_log.as_fd(),
            control: theirs.as_fd(),
            null: null.as_fd(),
            identity: Identity::for_child(0),
            requirement: Requirement::Required,
            directory: None,
            group: None,
        })
        .map_err(|error| Error::Unexpected(error.to_string()))?;
        Ok(Self { child, control, log: Capture::of(File::from(log)) })
    }

    /// The number of the launcher's end of the control channel.
    pub fn socket(&self) -> RawFd {
        self.control.as_fd().as_raw_fd()
    }

    /// Waits for its end, however that comes; returns it and the log.
    pub fn wait(mut self) -> Result<(Ended, String)> {
        let ended = self.child.wait().map_err(|error| Error::Unexpected(error.to_string()))?;
        Ok((ended, self.log.wait_for_end()?))
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        // Gone already: nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
