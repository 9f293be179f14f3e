//! Capabilities: all five sets emptied, and the securebits locked so that no id ever brings one back.

use nix::errno::Errno;

use crate::system_calls::{CapabilityWords, capabilities, process_control, set_capabilities};

/// NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE set and locked, KEEP_CAPS locked off
/// (linux/securebits.h).
const SECURE_BITS: u64 = 0xef;

/// More than the kernel has; CAPBSET_READ answers EINVAL for the first that does not exist.
const LIMIT: u64 = 64;

/// Empties the bounding set and locks the securebits, as far as the calling thread may. Allocates nothing.
///
/// To be called before a change of ids: root that becomes an ordinary user loses the right to. An ordinary user
/// without a user namespace of its own never has it; the set then bounds nothing, for no_new_privs is set.
pub fn drop_bounding() -> Result<(), Errno> {
    match process_control(libc::PR_SET_SECUREBITS, SECURE_BITS, 0) {
        Ok(_) | Err(Errno::EPERM) => {}
        Err(errno) => return Err(errno),
    }
    for capability in existing() {
        match process_control(libc::PR_CAPBSET_DROP, capability, 0) {
            Ok(_) | Err(Errno::EPERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Empties the ambient, effective, permitted and inheritable sets of the calling thread. Allocates nothing.
pub fn drop_all() -> Result<(), Errno> {
    process_control(libc::PR_CAP_AMBIENT, AMBIENT_CLEAR_ALL, 0)?;
    set_capabilities(&[CapabilityWords::default(); 2])
}

/// `PR_CAP_AMBIENT_CLEAR_ALL`.
const AMBIENT_CLEAR_ALL: u64 = 4;

/// What is left of the capabilities of the calling thread: one line for each set that is not empty.
pub fn shortcomings() -> Vec<String> {
    let mut found = Vec::new();
    match capabilities() {
        Ok(words) if words == [CapabilityWords::default(); 2] => {}
        Ok(words) => found.push(format!("capabilities: some are left: {words:x?}")),
        Err(errno) => found.push(format!("capabilities: they cannot be read: {errno}")),
    }
    let bounding = existing().filter(|it| process_control(libc::PR_CAPBSET_READ, *it, 0) == Ok(1)).count();
    if bounding != 0 {
        found.push(format!("capabilities: {bounding} are left in the bounding set"));
    }
    found
}

fn existing() -> impl Iterator<Item = u64> {
    (0..LIMIT).take_while(|capability| process_control(libc::PR_CAPBSET_READ, *capability, 0).is_ok())
}
