//! The ways in which a device's process is brought to its end.
//!
//! A program that is pid 1 of its namespace ignores, of what others send, all but SIGKILL and SIGSTOP where it has no
//! handler. So a crash and a violation of the policy are made where they happen in life, in a thread of the process: it is
//! stopped by ptrace wherever it is, its next instruction is moved to address 0, or its next system call is made another.

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use system_tests::pattern::Seeded;

/// Why a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// SIGKILL.
    Killed,
    /// It executes what is no code.
    Crash,
    /// A system call that its filter refuses: socket(2).
    Violation,
    /// SIGSTOP: it lives and does nothing until the watchdog ends it.
    Standstill,
}

impl Cause {
    /// What `vmm` says of it, behind the device's name.
    pub fn told(self) -> &'static str {
        match self {
            Self::Killed => "died: killed by SIGKILL",
            Self::Crash => "died: killed by SIGSEGV",
            Self::Violation => "died: killed by SIGSYS",
            Self::Standstill => "and given none back",
        }
    }

    /// Strikes process `pid`, of which nobody else wants anything.
    pub fn strike(self, pid: i32, random: &mut Seeded) {
        match self {
            Self::Killed => kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it lives"),
            Self::Standstill => kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("it lives"),
            Self::Crash | Self::Violation => self.turn(any_thread(pid, random)),
        }
    }

    /// Turns a thread to its ruin.
    fn turn(self, thread: Pid) {
        ptrace::seize(thread, Options::PTRACE_O_TRACESYSGOOD).expect("we may trace it");
        ptrace::interrupt(thread).expect("a tracee");
        assert!(matches!(stopped(thread), WaitStatus::PtraceEvent(..)));
        if self == Self::Violation {
            // The filter looks at the number that the tracer leaves.
            ptrace::syscall(thread, None).expect("a tracee");
            assert!(matches!(stopped(thread), WaitStatus::PtraceSyscall(_)));
        }
        let mut registers = ptrace::getregs(thread).expect("a tracee");
        if self == Self::Violation {
            registers.orig_rax = u64::try_from(libc::SYS_socket).expect("a number");
        } else {
            registers.rip = 0;
            // It is in no system call that would be made again.
            registers.orig_rax = u64::MAX;
        }
        ptrace::setregs(thread, registers).expect("a tracee");
        ptrace::detach(thread, None).expect("a tracee");
    }
}

fn stopped(thread: Pid) -> WaitStatus {
    waitpid(thread, Some(WaitPidFlag::__WALL)).expect("a tracee stops")
}

fn any_thread(pid: i32, random: &mut Seeded) -> Pid {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
    let mut threads: Vec<i32> =
        threads.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    threads.sort_unstable();
    Pid::from_raw(threads[random.below(threads.len())])
}
