//! The tracer of `vmm --sandbox-log`: it is told each system call that a list does not have, and has it made.
//!
//! [`split`] forks the calling process. The copy goes on as the launcher, with filters that refuse nothing
//! ([`crate::log_refusals`]); the original traces it, and by PTRACE_O_TRACEFORK and its kin whatever descends from it, from
//! its first instruction on: the kernel makes those traced that a traced process makes. No process is ever attached to
//! but that copy, before it has done anything, so that it takes no right but that over a child of one's own; that the
//! programs are made not dumpable and live in user namespaces of their own comes later and changes nothing.
//!
//! One event for each refused call, however many filters refuse it: the newest one's ([`Call`]). Signals are passed on, a
//! stop by job control stays one. The tracer looks at registers and at nothing in memory, of which a process that is
//! not dumpable would let it see nothing anyway. When it dies, the kernel kills all that it traces.

use nix::errno::Errno;
use nix::libc::{self, c_int};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, pipe2, read, write};

use crate::namespaces::{Kinship, Namespaces};
use crate::spawn::{Child, Ended, spawner};
use crate::system_calls::{
    Clone, exit_now, go_on, next_of_traced, reset_signal, signal_process, stay_stopped,
};
use crate::{Error, Program, Stage, capabilities, process, seccomp};

pub use crate::seccomp::place;
use std::os::fd::{AsFd, OwnedFd};

/// A system call that a list does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The thread that made it, as the tracer sees it. It has stopped meanwhile.
    pub thread: i32,
    /// Whose list, and of which stage; of several the newest. `None`: a filter of nobody's here.
    pub list: Option<(Program, Stage)>,
    /// Its number.
    pub number: u32,
    /// Its argument registers.
    pub arguments: [u64; 6],
}

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Side {
    /// The copy, which goes on.
    Traced,
    /// The original, which is to trace.
    Tracer(Tracer),
}

/// The traced copy, which waits until it is [run](Tracer::run), and what descends from it. Dropping it before that ends the
/// copy, and later nobody; ending this process kills all.
#[derive(Debug)]
pub struct Tracer {
    launcher: Child,
    let_go: OwnedFd,
}

/// What is passed on to the launcher when somebody sends it here.
const PASSED_ON: [Signal; 5] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1];

/// `SI_KERNEL` of asm-generic/siginfo.h. What a terminal sends goes to its whole foreground group, and so to the launcher as
/// well.
const SENT_BY_KERNEL: c_int = 0x80;

/// Forks this process, which must have one thread and has no descriptor that the copy should not have.
pub fn split() -> Result<Side, Error> {
    let failed = |step| move |errno| Error::Spawn { name: "vmm".to_owned(), step, errno };
    if !spawner::is_alone() {
        return Err(failed("fork with more than one thread")(Errno::EBUSY));
    }
    let (waits, let_go) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(failed("pipe"))?;
    match Namespaces::none().clone(Kinship::Child, None).map_err(failed("fork"))? {
        Clone::Child => {
            // Ours to close, so that the original's death is the end of the pipe.
            drop(let_go);
            if read(&waits, &mut [0]) != Ok(1) {
                exit_now(1);
            }
            seccomp::log_refusals();
            Ok(Side::Traced)
        }
        Clone::Parent(pid, pidfd) => {
            let options = Options::PTRACE_O_TRACESECCOMP
                | Options::PTRACE_O_TRACEFORK
                | Options::PTRACE_O_TRACEVFORK
                | Options::PTRACE_O_TRACECLONE
                | Options::PTRACE_O_EXITKILL;
            let mut launcher = Child::adopt("vmm", pid, pidfd);
            if let Err(errno) = ptrace::seize(Pid::from_raw(pid), options) {
                drop(let_go);
                launcher.wait()?;
                return Err(failed("trace it")(errno));
            }
            Ok(Side::Tracer(Tracer { launcher, let_go }))
        }
    }
}

impl Tracer {
    /// Lets the copy go, and traces until all have ended; how the launcher did.
    pub fn run(self, mut on_call: impl FnMut(Call)) -> Result<Ended, Error> {
        let failed = |step| move |errno| Error::Confine { step, errno };
        // Nothing that it does from here on takes a right.
        process::no_new_privileges().map_err(failed("PR_SET_NO_NEW_PRIVS"))?;
        capabilities::drop_all().map_err(failed("capabilities"))?;
        // Who is told of no child that stopped would wait for ever.
        reset_signal(libc::SIGCHLD).map_err(failed("rt_sigaction"))?;
        let set: SigSet = PASSED_ON.into_iter().chain([Signal::SIGCHLD]).collect();
        set.thread_block().map_err(failed("block signals"))?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC).map_err(failed("make a signalfd"))?;
        write(&self.let_go, &[1]).map_err(failed("let the launcher go"))?;
        let mut ended = Ended::Exited(1);
        loop {
            match next_of_traced() {
                Ok(Some((id, status))) if libc::WIFSTOPPED(status) => stopped(id, status, &mut on_call),
                Ok(Some((id, status))) if id == self.launcher.pid() => ended = end(status),
                Ok(Some(_)) | Err(Errno::EINTR) => {}
                Ok(None) => self.heed(&signals),
                Err(_) => return Ok(ended),
            }
        }
    }

    /// Waits for a signal, and passes it on if it is not the word that a child has stopped.
    fn heed(&self, signals: &SignalFd) {
        let Ok(Some(info)) = signals.read_signal() else { return };
        let number = c_int::try_from(info.ssi_signo).unwrap_or(libc::SIGCHLD);
        if number != libc::SIGCHLD && info.ssi_code != SENT_BY_KERNEL {
            // One that has ended needs none.
            let _ = signal_process(self.launcher.as_fd(), number);
        }
    }
}

/// Has a thread that has stopped go on, as if nobody had looked. That fails for one that was killed meanwhile.
fn stopped(thread: i32, status: c_int, on_call: &mut impl FnMut(Call)) {
    let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
    let _gone = match event {
        libc::PTRACE_EVENT_SECCOMP => {
            if let Ok(call) = call(thread) {
                on_call(call);
            }
            go_on(thread, 0)
        }
        // The first stop of one that is newly traced is by SIGTRAP; all others are job control's.
        libc::PTRACE_EVENT_STOP if signal != libc::SIGTRAP => stay_stopped(thread),
        // No event: a signal that is about to be delivered.
        0 => go_on(thread, signal),
        _ => go_on(thread, 0),
    };
}

fn call(thread: i32) -> Result<Call, Errno> {
    let id = Pid::from_raw(thread);
    let registers = ptrace::getregs(id)?;
    let bits = ptrace::getevent(id)?;
    let number = u32::try_from(registers.orig_rax & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
    Ok(Call { thread, list: u16::try_from(bits).ok().and_then(seccomp::placed), number, arguments })
}

fn end(status: c_int) -> Ended {
    if libc::WIFSIGNALED(status) {
        Ended::Signaled(libc::WTERMSIG(status))
    } else {
        Ended::Exited(libc::WEXITSTATUS(status))
    }
}
