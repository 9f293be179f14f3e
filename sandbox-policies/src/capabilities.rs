//! Capabilities: all five sets emptied, and the securebits locked so that no id ever brings one back; of a spawner, those
//! that its work does not take.

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

/// What a spawner keeps of the capabilities that its launcher was started with: of root's alone are there any.
///
/// Its children are in user namespaces that it owns, in which the kernel lets it do everything, whatever these sets have
/// (user_namespaces(7)); so few are left that it needs on the host's own things. Numbers are those of
/// linux/capability.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept(u64);

impl Kept {
    /// CAP_SETGID and CAP_SETUID: to map ids to its children that are not its own.
    pub const IDS: Self = Self(1 << 6 | 1 << 7);
    /// CAP_SETFCAP: to map root's own, where it has no others to give.
    pub const ROOT: Self = Self(1 << 31);
    /// CAP_DAC_OVERRIDE: to connect to sockets of others, to remove names from their folders, and to start children in
    /// control groups that were delegated to others.
    pub const FILES: Self = Self(1 << 1);
    /// CAP_SYS_ADMIN: to copy a mount of the host's, and to map ids in the copy.
    pub const MOUNTS: Self = Self(1 << 21);
    /// All: children that may have to do without a user namespace make mounts with what they inherit.
    pub const ALL: Self = Self(u64::MAX);

    /// These and those.
    pub const fn and(self, those: Self) -> Self {
        Self(self.0 | those.0)
    }

    /// Takes all others from the permitted and the effective set of the calling thread, and all from the inheritable and
    /// the ambient one.
    pub(crate) fn keep(self) -> Result<(), Errno> {
        process_control(libc::PR_CAP_AMBIENT, AMBIENT_CLEAR_ALL, 0)?;
        let [low, high] = capabilities()?;
        // The set is 64 bits in two words.
        #[expect(
            clippy::as_conversions,
            clippy::cast_possible_truncation,
            reason = "each half is of 32 bits"
        )]
        let (kept_low, kept_high) = (self.0 as u32, (self.0 >> 32) as u32);
        set_capabilities(&[(low, kept_low), (high, kept_high)].map(|(words, kept)| CapabilityWords {
            effective: words.effective & kept,
            permitted: words.permitted & kept,
            inheritable: 0,
        }))
    }
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
