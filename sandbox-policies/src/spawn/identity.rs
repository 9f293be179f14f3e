//! Who a spawned program is: inside of its user namespace always the same ordinary user, outside one of its
//! own.

use nix::unistd::{getegid, geteuid};

/// The user and the group of a spawned program as the host sees them.
///
/// Inside it is [`Identity::INNER`], never 0: an id that owns nothing and to which no rule of the kernel
/// gives anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user id outside.
    pub outer_uid: u32,
    /// The group id outside.
    pub outer_gid: u32,
}

/// The first of the ids that root gives to its children: far above any that a distribution hands out.
const FIRST: u32 = 0x7000_0000;

/// Ids for each launcher: one core and 31 devices, and room for their successors.
const EACH: u32 = 64;

impl Identity {
    /// The id inside.
    pub const INNER: u32 = 1000;

    /// The identity of the child with this index, of those of the calling launcher.
    ///
    /// Root has an id for each, so that children cannot reach each other even where all else fails; the ids
    /// of two launchers differ, by their pids. An ordinary user, and root where these ids are not mapped, has
    /// only its own.
    pub fn for_child(index: u32) -> Self {
        let own = Self { outer_uid: geteuid().as_raw(), outer_gid: getegid().as_raw() };
        let id = numbered(std::process::id(), index);
        let mapped = |file| std::fs::read_to_string(file).is_ok_and(|map| covers(&map, id));
        if own.outer_uid == 0 && mapped("/proc/self/uid_map") && mapped("/proc/self/gid_map") {
            Self { outer_uid: id, outer_gid: id }
        } else {
            own
        }
    }
}

/// Whether children can drop the supplementary groups that they inherit: for root, where its own user
/// namespace has not given setgroups up already (as that of a rootless container has).
pub fn may_clear_groups() -> bool {
    geteuid().is_root()
        && std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|word| word.trim() == "allow")
}

fn numbered(launcher: u32, index: u32) -> u32 {
    // Both terms are bounded: 2^16 × 64 is 2^22.
    FIRST | ((launcher & 0xffff).wrapping_mul(EACH)) | (index % EACH)
}

/// Whether an id map of /proc (lines of inner, outer, count) maps the inner `id`.
fn covers(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.nth(1)) {
            (Some(Ok(first)), Some(Ok(count))) => {
                u64::from(id).checked_sub(first).is_some_and(|offset| offset < count)
            }
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_child_of_each_launcher_has_an_id_of_its_own() {
        let ids: std::collections::BTreeSet<_> = [1, 2, 0xffff]
            .into_iter()
            .flat_map(|pid| (0..64).map(move |index| numbered(pid, index)))
            .collect();
        assert_eq!(ids.len(), 3 * 64);
        assert!(ids.iter().all(|id| (FIRST..FIRST + (1 << 22)).contains(id)));
    }

    #[test]
    fn a_map_covers_its_ranges_and_no_more() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert!(covers(map, 0) && covers(map, 1) && covers(map, 65536));
        assert!(!covers(map, 65537) && !covers(map, FIRST) && !covers("", 0) && !covers("0 0", 0));
        assert!(covers("0 0 4294967295", FIRST));
    }
}
