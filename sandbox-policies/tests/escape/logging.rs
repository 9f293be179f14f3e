//! Filters that log (`--sandbox-log`) where nobody traces, and on top of filters that refuse: neither allows anything.

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use sandbox_policies::{Program, Stage, end_process, log_refusals, stage_two};

use crate::{Count, raw};

/// Exit codes of a child whose forbidden call failed as one that is not there, was made, or was never tried.
const NOT_THERE: i32 = 40;
const MADE: i32 = 41;
const NOT_CONFINED: i32 = 42;

/// Tries both, with a program that has a launcher to tell and one that has none.
pub fn a_filter_that_logs_has_a_tracer_or_refuses(_who: &str) -> Result<Count, String> {
    let mut count = Count::default();
    for (program, stage) in [(Program::DeviceRng, Stage::Setup), (Program::Launcher, Stage::Spawner)] {
        let confine = || {
            log_refusals();
            stage_two(program, stage).is_ok()
        };
        let untraced = ended(confine);
        let holds = matches!(untraced, Ok(WaitStatus::Exited(_, NOT_THERE)));
        count.add("logged without a tracer", crate::checked(holds, &untraced));
        let confine = || {
            let refusing = stage_two(program, stage).is_ok();
            log_refusals();
            refusing && stage_two(program, stage).is_ok()
        };
        let loosened = ended(confine);
        let holds = matches!(loosened, Ok(WaitStatus::Signaled(_, Signal::SIGSYS, _)));
        count.add("logged on top of what refuses", crate::checked(holds, &loosened));
    }
    Ok(count)
}

/// How a child ends that confines itself so and then makes a call that no list has.
fn ended(confine: impl FnOnce() -> bool) -> Result<WaitStatus, Errno> {
    match raw::call(libc::SYS_fork, [])? {
        0 => {
            if !confine() {
                end_process(NOT_CONFINED);
            }
            end_process(match raw::call(libc::SYS_getppid, []) {
                Err(Errno::ENOSYS) => NOT_THERE,
                _ => MADE,
            })
        }
        pid => waitpid(Pid::from_raw(i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?), None),
    }
}
