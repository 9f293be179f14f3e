//! Speculation of the processor that a process can have taken away from itself: past stores, and along indirect branches
//! that others have trained (Documentation/userspace-api/spec_ctrl.rst of Linux).
//!
//! What is taken away is taken for good, from every thread and every process that comes of the caller, over fork and exec.
//! Therefore a launcher does it once, before it has spawned anything, and no policy has a rule for it.

use nix::errno::Errno;

use crate::system_calls::process_control;

/// PR_GET_SPECULATION_CTRL.
const GET: i32 = 52;
/// PR_SET_SPECULATION_CTRL.
const SET: i32 = 53;

/// PR_SPEC_PRCTL: it is up to each process.
const CONTROLLED: i32 = 1;
/// PR_SPEC_ENABLE, where the process has it.
const ENABLED: i32 = 1 << 1;
/// PR_SPEC_FORCE_DISABLE: taken away, and never to be had again.
const FORCE_DISABLED: u64 = 1 << 3;

/// What there is: its name, and PR_SPEC_STORE_BYPASS or PR_SPEC_INDIRECT_BRANCH.
const CONTROLS: [(&str, u64); 2] = [("store bypass", 0), ("indirect branches", 1)];

/// Takes it away from the calling process. What cannot be taken away is said, one line each.
pub fn restrict() -> Vec<String> {
    let taken = |(name, control)| {
        if state(control).is_ok_and(|state| state & CONTROLLED != 0) {
            // Whether it was done is seen by what is left.
            let _ = process_control(SET, control, FORCE_DISABLED);
        }
        lack(name, state(control).map(|state| state & !CONTROLLED))
    };
    CONTROLS.into_iter().filter_map(taken).collect()
}

/// What the kernel would not take away from us, one line each.
pub fn shortcomings() -> Vec<String> {
    CONTROLS.into_iter().filter_map(|(name, control)| lack(name, state(control))).collect()
}

fn state(control: u64) -> Result<i32, Errno> {
    process_control(GET, control, 0)
}

/// Of a processor that is not affected nothing is there to be taken away, and the state is 0.
fn lack(name: &str, state: Result<i32, Errno>) -> Option<String> {
    match state {
        Ok(state) if state & ENABLED != 0 && state & CONTROLLED == 0 => {
            Some(format!("{name}: it cannot be taken from a process (state {state:#x})"))
        }
        Ok(_) => None,
        Err(errno) => Some(format!("{name}: {errno}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_and_nobodys_to_switch_is_lacking() {
        assert_eq!(lack("it", Ok(0)), None);
        assert_eq!(lack("it", Ok(ENABLED | CONTROLLED)), None);
        assert_eq!(lack("it", Ok(1 << 2)), None);
        assert_eq!(lack("it", Ok(1 << 3)), None);
        let found = lack("it", Ok(ENABLED)).unwrap();
        assert_eq!(found, "it: it cannot be taken from a process (state 0x2)");
        assert!(lack("it", Err(Errno::ENODEV)).unwrap().starts_with("it: ENODEV"));
    }
}
