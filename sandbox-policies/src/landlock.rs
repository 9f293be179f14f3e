//! Landlock: every right that the kernel knows is handled and no rule grants one back, but these: the launcher removes
//! the control groups of its children, and a program that has a directory as its root uses what that is for.
//!
//! Best effort by ABI, as the crate does it: 1 files, 2 renames across directories, 3 truncate, 4 TCP, 5
//! device ioctl, 6 abstract sockets and signals outward, and what came later. Not even ABI 1 counts as a
//! missing layer.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::Error;

/// What a domain keeps its processes from reaching outside of it.
#[derive(Clone, Copy, Debug)]
pub enum Reach<'a> {
    /// No signal and no abstract Unix socket outside the domain.
    Nowhere,
    /// As above, but the program's root is a directory, in which it may read; and make, change and remove files, unless
    /// the mount is read-only.
    Files,
    /// As above, but the program's root is a directory, of which it may connect to the sockets. Before ABI 9 that is
    /// no right of landlock's, and everybody's.
    Sockets,
    /// As the first, but signals may go out: the launcher kills children that are older than its own confinement. And
    /// directories directly or indirectly in this one, which are empty control groups, may be removed.
    Children {
        /// The directory that was delegated to the launcher, if one was.
        groups: Option<BorrowedFd<'a>>,
    },
}

/// The newest ABI whose rights are handled.
const NEWEST: ABI = ABI::V10;
/// Its number.
pub const NEWEST_ABI: u8 = 10;

/// Restricts the calling thread, which must be the only one. Answers the ABI in force; 0: there is no
/// landlock.
pub fn restrict(reach: Reach<'_>) -> Result<u8, Error> {
    let (scopes, groups) = match reach {
        Reach::Nowhere | Reach::Files | Reach::Sockets => (Scope::from_all(NEWEST), None),
        Reach::Children { groups } => (Scope::AbstractUnixSocket.into(), groups),
    };
    let root = match reach {
        Reach::Files => Some(files()),
        Reach::Sockets => Some(AccessFs::ResolveUnix.into()),
        Reach::Nowhere | Reach::Children { .. } => None,
    };
    let opened = root.map(|rights| open_root().map(|root| PathBeneath::new(root, rights))).transpose()?;
    let removal = groups.map(|groups| PathBeneath::new(groups, AccessFs::RemoveDir));
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(scopes)?
        .create()?
        .add_rules(opened.map(Ok::<_, RulesetError>))?
        .add_rules(removal.map(Ok::<_, RulesetError>))?
        .restrict_self()?;
    Ok(match (status.landlock, status.ruleset) {
        (_, RulesetStatus::NotEnforced) => 0,
        (LandlockStatus::Available { effective_abi, .. }, _) => number(effective_abi),
        _ => 0,
    })
}

fn open_root() -> Result<OwnedFd, Error> {
    open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| Error::Confine { step: "open the root for landlock", errno })
}

/// What serves files: without executing any, and without making devices, sockets and pipes.
fn files() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::Refer
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
}

fn number(abi: ABI) -> u8 {
    // The enum's discriminants are the ABI's numbers, of which there are ten.
    u8::try_from(abi as i32).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abi_is_its_number() {
        assert_eq!([ABI::Unsupported, ABI::V1, ABI::V7, NEWEST].map(number), [0, 1, 7, NEWEST_ABI]);
    }
}
