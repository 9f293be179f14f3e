//! Where the programs of `vmm` are: beside it, or in the libexec directory of the same installation.
//!
//! Never looked for in `PATH`: these programs are part of `vmm`, and whoever can put one there can do what it can.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use sandbox_policies::Program;

use crate::error::Error;
use crate::open;

/// A program, open for execution.
#[derive(Debug)]
pub struct Executable {
    /// Which one.
    pub program: Program,
    /// Where it was found.
    pub path: PathBuf,
    /// For execveat.
    pub fd: OwnedFd,
}

/// Each of `programs`, found and opened once.
pub fn find_all(programs: impl Iterator<Item = Program>) -> Result<Vec<Executable>, Error> {
    let mut found: Vec<Executable> = Vec::new();
    for program in programs {
        if among(&found, program).is_none() {
            found.push(find(program)?);
        }
    }
    Ok(found)
}

/// The one of `found` that is `program`.
pub fn among(found: &[Executable], program: Program) -> Option<&Executable> {
    found.iter().find(|executable| executable.program == program)
}

/// Finds and opens `program`.
pub fn find(program: Program) -> Result<Executable, Error> {
    let own = std::env::current_exe().unwrap_or_default();
    let candidates = candidates(&own, program.name());
    for path in &candidates {
        if let Ok(fd) = open::program(path) {
            return Ok(Executable { program, path: path.clone(), fd });
        }
    }
    let tried: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
    Err(Error::NoProgram { name: program.name(), tried: tried.join(", ") })
}

/// `DIR/name`, then `DIR/../libexec/vmm/name`, for a `vmm` in DIR.
fn candidates(own: &Path, name: &str) -> Vec<PathBuf> {
    let Some(folder) = own.parent() else { return Vec::new() };
    let beside = folder.join(name);
    let libexec = folder.parent().map(|prefix| prefix.join("libexec/vmm").join(name));
    std::iter::once(beside).chain(libexec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_beside_vmm_or_in_libexec() {
        let found = candidates(Path::new("/usr/bin/vmm"), "vmm-core");
        assert_eq!(found, [Path::new("/usr/bin/vmm-core"), Path::new("/usr/libexec/vmm/vmm-core")]);
        assert!(candidates(Path::new(""), "vmm-core").is_empty());
    }
}
