//! Compares the posture of a probe in its serving stage, read from outside, with the written expectation.

use std::fmt::Debug;

use sandbox_policies::posture::{self, Posture};
use sandbox_policies::{Requirement, Root};

use crate::Count;
use crate::driver::Probe;
use crate::expectations::{
    DIRECTORY_MOUNT, EXPECTATIONS, Expectation, FILTERS, LIMITS, MOUNT, NAMESPACES, descriptors, signals,
};
use crate::probe::POSE;

/// Reads and compares one probe of each program.
pub fn each_probe_is_confined_as_written(who: &str) -> Result<Count, String> {
    let mut count = Count::default();
    for expectation in &EXPECTATIONS {
        let mut probe = Probe::start(expectation.program, expectation.stage, POSE, Requirement::Required)?;
        probe.confined()?;
        let posture = posture::read(probe.child.pid()).map_err(|error| error.to_string())?;
        println!("{who} posture of {}: {posture}", expectation.program.name());
        for (what, result) in compare(&posture, expectation, &probe) {
            count.add(&format!("{who} posture of {}: {what}", expectation.program.name()), result);
        }
        probe.child.kill().map_err(|error| error.to_string())?;
        probe.child.wait().map_err(|error| error.to_string())?;
    }
    Ok(count)
}

type Comparison = (String, Result<(), String>);

fn compare(posture: &Posture, expectation: &Expectation, probe: &Probe) -> Vec<Comparison> {
    let mut all = vec![("threads".to_owned(), same(&posture.threads.len(), &expectation.threads))];
    let (uid, gid) = (probe.identity.outer_uid, probe.identity.outer_gid);
    for (nth, thread) in posture.threads.iter().enumerate() {
        let mut add = |what, result| all.push((format!("thread {nth}: {what}"), result));
        add("uids", same(&thread.uids, &vec![uid; 4]));
        add("gids", same(&thread.gids, &vec![gid; 4]));
        add("groups", same(&thread.groups, &vec![]));
        add("capabilities", same(&thread.capabilities, &[0; 5]));
        add("no_new_privs", same(&thread.no_new_privs, &true));
        add("signals", same(&thread.signals, &signals(expectation.threads)));
        add("seccomp", same(&(thread.seccomp, thread.filters), &(2, FILTERS)));
        add(
            "pid in its namespace",
            same(&thread.ns_pids.last(), &i32::try_from(nth).ok().map(|n| n + 1).as_ref()),
        );
    }
    for (name, limit) in LIMITS.into_iter().chain([("Max open files", expectation.open_files)]) {
        let limit = Some((Some(limit), Some(limit)));
        all.push((format!("limit {name}"), same(&posture.limits.get(name).copied(), &limit)));
    }
    all.extend(readable_by_root(posture, expectation.program.root()));
    all
}

/// What a process that is not dumpable shows to root alone: nobody else may read it. Its mounts and its root
/// are shown to the user who made its user namespace, too.
fn readable_by_root(posture: &Posture, kind: Root) -> Vec<Comparison> {
    let root = nix::unistd::geteuid().is_root();
    let namespaces = posture
        .namespaces
        .as_ref()
        .map(|kinds| kinds.iter().filter(|(_, own)| **own).map(|(kind, _)| kind.clone()).collect::<Vec<_>>());
    let mounts = posture.mounts.as_ref().map(|mounts| mounts.iter().map(|it| options_of(it, kind)).collect());
    [
        ("namespaces", same(&namespaces, &root.then(|| NAMESPACES.map(str::to_owned).to_vec()))),
        ("descriptors", same(&posture.descriptors, &root.then(descriptors))),
        ("mounts", same(&mounts, &Some(vec![MOUNT.to_owned()]))),
        ("root", same(&posture.root_entries, &Some(0))),
        ("environment", same(&posture.environment, &root.then_some(0))),
    ]
    .map(|(what, result)| (what.to_owned(), result))
    .to_vec()
}

/// A mount without the options that say nothing of rights, such as `relatime`.
fn options_of(mount: &str, kind: Root) -> String {
    let words: Vec<&str> = mount.split([' ', ',']).collect();
    if kind != Root::Empty
        && words.first() == Some(&"/")
        && DIRECTORY_MOUNT.iter().all(|it| words.contains(it))
    {
        return MOUNT.to_owned();
    }
    mount.trim_end_matches(",relatime").to_owned()
}

fn same<T: PartialEq + Debug>(found: &T, wanted: &T) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("found {found:?}, wanted {wanted:?}")) }
}
