//! What an event means for the machine: pure decisions, each in one place.

use protocol::{DeviceLost, Exit, Failure, FailureKind};
use sandbox_policies::Program;
use sandbox_policies::refusals_are_logged;

use super::cause::End;
use super::system_call;
use super::words::Words;
use crate::error::{Error, code_of_failure};
use crate::exit_code::Code;

/// Why the machine ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// For the shell.
    pub code: Code,
    /// For a person; none where all went as it should.
    pub text: Option<String>,
    /// Seen from the side only: what the program concerned says or how it ended goes before this.
    pub hearsay: bool,
}

impl Verdict {
    fn certain(code: Code, text: String) -> Verdict {
        Verdict { code, text: Some(text), hearsay: false }
    }

    fn hearsay(code: Code, text: String) -> Verdict {
        Verdict { code, text: Some(text), hearsay: true }
    }

    /// Whether `self`, later, says more than `earlier`.
    pub fn replaces(&self, earlier: &Verdict) -> bool {
        earlier.hearsay && !self.hearsay
    }
}

/// Something of our own failed.
pub fn ours(error: &Error) -> Verdict {
    Verdict::certain(error.code(), error.to_string())
}

/// The guest's end, as the core saw it.
pub fn of_exit(exit: Exit) -> Verdict {
    match exit {
        Exit::PowerOff => Verdict { code: Code::PoweredOff, text: None, hearsay: false },
        Exit::Reset => Verdict { code: Code::Reset, text: None, hearsay: false },
        Exit::GuestCrash(text) => Verdict::certain(Code::GuestCrash, format!("the guest crashed: {text}")),
    }
}

/// A program says that it failed.
pub fn of_failure(name: &str, program: Program, failure: &Failure) -> Verdict {
    let code = code_of_failure(failure.kind);
    if program == Program::Core {
        // Of a device the core knows only that it stopped answering.
        let hearsay = failure.kind == FailureKind::Device;
        return Verdict { code, text: Some(failure.text.clone()), hearsay };
    }
    let code = if failure.kind == FailureKind::Sandbox { code } else { Code::Device };
    Verdict::certain(code, format!("{name}: {}", failure.text))
}

/// A device is gone that the machine does not survive, however that became known.
pub fn of_lost_device(name: &str, how: String, hearsay: bool) -> Verdict {
    let text = format!("device {name} is lost: {how}");
    if hearsay { Verdict::hearsay(Code::Device, text) } else { Verdict::certain(Code::Device, text) }
}

/// The core says that a back end is gone.
pub fn of_device_lost(name: &str, lost: &DeviceLost) -> Verdict {
    of_lost_device(name, lost.text.clone(), true)
}

/// A program ended and had not said why.
pub fn of_end(name: &str, program: Program, end: End, ready: bool) -> Verdict {
    let how = describe(end);
    let own_code = match end {
        // Before it was ready its exit code is from our table; its log has the words.
        End::Exited(number) if !ready => code_of_exit(number),
        _ => None,
    };
    match (own_code, program) {
        // As its words are: of a device it knows only that it stopped answering.
        (Some(Code::Device), Program::Core) => {
            Verdict::hearsay(Code::Device, format!("{name} gave up: {how}"))
        }
        (Some(code), _) => Verdict::certain(code, format!("{name} gave up: {how}")),
        (None, Program::Core) => Verdict::certain(Code::Core, format!("the core died: {how}")),
        // A device also ends by itself when the core's end of its socket closes: the core may have died first.
        (None, _) => of_lost_device(name, how, end == End::Exited(0)),
    }
}

/// A program said what it may not say, or hung up.
pub fn of_violation(name: &str, program: Program, what: &str) -> Verdict {
    let code = if program == Program::Core { Code::Core } else { Code::Device };
    Verdict::certain(code, format!("{name} broke the rules of its control channel and was killed: {what}"))
}

/// A program is of a version that has no words for what its device is to do.
pub fn of_old_program(name: &str, minor: u8, words: Words) -> Verdict {
    let Words { since, what, options } = words;
    let text = format!(
        "{name}: its program speaks version 1.{minor} of the hand-over, and {what} need 1.{since}: give it a newer \
         program, or no {options}"
    );
    Verdict::certain(Code::Device, text)
}

/// A program closed its control channel; how it ends will say more.
pub fn of_hang_up(name: &str, program: Program) -> Verdict {
    let code = if program == Program::Core { Code::Core } else { Code::Device };
    Verdict::hearsay(code, format!("{name} closed its control channel and did not say why"))
}

/// The core takes no message any more; how it ends will say more.
pub fn of_silent_core(error: &protocol::Error) -> Verdict {
    Verdict::hearsay(Code::Core, format!("vmm-core takes no message: {error}"))
}

/// A program was not ready in time.
pub fn of_silence(name: &str, program: Program, seconds: u64) -> Verdict {
    let code = if program == Program::Core { Code::Core } else { Code::Device };
    Verdict::hearsay(code, format!("{name} was not ready within {seconds} s"))
}

/// A signal ended the machine.
pub fn of_signal(number: u8, why: &str) -> Verdict {
    Verdict::certain(Code::Signal(number), format!("ended by signal {number}: {why}"))
}

fn code_of_exit(number: i32) -> Option<Code> {
    let codes =
        [Code::Internal, Code::Usage, Code::Resource, Code::Kernel, Code::Kvm, Code::Sandbox, Code::Device];
    codes.into_iter().find(|code| i32::from(code.number()) == number)
}

/// The exit code of a program of ours that does not understand its command line.
const USAGE: i32 = 2;

/// How a program ended, in words.
pub fn describe(end: End) -> String {
    match end {
        // What was spawned has a command line of ours: nothing but that word in it can be wrong.
        End::Exited(USAGE) if refusals_are_logged() => format!(
            "it ended by itself with exit code {USAGE}, as a program does that is older than --sandbox-log; with that option \
             use programs of one version"
        ),
        End::Exited(code) => format!("it ended by itself with exit code {code}"),
        End::Refused(Some(refused)) => {
            let call = system_call::describe(&refused);
            format!("killed by SIGSYS: it made {call}, which its policy forbids")
        }
        // One that the spawner has started again is killed at once for what not even the spawner's list has, and the
        // launcher's channel may have no room for a last word.
        End::Refused(None) => {
            "killed by SIGSYS: it made a system call that its policy forbids and did not say which, \
                               or somebody sent it that signal"
                .to_owned()
        }
        End::Signaled(number) => match nix::sys::signal::Signal::try_from(number) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {number}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_own_end_is_told_by_the_code() {
        assert_eq!(of_exit(Exit::PowerOff).code, Code::PoweredOff);
        assert_eq!(of_exit(Exit::Reset).code, Code::Reset);
        let crash = of_exit(Exit::GuestCrash("triple fault on vCPU 1".to_owned()));
        assert_eq!(crash.code, Code::GuestCrash);
        assert!(crash.text.unwrap().contains("vCPU 1"));
    }

    #[test]
    fn what_a_device_says_of_itself_goes_before_what_the_core_saw() {
        let failure = |kind| Failure { kind, text: "x".to_owned() };
        let seen = of_failure("vmm-core", Program::Core, &failure(FailureKind::Device));
        let said = of_failure("blk0", Program::DeviceBlk, &failure(FailureKind::Resource));
        assert_eq!(said.code, Code::Device);
        assert!(said.replaces(&seen) && !seen.replaces(&said));
    }

    #[test]
    fn a_core_that_dies_takes_its_devices_along_and_not_the_other_way() {
        let device = of_end("blk0", Program::DeviceBlk, End::Exited(0), true);
        let core = of_end("vmm-core", Program::Core, End::Signaled(9), true);
        assert_eq!((device.code, core.code), (Code::Device, Code::Core));
        assert!(core.replaces(&device));
        let killed = of_end("blk0", Program::DeviceBlk, End::Signaled(9), true);
        assert!(!core.replaces(&killed));
    }

    #[test]
    fn a_core_that_gives_up_over_a_device_says_less_than_how_that_died() {
        let core = of_end("vmm-core", Program::Core, End::Exited(7), false);
        let device = of_end("blk0", Program::DeviceBlk, End::Signaled(9), false);
        assert_eq!((core.code, device.code), (Code::Device, Code::Device));
        assert!(device.replaces(&core) && !core.replaces(&device));
        // Over anything else it knows best.
        let kernel = of_end("vmm-core", Program::Core, End::Exited(4), false);
        assert!(!device.replaces(&kernel));
    }

    #[test]
    fn a_violation_of_policy_is_named() {
        let said = protocol::Violation { call: 41, arguments: [1, 5, 0, 0, 0, 0] };
        let verdict = of_end("blk0", Program::DeviceBlk, End::Refused(Some(said)), true);
        assert_eq!(verdict.code, Code::Device);
        let line = "device blk0 is lost: killed by SIGSYS: it made the system call socket(41) with arguments \
                    (0x1, 0x5, 0x0, 0x0, 0x0, 0x0), which its policy forbids";
        assert_eq!(verdict.text.unwrap(), line);
        let verdict = of_end("vmm-core", Program::Core, End::Refused(None), true);
        assert_eq!(verdict.code, Code::Core);
        assert!(verdict.text.unwrap().contains("policy forbids"));
    }

    #[test]
    fn before_it_is_ready_a_program_ends_with_a_code_of_the_table() {
        assert_eq!(of_end("vmm-core", Program::Core, End::Exited(6), false).code, Code::Sandbox);
        assert_eq!(of_end("vmm-core", Program::Core, End::Exited(6), true).code, Code::Core);
        assert_eq!(of_end("vmm-core", Program::Core, End::Exited(99), false).code, Code::Core);
    }
}
