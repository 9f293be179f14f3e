//! What became of a device's back end, as far as it is counted, told, and held against the guest's requests.

use protocol::Violation;
use sandbox_policies::spawn::Ended;

/// How the kernel ends a process whose filter refuses a system call. Which call it was the kernel tells nobody who has as
/// few rights as a confined launcher: the process says it itself with its last word, if it gets to.
const SIGSYS: i32 = 31;

/// SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV: what a process brings upon itself. The same sent by somebody else cannot be
/// told from it.
const BROUGHT_UPON_ITSELF: [i32; 5] = [4, 6, 7, 8, 11];
const SIGKILL: i32 = 9;

/// How a process ended: what the kernel says, and of a refused system call what the process says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
    /// It made a system call that its policy forbids; which, if it said so.
    Refused(Option<Violation>),
}

impl End {
    /// Of a process that ended so and has said, or has not, that its policy refused this. It is killed for the word, which
    /// may be quicker than what its filter does; beyond that the word changes nothing: whoever says it of himself and
    /// ends in another way has ended in that way.
    pub fn of(ended: Ended, said: Option<Violation>) -> End {
        match (ended, said) {
            (Ended::Signaled(SIGSYS), said) => End::Refused(said),
            (Ended::Signaled(SIGKILL), Some(said)) => End::Refused(Some(said)),
            (Ended::Signaled(signal), _) => End::Signaled(signal),
            (Ended::Exited(code), _) => End::Exited(code),
        }
    }
}

/// See above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It ended by itself, with this code.
    Exit(i32),
    /// This signal ended it.
    Signal(i32),
    /// It made a system call that its policy forbids: this one, if it said so.
    SystemCall(Option<Violation>),
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
            Cause::SystemCall(_) => system_call,
            Cause::Hang => hang,
            Cause::NotSpawned => not_spawned,
            Cause::Disconnected => disconnected,
        }
    }

    /// Of a process that ended so; `hung`: that it stood still is why it was to be ended.
    pub fn of(end: End, hung: bool) -> Cause {
        match end {
            End::Exited(code) => Cause::Exit(code),
            End::Refused(said) => Cause::SystemCall(said),
            End::Signaled(SIGKILL) if hung => Cause::Hang,
            End::Signaled(signal) => Cause::Signal(signal),
        }
    }

    /// Whether a request that was in flight may be to blame. Not for what came from outside: to end a device again and
    /// again must not make the guest's requests fail.
    pub fn may_be_a_requests(self) -> bool {
        match self {
            Cause::Exit(code) => code != 0,
            Cause::Signal(signal) => BROUGHT_UPON_ITSELF.contains(&signal),
            Cause::SystemCall(_) | Cause::Hang => true,
            Cause::NotSpawned | Cause::Disconnected => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(ended: Ended, said: Option<Violation>, hung: bool) -> Cause {
        Cause::of(End::of(ended, said), hung)
    }

    #[test]
    fn what_comes_from_outside_is_no_requests_fault() {
        for signal in [4, 6, 7, 8, 11, 31] {
            assert!(cause(Ended::Signaled(signal), None, false).may_be_a_requests(), "{signal}");
        }
        for signal in [1, 2, 9, 13, 15] {
            assert!(!cause(Ended::Signaled(signal), None, false).may_be_a_requests(), "{signal}");
        }
        assert!(cause(Ended::Exited(1), None, false).may_be_a_requests());
        assert!(!cause(Ended::Exited(0), None, false).may_be_a_requests());
    }

    #[test]
    fn one_that_hung_was_killed_for_it_and_may_have_died_by_itself_before() {
        assert_eq!(cause(Ended::Signaled(9), None, true), Cause::Hang);
        assert_eq!(cause(Ended::Signaled(11), None, true), Cause::Signal(11));
        assert!(Cause::Hang.may_be_a_requests());
    }

    #[test]
    fn a_refused_call_is_the_cause_whoever_was_quicker_and_a_claim_of_one_hides_no_other_end() {
        let said = Some(Violation { call: 41, arguments: [0; 6] });
        for signal in [9, 31] {
            assert_eq!(cause(Ended::Signaled(signal), said, true), Cause::SystemCall(said), "{signal}");
        }
        assert_eq!(cause(Ended::Signaled(31), None, false), Cause::SystemCall(None));
        assert!(Cause::SystemCall(said).may_be_a_requests());
        assert_eq!(cause(Ended::Signaled(11), said, false), Cause::Signal(11));
        assert_eq!(cause(Ended::Exited(0), said, false), Cause::Exit(0));
    }
}
