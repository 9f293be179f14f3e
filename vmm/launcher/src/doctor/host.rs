//! What a machine can use of a host and does without: looked at by doing, where doing leaves nothing behind.

use std::fs::{self, OpenOptions};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use sandbox_policies::cgroup::Delegated;
use sandbox_policies::speculation as control;

use super::Finding;
use crate::device::PASST;
use crate::memory::Region;
use crate::user_network;

/// `F_SEAL_EXEC` (Linux 6.3), which nix does not name.
const SEAL_EXEC: i32 = 0x20;

/// Whether guest memory can be sealed against ever becoming executable.
pub fn sealed(regions: &[Region]) -> Finding {
    let is_sealed =
        |region: &Region| fcntl(&region.fd, FcntlArg::F_GET_SEALS).is_ok_and(|seals| seals & SEAL_EXEC != 0);
    if regions.iter().all(is_sealed) {
        return Finding::held("guest memory", "128M, sealed, never executable");
    }
    let costs = "guest memory has no seal against being made executable; the filters of system calls keep it from that";
    Finding::lacks("guest memory", "128M, sealed, but without F_SEAL_EXEC", costs, "Linux 6.3 has it")
}

const UNLIMITED: &str = "programs run without limits of their own for memory, threads, processors and disks";

/// The directory that was named, as a machine would take it; else what can be said of the group that we are in.
pub fn control_groups(named: Option<&Path>) -> Finding {
    let what = "control groups";
    if let Some(path) = named {
        return match Delegated::open(path) {
            Ok(it) => Finding::held(what, format!("{path:?} takes groups with limits for {}", it.limits())),
            Err(error) => {
                let code = crate::error::Error::from(error);
                Finding::stops(what, code.to_string(), "--cgroup with this directory is refused", code.code())
            }
        };
    }
    let Some(own) = own_group() else {
        let advice = "mount cgroup v2, delegate a directory and name it with --cgroup";
        return Finding::lacks(what, "there is no cgroup v2 here", UNLIMITED, advice);
    };
    let controllers = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
    let controllers = controllers.trim();
    let found = format!(
        "no directory was named; {own:?}, in which vmm runs, has the controllers: {}",
        if controllers.is_empty() { "none" } else { controllers }
    );
    let advice = "have a directory delegated (systemd-run --user --scope -p Delegate=yes) and name it with --cgroup, here too";
    Finding::lacks(what, found, UNLIMITED, advice)
}

/// The group of this process, where it is mounted (cgroups(7), proc_pid_mountinfo(5)).
fn own_group() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    group(&groups, &mounts)
}

fn group(groups: &str, mounts: &str) -> Option<PathBuf> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?;
    Some(Path::new(mount).join(own))
}

/// Whether there is a program for networks without privileges. It is not started: it would do something to the host's.
pub fn user_network() -> Finding {
    match user_network::look(Path::new(PASST)) {
        Ok(_) => Finding::there(user_network::NAME, format!("{PASST:?}, not started")),
        Err(_) => {
            let costs = "--device net,user=on is refused, but with passt=PATH";
            Finding::lacks(
                user_network::NAME,
                format!("{PASST:?} cannot be opened"),
                costs,
                "install the package passt",
            )
        }
    }
}

/// Whether a process can have its speculation restricted; nobody's is, for this.
pub fn speculation() -> Finding {
    let what = "speculation";
    let lacking = control::shortcomings();
    if lacking.is_empty() {
        return Finding::there(what, "a process can have it restricted, or this processor is not affected");
    }
    let costs = "--speculation=restricted is refused with --sandbox=required";
    Finding::lacks(
        what,
        lacking.join("; "),
        costs,
        "boot the host with spectre_v2_user=prctl and spec_store_bypass_disable=prctl",
    )
}

/// Whether taps can be attached to.
pub fn tap() -> Finding {
    let (what, path) = ("taps", "/dev/net/tun");
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Finding::held(
            what,
            format!("{path} can be opened; an interface is made by who has CAP_NET_ADMIN"),
        ),
        Err(error) => {
            let costs = "--device net,tap=NAME is refused; net,fd=N goes on working";
            Finding::lacks(what, format!("{path}: {error}"), costs, "load tun (modprobe tun), allow its node")
        }
    }
}

/// Whether a socket can be told that no descriptors come over it.
pub fn stray_descriptors() -> Finding {
    let what = "stray descriptors";
    let pair = UnixStream::pair();
    if pair.is_ok_and(|(socket, _)| protocol::take_no_descriptors(&socket)) {
        return Finding::held(what, "nobody can send any over a socket that is for none");
    }
    let costs = "those that somebody sends are closed when they are received";
    Finding::lacks(what, "sockets have no SO_PASSRIGHTS", costs, "Linux 6.16 has it")
}

/// How much of guest memory could be in huge pages.
pub fn huge_pages() -> Finding {
    let what = "huge pages";
    let free = |kib: u32| {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB/free_hugepages");
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let (small, large) = (free(2 << 10), free(1 << 20));
    let found = format!("{small} of 2M free, {large} of 1G free");
    if small > 0 || large > 0 {
        return Finding::held(what, found);
    }
    Finding::lacks(what, found, "--hugepages is refused", "reserve some (sysctl vm.nr_hugepages)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_where_the_second_hierarchy_is_mounted() {
        let mounts = "29 23 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      30 23 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = group("8:pids:/\n0::/user.slice/a\n", mounts);
        assert_eq!(found, Some(PathBuf::from("/sys/fs/cgroup/unified/user.slice/a")));
        assert_eq!(group("8:pids:/\n", mounts), None);
        assert_eq!(group("0::/\n", ""), None);
    }
}
