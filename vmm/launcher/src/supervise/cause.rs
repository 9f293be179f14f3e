//! What became of a device's back end, as far as it is counted, told, and held against the guest's requests.

use sandbox_policies::spawn::Ended;

/// How the kernel ends a process whose filter refuses a system call. Which call it was stays with the kernel: neither
/// waitid(2) nor a pidfd says so, what the kernel logs is for those who may read its log, the filters kill without
/// letting the process say a last word, and to stop it at the call instead (a tracer, a listener of its filter) would
/// take rights over the process that a confined launcher does not have.
pub const SIGSYS: i32 = 31;

/// SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV: what a process brings upon itself. The same sent by somebody else cannot be
/// told from it.
const BROUGHT_UPON_ITSELF: [i32; 5] = [4, 6, 7, 8, 11];
const SIGKILL: i32 = 9;

/// See above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It ended by itself, with this code.
    Exit(i32),
    /// This signal ended it.
    Signal(i32),
    /// It made a system call that its policy forbids.
    SystemCall,
    /// It made no progress, and was ended for that.
    Hang,
    /// It could not be spawned.
    NotSpawned,
    /// It is not ours, and hung up or was given up.
    Disconnected,
}

impl Cause {
    /// The words of all causes.
    pub const WORDS: [&str; 6] = ["exit", "signal", "system-call", "hang", "not-spawned", "disconnected"];

    /// What it is called in objects and counters.
    pub fn word(self) -> &'static str {
        let [exit, signal, system_call, hang, not_spawned, disconnected] = Self::WORDS;
        match self {
            Cause::Exit(_) => exit,
            Cause::Signal(_) => signal,
            Cause::SystemCall => system_call,
            Cause::Hang => hang,
            Cause::NotSpawned => not_spawned,
            Cause::Disconnected => disconnected,
        }
    }

    /// Of a process that ended so; `hung`: that it stood still is why it was to be ended.
    pub fn of(ended: Ended, hung: bool) -> Cause {
        match ended {
            Ended::Exited(code) => Cause::Exit(code),
            Ended::Signaled(SIGSYS) => Cause::SystemCall,
            Ended::Signaled(SIGKILL) if hung => Cause::Hang,
            Ended::Signaled(signal) => Cause::Signal(signal),
        }
    }

    /// Whether a request that was in flight may be to blame. Not for what came from outside: to end a device again and
    /// again must not make the guest's requests fail.
    pub fn may_be_a_requests(self) -> bool {
        match self {
            Cause::Exit(code) => code != 0,
            Cause::Signal(signal) => BROUGHT_UPON_ITSELF.contains(&signal),
            Cause::SystemCall | Cause::Hang => true,
            Cause::NotSpawned | Cause::Disconnected => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_outside_is_no_requests_fault() {
        for signal in [4, 6, 7, 8, 11, 31] {
            assert!(Cause::of(Ended::Signaled(signal), false).may_be_a_requests(), "{signal}");
        }
        for signal in [1, 2, 9, 13, 15] {
            assert!(!Cause::of(Ended::Signaled(signal), false).may_be_a_requests(), "{signal}");
        }
        assert!(Cause::of(Ended::Exited(1), false).may_be_a_requests());
        assert!(!Cause::of(Ended::Exited(0), false).may_be_a_requests());
    }

    #[test]
    fn one_that_hung_was_killed_for_it_and_may_have_died_by_itself_before() {
        assert_eq!(Cause::of(Ended::Signaled(9), true), Cause::Hang);
        assert_eq!(Cause::of(Ended::Signaled(11), true), Cause::Signal(11));
        assert!(Cause::Hang.may_be_a_requests());
    }
}
