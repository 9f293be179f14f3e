//! What the launcher does for a device, done by a test: spawn the real program, confined, tell it what it serves and
//! whether its predecessor's end may be blamed on a request, see how it ends.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::fcntl::{OFlag, SealFlag};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, pipe2};
use protocol::limits::KEEP_SIZE;
use protocol::{
    BlkOptions, Channel, DeviceOptions, DeviceSetup, FromDevice, Phase, Rates, Setting, ToDevice,
};
use sandbox_policies::Requirement;
use sandbox_policies::spawn::{Child, Ended, Identity, Plan, spawn};

use crate::core::QUEUES;
use crate::front_end::{Connection, memfd};

/// What outlives each process: the program, the disk, and the page for the device's own state.
pub struct Launcher {
    program: OwnedFd,
    null: File,
    disk: File,
    pub keep: File,
}

/// One process of device-blk.
pub struct Process {
    child: Child,
    /// Its end tells the device to go.
    control: Channel,
    log: File,
    pub connection: Connection,
}

impl Launcher {
    pub fn new(disk: &Path) -> Self {
        let path = OFlag::O_PATH.bits();
        let program = File::options().read(true).custom_flags(path).open(env!("CARGO_BIN_EXE_device-blk"));
        let open = |path: &Path| File::options().read(true).write(true).open(path).unwrap();
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        let keep = memfd(KEEP_SIZE as u64, seals);
        Self { program: program.unwrap().into(), null: open(Path::new("/dev/null")), disk: open(disk), keep }
    }

    /// Spawns the next process. `die_at` is a fault point and how often it is passed, `POINT:N`.
    pub fn start(&self, die_at: Option<&str>, blamed: bool) -> Process {
        let (control, theirs) = Channel::pair().unwrap();
        let (log, log_writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let die_at = die_at.map(|point| format!("--die-at={point}"));
        let mut arguments = vec!["--hand-over=3", "--sandbox=required"];
        arguments.extend(die_at.as_deref());
        let child = spawn(&Plan {
            program: self.program.as_fd(),
            name: "device-blk",
            arguments: &arguments,
            log: log_writer.as_fd(),
            control: theirs.as_fd(),
            null: self.null.as_fd(),
            identity: Identity::for_child(0),
            requirement: Requirement::Required,
            directory: None,
            group: None,
        })
        .unwrap();
        let (socket, back_end) = UnixStream::pair().unwrap();
        let options = BlkOptions {
            readonly: false,
            direct: false,
            serial: String::new(),
            queues: QUEUES,
            queue_size: 128,
            discard: true,
            backing: Vec::new(),
        };
        let setup = DeviceSetup {
            name: "blk0".to_owned(),
            options: DeviceOptions::Blk(options),
            blamed,
            keep: true,
            rates: Rates::default(),
        };
        control.send(&ToDevice::Setup(setup), &[back_end.as_fd(), self.disk.as_fd()]).unwrap();
        let keeps = control.receive::<FromDevice>(Phase::HandOver).unwrap();
        assert!(matches!(keeps, Some((FromDevice::Keeps, _))), "{keeps:?}");
        control.send(&ToDevice::Keep, &[self.keep.as_fd()]).unwrap();
        let ready = control.receive::<FromDevice>(Phase::HandOver).unwrap();
        assert!(matches!(ready, Some((FromDevice::Ready(_), _))), "{ready:?}");
        Process { child, control, log: log.into(), connection: Connection { socket } }
    }
}

impl Process {
    /// Sets something, and returns why that was refused; nothing if it was not.
    pub fn set(&self, setting: Setting) -> String {
        self.control.send(&ToDevice::Set(setting), &[]).unwrap();
        match self.control.receive::<FromDevice>(Phase::Serving).unwrap() {
            Some((FromDevice::Set(outcome), _)) => outcome.refused.unwrap_or_default(),
            other => panic!("an answer: {other:?}"),
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.pid()), signal).unwrap();
    }

    /// Has its main thread execute what is no code, wherever it is.
    pub fn crash(&self) {
        let thread = Pid::from_raw(self.child.pid());
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        let stopped = waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        assert!(matches!(stopped, WaitStatus::PtraceEvent(..)), "{stopped:?}");
        let mut registers = ptrace::getregs(thread).unwrap();
        registers.rip = 0;
        // It is in no system call that would be made again.
        registers.orig_rax = u64::MAX;
        ptrace::setregs(thread, registers).unwrap();
        ptrace::detach(thread, None).unwrap();
    }

    /// Returns when SIGSTOP has reached it.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        waitid(
            Id::PIDFd(self.child.as_fd()),
            WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT,
        )
        .unwrap();
    }

    /// Readable once it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }

    /// How it ended, and what it had to say.
    pub fn end(mut self) -> (Ended, String) {
        let ended = self.child.wait().unwrap();
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (ended, log)
    }

    /// Hangs up, and returns the log of a process that ended well.
    pub fn finish(self) -> String {
        let Self { mut child, control: _control, mut log, connection } = self;
        drop(connection);
        assert_eq!(child.wait().unwrap(), Ended::Exited(0));
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        text
    }
}

/// Every fault point, by its name.
pub fn fault_points() -> impl Iterator<Item = &'static str> {
    device_backend::fault::Point::ALL.iter().map(|(_, name)| *name)
}
