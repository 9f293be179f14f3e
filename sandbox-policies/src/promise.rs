//! What this crate promises of a process that it has confined, compared with what the kernel shows of it.
//!
//! Only what is visible to the reader is compared: what the kernel does not show is no difference, and whoever says that
//! there is none says as well what was not seen. Landlock, the death signal and memory-deny-write-execute are not shown to
//! anybody. What a filter lists is not shown either, only that there is one on every thread and how many are stacked.

use nix::sys::resource::Resource;

use crate::posture::{Credentials, Posture};
use crate::{Program, Root, limits};

/// Which process it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The launcher, once the guest runs.
    Launcher,
    /// Its spawner, which keeps the user's rights but for what its filter and no_new_privs take.
    Spawner,
    /// A program that was spawned, once it is ready.
    Spawned(Program),
    /// A program of somebody else's that confines itself ([`crate::spawn::foreign`]).
    Foreign,
}

/// The namespaces that a program which confines itself is to have of its own: all but the host's network, which it is for.
const OF_FOREIGN: [&str; 4] = ["ipc", "mnt", "user", "uts"];

/// Where a process is less confined than was promised, one line each.
pub fn differences(role: Role, posture: &Posture) -> Vec<String> {
    let mut found = Vec::new();
    for thread in &posture.threads {
        let of_thread = of_thread(role, thread).into_iter();
        found.extend(of_thread.map(|what| format!("thread {}: {what}", thread.name)));
    }
    found.extend(of_limits(role, posture));
    if posture.dumpable == Some(true) && role != Role::Spawner {
        found.push("dumpable: it is".to_owned());
    }
    match role {
        Role::Spawned(program) => found.extend(of_surroundings(program, posture)),
        Role::Foreign => {
            let shared = posture.namespaces.iter().flatten().filter(|(_, own)| !**own);
            let shared = shared.filter(|(kind, _)| OF_FOREIGN.contains(&kind.as_str()));
            found.extend(shared.map(|(kind, _)| format!("{kind} namespace: the reader's own")));
        }
        Role::Launcher | Role::Spawner => {}
    }
    found
}

fn of_thread(role: Role, thread: &Credentials) -> Vec<String> {
    // `setup`, the one that hides clone3, and the thread's own.
    let filters = if matches!(role, Role::Spawned(_)) { 3 } else { 1 };
    let mut found = Vec::new();
    if thread.seccomp != 2 {
        found.push(format!("seccomp: mode {}, not 2 (filter)", thread.seccomp));
    } else if thread.filters < filters {
        found.push(format!("seccomp: {} filters, not {filters} at least", thread.filters));
    }
    if thread.tracer != 0 {
        let tracer = thread.tracer;
        found.push(format!(
            "traced: process {tracer} sees and changes it, and may have it make calls that its filters refuse"
        ));
    }
    if !thread.no_new_privs {
        found.push("no_new_privs: not set".to_owned());
    }
    let [inheritable, permitted, effective, bounding, ambient] = thread.capabilities;
    // An ordinary user's launcher cannot shrink its bounding set, which bounds nothing then.
    let bounding = if matches!(role, Role::Spawned(_)) { bounding } else { 0 };
    let held = inheritable | permitted | effective | ambient | bounding;
    if held != 0 && role != Role::Spawner {
        found.push(format!("capabilities: {held:#x}"));
    }
    if matches!(role, Role::Spawned(_)) && thread.ns_pids.len() < 2 {
        found.push("pid namespace: the reader's own".to_owned());
    }
    found
}

fn of_limits(role: Role, posture: &Posture) -> Vec<String> {
    let (program, spawned) = match role {
        Role::Launcher | Role::Spawner => (Some(Program::Launcher), false),
        Role::Spawned(program) => (Some(program), true),
        Role::Foreign => (None, false),
    };
    let promised = program.map_or(&[(Resource::RLIMIT_CORE, 0)][..], limits::of).iter().copied();
    let promised = promised.chain(spawned.then_some((Resource::RLIMIT_NPROC, 0)));
    let beyond = promised.filter_map(|(resource, limit)| {
        let name = name(resource)?;
        let (soft, hard) = posture.limits.get(name).copied().unwrap_or_default();
        let kept = [soft, hard].iter().all(|value| value.is_some_and(|value| value <= limit));
        let shown = |value: Option<u64>| value.map_or("unlimited".to_owned(), |value| value.to_string());
        (!kept).then(|| format!("{name}: {} and {}, not {limit}", shown(soft), shown(hard)))
    });
    beyond.collect()
}

/// As /proc/PID/limits calls it.
fn name(resource: Resource) -> Option<&'static str> {
    match resource {
        Resource::RLIMIT_CORE => Some("Max core file size"),
        Resource::RLIMIT_MSGQUEUE => Some("Max msgqueue size"),
        Resource::RLIMIT_NOFILE => Some("Max open files"),
        Resource::RLIMIT_NPROC => Some("Max processes"),
        Resource::RLIMIT_SIGPENDING => Some("Max pending signals"),
        _ => None,
    }
}

fn of_surroundings(program: Program, posture: &Posture) -> Vec<String> {
    let mut found = Vec::new();
    for (kind, own) in posture.namespaces.iter().flatten() {
        // A namespace for time is no part of the confinement.
        if !own && kind != "time" {
            found.push(format!("{kind} namespace: the reader's own"));
        }
    }
    if let Some(mounts) = &posture.mounts {
        let safe = |mount: &String| {
            let words: Vec<&str> = mount.split([' ', ',']).collect();
            ["nosuid", "nodev", "noexec"].iter().all(|option| words.contains(option))
        };
        if mounts.len() != 1 || !mounts.iter().all(safe) {
            found.push(format!("mounts: {}", mounts.join("; ")));
        }
    }
    match posture.root_entries {
        Some(entries) if entries > 0 && program.root() == Root::Empty => {
            found.push(format!("root: {entries} entries, not empty"));
        }
        _ => {}
    }
    // What a program can reach with relative paths is not to be more than its root.
    if let Some(directory) = posture.working_directory.as_deref().filter(|directory| *directory != "/") {
        found.push(format!("working directory: {directory}, not /"));
    }
    if posture.environment.is_some_and(|variables| variables > 0) {
        found.push("environment: not empty".to_owned());
    }
    let placed = [(0, "/dev/null"), (1, "/dev/null"), (2, "pipe"), (3, "socket")];
    for (number, kind) in placed {
        let Some(descriptors) = &posture.descriptors else { continue };
        let there = descriptors.get(&number);
        if there.is_none_or(|there| there != kind) {
            found.push(format!("descriptor {number}: {}, not {kind}", there.map_or("none", String::as_str)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn posture(program: Program) -> Posture {
        let thread = Credentials {
            name: program.name().to_owned(),
            uids: vec![7; 4],
            gids: vec![7; 4],
            ns_pids: vec![99, 1],
            no_new_privs: true,
            seccomp: 2,
            filters: 3,
            ..Credentials::default()
        };
        let limits = limits::of(program).iter().copied().chain([(Resource::RLIMIT_NPROC, 0)]);
        let placed = [(0, "/dev/null"), (1, "/dev/null"), (2, "pipe"), (3, "socket")];
        Posture {
            pid: 99,
            threads: vec![thread.clone(), thread],
            namespaces: Some(BTreeMap::from([("user".to_owned(), true), ("time".to_owned(), false)])),
            descriptors: Some(placed.map(|(number, kind)| (number, kind.to_owned())).into()),
            limits: limits
                .map(|(resource, limit)| (name(resource).unwrap().to_owned(), (Some(limit), Some(limit))))
                .collect(),
            mounts: Some(vec!["/ tmpfs ro,nosuid,nodev,noexec,relatime".to_owned()]),
            root_entries: Some(0),
            working_directory: Some("/".to_owned()),
            environment: Some(0),
            inner_ids: [Some(1000); 2],
            dumpable: Some(false),
            control_groups: None,
        }
    }

    type Change = fn(&mut Posture);

    fn found(change: impl FnOnce(&mut Posture)) -> Vec<String> {
        let mut posture = posture(Program::DeviceBlk);
        change(&mut posture);
        differences(Role::Spawned(Program::DeviceBlk), &posture)
    }

    #[test]
    fn what_is_as_promised_is_no_difference_and_what_is_not_shown_neither() {
        for program in Program::ALL.into_iter().filter(|program| *program != Program::Launcher) {
            assert_eq!(differences(Role::Spawned(program), &posture(program)), Vec::<String>::new());
        }
        let hidden = found(|posture| {
            (posture.namespaces, posture.descriptors, posture.mounts) = (None, None, None);
            (posture.root_entries, posture.environment, posture.dumpable) = (None, None, None);
            posture.working_directory = None;
        });
        assert_eq!(hidden, Vec::<String>::new());
        // A directory may have what it has.
        let mut shared = posture(Program::DeviceFs);
        shared.root_entries = Some(9);
        assert_eq!(differences(Role::Spawned(Program::DeviceFs), &shared), Vec::<String>::new());
    }

    #[test]
    fn each_thing_that_is_less_is_named() {
        let cases: [(Change, &str); 16] = [
            (|it| it.threads[1].seccomp = 0, "thread device-blk: seccomp: mode 0, not 2 (filter)"),
            (|it| it.threads[1].filters = 2, "thread device-blk: seccomp: 2 filters, not 3 at least"),
            (
                |it| it.threads[1].tracer = 7,
                "thread device-blk: traced: process 7 sees and changes it, and may have it make calls that its filters refuse",
            ),
            (|it| it.threads[0].no_new_privs = false, "thread device-blk: no_new_privs: not set"),
            (|it| it.threads[0].capabilities[3] = 1, "thread device-blk: capabilities: 0x1"),
            (|it| it.threads[1].capabilities[2] = 2, "thread device-blk: capabilities: 0x2"),
            (|it| it.threads[0].ns_pids = vec![99], "thread device-blk: pid namespace: the reader's own"),
            (
                |it| _ = it.limits.insert("Max processes".to_owned(), (Some(0), None)),
                "Max processes: 0 and unlimited, not 0",
            ),
            (|it| _ = it.limits.remove("Max open files"), "Max open files: unlimited and unlimited, not 640"),
            (|it| it.dumpable = Some(true), "dumpable: it is"),
            (
                |it| _ = it.namespaces.as_mut().unwrap().insert("net".to_owned(), false),
                "net namespace: the reader's own",
            ),
            (
                |it| it.mounts = Some(vec!["/ ext4 rw,nosuid,nodev".to_owned()]),
                "mounts: / ext4 rw,nosuid,nodev",
            ),
            (|it| it.root_entries = Some(3), "root: 3 entries, not empty"),
            (|it| it.working_directory = Some("/root".to_owned()), "working directory: /root, not /"),
            (|it| it.environment = Some(1), "environment: not empty"),
            (
                |it| _ = it.descriptors.as_mut().unwrap().insert(3, "/etc/shadow".to_owned()),
                "descriptor 3: /etc/shadow, not socket",
            ),
        ];
        for (change, difference) in cases {
            assert_eq!(found(change), [difference]);
        }
    }

    #[test]
    fn the_launcher_and_its_spawner_keep_what_is_said_of_them() {
        let mut posture = posture(Program::Launcher);
        for thread in &mut posture.threads {
            (thread.filters, thread.ns_pids) = (1, vec![99]);
            thread.capabilities[3] = u64::MAX;
        }
        assert_eq!(differences(Role::Launcher, &posture), Vec::<String>::new());
        posture.dumpable = Some(true);
        posture.threads[0].capabilities[2] = 1;
        assert_eq!(differences(Role::Spawner, &posture), Vec::<String>::new());
        assert_eq!(differences(Role::Launcher, &posture).len(), 2);
        posture.threads[0].seccomp = 0;
        assert_eq!(differences(Role::Spawner, &posture).len(), 1);
    }

    #[test]
    fn who_confines_itself_is_held_to_what_that_gives() {
        let mut foreign = posture(Program::DeviceNet);
        foreign.threads.iter_mut().for_each(|thread| (thread.filters, thread.ns_pids) = (1, vec![99]));
        foreign.limits = BTreeMap::from([("Max core file size".to_owned(), (Some(0), Some(0)))]);
        let own = |kind: &str, own| (kind.to_owned(), own);
        let kinds = [own("user", true), own("mnt", true), own("net", false), own("pid", false)];
        foreign.namespaces = Some(kinds.into());
        (foreign.root_entries, foreign.environment) = (Some(3), Some(2));
        assert_eq!(differences(Role::Foreign, &foreign), Vec::<String>::new());
        foreign.namespaces.as_mut().unwrap().insert("mnt".to_owned(), false);
        foreign.threads[1].seccomp = 0;
        foreign.threads[0].capabilities[2] = 1;
        foreign.limits.clear();
        let found = differences(Role::Foreign, &foreign);
        for what in ["seccomp: mode 0", "capabilities: 0x1", "mnt namespace", "Max core file size"] {
            assert!(found.iter().any(|line| line.contains(what)), "{what}: {found:?}");
        }
        assert_eq!(found.len(), 4, "{found:?}");
    }
}
