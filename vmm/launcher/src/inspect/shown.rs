//! What is seen of a machine's processes, for a person and as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use sandbox_policies::posture::{Credentials, Posture};

use super::Seen;
use crate::json::{Object, quoted};
use crate::report::printable;

const HIDDEN: &str = "hidden from this user";

/// A block of lines for each process, and what it comes to.
pub fn screen(all: &[Seen]) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for seen in all {
        let status = &seen.status;
        let program =
            if status.name == status.program { String::new() } else { format!(" {}", status.program) };
        let _ = writeln!(text, "{}{program} (pid {}): {}", status.name, status.pid, status.state);
        match &seen.posture {
            Some(posture) => rows(seen, posture).iter().for_each(|(key, value)| {
                let _ = writeln!(text, "  {key:<12} {}", printable(value));
            }),
            None => text.push_str("  is gone\n"),
        }
        if !status.ready {
            text.push_str("  not ready yet, and so not compared with what is promised of it\n");
        }
        for difference in &seen.differences {
            let _ = writeln!(text, "  DIFFERENT    {}", printable(difference));
        }
    }
    let different = all.iter().filter(|seen| !seen.differences.is_empty()).count();
    let hidden = all.iter().filter_map(|seen| seen.posture.as_ref()).filter(|posture| hides(posture)).count();
    let _ = match different {
        0 => writeln!(text, "{} processes, each confined as its policy promises", all.len()),
        _ => writeln!(text, "{different} of {} processes less confined than promised", all.len()),
    };
    if hidden > 0 {
        let _ = writeln!(text, "of {hidden} of them something is {HIDDEN}: root sees all");
    }
    text
}

fn hides(posture: &Posture) -> bool {
    posture.namespaces.is_none()
        || posture.descriptors.is_none()
        || posture.mounts.is_none()
        || posture.root_entries.is_none()
        || posture.working_directory.is_none()
        || posture.environment.is_none()
}

/// What all have in common, or the range.
fn over_threads<T: Ord + ToString>(posture: &Posture, of: impl Fn(&Credentials) -> T) -> String {
    let values: BTreeSet<T> = posture.threads.iter().map(of).collect();
    values.iter().map(T::to_string).collect::<Vec<_>>().join(" or ")
}

fn rows(seen: &Seen, posture: &Posture) -> Vec<(&'static str, String)> {
    let hidden = || HIDDEN.to_owned();
    let names: Vec<&str> = posture.threads.iter().map(|thread| thread.name.as_str()).collect();
    let namespaces = posture.namespaces.as_ref().map_or_else(hidden, |kinds| {
        let own: Vec<&str> = kinds.iter().filter(|(_, own)| **own).map(|(kind, _)| kind.as_str()).collect();
        if own.is_empty() { "the reader's own".to_owned() } else { format!("of its own: {}", own.join(" ")) }
    });
    let entries = posture.root_entries.map_or_else(hidden, |count| format!("{count} entries"));
    let mounts = posture.mounts.as_ref().map_or_else(hidden, |mounts| match mounts.as_slice() {
        [only] => only.clone(),
        mounts => format!("{} mounts", mounts.len()),
    });
    let open = posture.descriptors.as_ref().map_or_else(hidden, descriptors);
    let limits: Vec<String> = limits(posture).map(|(name, value)| format!("{name} {value}")).collect();
    let groups = posture.control_groups.as_ref().map_or_else(hidden, |groups| groups.join(" "));
    let mut rows = vec![
        ("ids", ids(posture)),
        ("threads", format!("{}: {}", names.len(), names.join(" "))),
        ("capabilities", capabilities(posture)),
        ("seccomp", seccomp(posture)),
        ("speculation", over_threads(posture, |thread| thread.speculation.join(", "))),
        ("namespaces", namespaces),
        ("root", format!("{entries}; {mounts}")),
        ("directory", posture.working_directory.clone().unwrap_or_else(hidden)),
        ("descriptors", open),
        ("limits", limits.join(", ")),
        ("cgroup", groups),
    ];
    if seen.status.landlock_abi > 0 {
        rows.push(("landlock", format!("ABI {}, by its own word", seen.status.landlock_abi)));
    }
    rows
}

fn ids(posture: &Posture) -> String {
    let of = |ids: Vec<u32>| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let users = over_threads(posture, |thread| of(thread.uids.clone()));
    let groups = over_threads(posture, |thread| of(thread.gids.clone()));
    let others = over_threads(posture, |thread| thread.groups.len());
    let [user, group] = posture.inner_ids.map(|id| id.map_or("nobody".to_owned(), |id| id.to_string()));
    format!("user {users}, group {groups}, {others} more groups; to itself {user}, {group}")
}

fn capabilities(posture: &Posture) -> String {
    let held = over_threads(posture, |thread| {
        let [inheritable, permitted, effective, bounding, ambient] = thread.capabilities;
        match inheritable | permitted | effective | ambient {
            0 => format!("none, bounding set {bounding:#x}"),
            held => format!("{held:#x}, bounding set {bounding:#x}"),
        }
    });
    let sealed = over_threads(posture, |thread| thread.no_new_privs);
    let dumpable = posture.dumpable.map_or("cannot be seen".to_owned(), |dumpable| dumpable.to_string());
    format!("{held}; no_new_privs {sealed}; dumpable {dumpable}")
}

fn seccomp(posture: &Posture) -> String {
    over_threads(posture, |thread| match thread.seccomp {
        0 => "off".to_owned(),
        1 => "strict".to_owned(),
        _ => format!("{} filters on each thread", thread.filters),
    })
}

/// By kind, those that have a place of their own with their number.
fn descriptors(all: &BTreeMap<i32, String>) -> String {
    let mut kinds: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (number, kind) in all {
        kinds.entry(kind).or_default().push(number.to_string());
    }
    let kinds = kinds.iter().map(|(kind, numbers)| format!("{kind} ({})", numbers.join(" ")));
    kinds.collect::<Vec<_>>().join(", ")
}

/// Those that limit anything.
fn limits(posture: &Posture) -> impl Iterator<Item = (&str, u64)> {
    posture.limits.iter().filter_map(|(name, (_, hard))| Some((name.as_str(), (*hard)?)))
}

/// One object, of one line.
pub fn json(all: &[Seen]) -> String {
    let different = all.iter().any(|seen| !seen.differences.is_empty());
    let whole = Object::new().switch("different", different);
    format!("{}\n", whole.list("processes", all.iter().map(process)).end())
}

/// A member with a value, or null where that is hidden.
fn or_null(value: Option<String>) -> String {
    value.unwrap_or_else(|| "null".to_owned())
}

fn process(seen: &Seen) -> String {
    let status = &seen.status;
    let object = Object::new().text("name", &status.name).text("program", &status.program);
    let object = object.text("state", &status.state).number("pid", status.pid).switch("ready", status.ready);
    let object = object.number("landlock_abi_said", status.landlock_abi);
    let object = object.list("differences", seen.differences.iter().map(|line| quoted(line)));
    let Some(posture) = &seen.posture else { return object.switch("gone", true).end() };
    let texts = |all: &[String]| crate::json::array(all.iter().map(|one| quoted(one)));
    let namespaces = posture.namespaces.as_ref().map(|kinds| {
        let kinds = kinds.iter().fold(Object::new(), |object, (kind, own)| object.switch(kind, *own));
        kinds.end()
    });
    let descriptors = posture.descriptors.as_ref().map(|all| {
        let one =
            |(number, kind): (&i32, &String)| Object::new().number("number", number).text("kind", kind).end();
        crate::json::array(all.iter().map(one))
    });
    let limit = |(name, (soft, hard)): (&String, &(Option<u64>, Option<u64>))| {
        let shown = |value: &Option<u64>| or_null(value.map(|value| value.to_string()));
        Object::new().text("name", name).json("soft", shown(soft)).json("hard", shown(hard)).end()
    };
    let [user, group] = posture.inner_ids.map(|id| or_null(id.map(|id| id.to_string())));
    let object = object.list("threads", posture.threads.iter().map(thread));
    let object = object.json("user_to_itself", user).json("group_to_itself", group);
    let object = object.json("dumpable", or_null(posture.dumpable.map(|dumpable| dumpable.to_string())));
    let object = object.json("own_namespaces", or_null(namespaces));
    let object = object.json("mounts", or_null(posture.mounts.as_deref().map(texts)));
    let object = object.json("root_entries", or_null(posture.root_entries.map(|count| count.to_string())));
    let directory = posture.working_directory.as_deref().map(crate::json::quoted);
    let object = object.json("working_directory", or_null(directory));
    let environment = posture.environment.map(|count| count.to_string());
    let object = object.json("environment_variables", or_null(environment));
    let object = object.json("descriptors", or_null(descriptors));
    let object = object.list("limits", posture.limits.iter().map(limit));
    object.json("control_groups", or_null(posture.control_groups.as_deref().map(texts))).end()
}

fn thread(thread: &Credentials) -> String {
    let numbers = |all: &[u32]| crate::json::array(all.iter().map(u32::to_string));
    let [inheritable, permitted, effective, bounding, ambient] = thread.capabilities;
    let capabilities = [
        ("inheritable", inheritable),
        ("permitted", permitted),
        ("effective", effective),
        ("bounding", bounding),
        ("ambient", ambient),
    ];
    let object = Object::new().text("name", &thread.name).json("user_ids", numbers(&thread.uids));
    let object = object.json("group_ids", numbers(&thread.gids)).json("groups", numbers(&thread.groups));
    let object = capabilities.into_iter().fold(object, |object, (name, set)| {
        object.text(&format!("capabilities_{name}"), &format!("{set:#x}"))
    });
    let object = object.switch("no_new_privs", thread.no_new_privs);
    object.number("seccomp_mode", thread.seccomp).number("seccomp_filters", thread.filters).end()
}
