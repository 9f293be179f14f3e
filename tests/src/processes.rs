//! The product's processes as /proc shows them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use sandbox_policies::Program;

/// A live process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its program's file name where we may see it, else what the kernel calls it (15 bytes; after an
    /// exec by descriptor that may be a number).
    pub name: String,
    /// Its parent's id.
    pub parent: i32,
}

/// All live processes of the product's programs. A zombie is none: it holds nothing and waits for its
/// parent only.
pub fn of_ours() -> BTreeSet<Process> {
    let ours = |process: &Process| Program::ALL.iter().any(|program| program.name() == process.name);
    all().into_iter().filter(ours).collect()
}

/// The live children of process `parent`.
pub fn children(parent: i32) -> Vec<Process> {
    all().into_iter().filter(|process| process.parent == parent).collect()
}

fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(live).collect()
}

fn live(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc(5): pid (name) state ppid …; the name may hold anything, parentheses too.
    let (_, rest) = stat.split_once('(')?;
    let (name, rest) = rest.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let name = program.as_deref().and_then(Path::file_name).map_or(name.into(), OsStr::to_string_lossy);
    (state != "Z" && state != "X").then(|| Process { pid, name: name.into_owned(), parent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_seen_while_it_lives() {
        let me = i32::try_from(std::process::id()).unwrap();
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(children(me).iter().any(|process| process.pid == pid));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!children(me).iter().any(|process| process.pid == pid));
    }
}
