//! A running machine's control socket, asked as a user would: by `vmm ctl`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::{Ended, Error, Result, Running, children, program};

/// What `vmm ctl` says to these words at this socket.
pub fn ctl(socket: &Path, words: &[&str]) -> Result<Ended> {
    let mut command = Command::new(program("vmm")?);
    command.arg("ctl").arg(socket).args(words);
    Running::start(command)?.wait()
}

/// The same, where nothing but success will do. Returns what it printed.
pub fn told(socket: &Path, words: &[&str]) -> Result<String> {
    let ended = ctl(socket, words)?;
    if ended.code() == Some(0) {
        return Ok(ended.console);
    }
    Err(Error::Unexpected(format!("vmm ctl {}: {}", words.join(" "), ended.everything())))
}

/// How many bytes of the host the guest's memory takes: what its memfds hold, which each process of a device that is driven
/// has.
pub fn held(running: &Running) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let descriptors = children(running.pid()).into_iter().flat_map(|process| {
        std::fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter().flatten().flatten()
    });
    let is_memory = |path: &std::path::PathBuf| {
        std::fs::read_link(path).is_ok_and(|link| link.starts_with("/memfd:guest-memory (deleted)"))
    };
    // A process may die between being found and being looked at. Each memfd counts once, whoever has it.
    let found = descriptors.map(|entry| entry.path()).filter(is_memory);
    let memory: BTreeMap<u64, u64> = found
        .filter_map(|path| std::fs::metadata(path).ok())
        .map(|memory| (memory.ino(), memory.blocks().saturating_mul(512)))
        .collect();
    if memory.is_empty() {
        return Err(Error::Unexpected("no process has guest memory".to_owned()));
    }
    Ok(memory.values().sum())
}
