//! The files of the repository as git sees them: tracked, or new and not ignored, so that a rule is
//! broken before the commit and not after it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::syntax::Source;

/// The repository's folder and the files in it.
pub struct Tree {
    root: PathBuf,
    /// Paths relative to the root, sorted, with `/` between components.
    pub paths: Vec<String>,
}

impl Tree {
    /// The repository that this test was compiled from.
    pub fn of_repository() -> Result<Tree, String> {
        let root = root();
        // Who owns the checkout does not matter to a listing: containers often disagree with git about it.
        let listing = output(
            Command::new("git")
                .args(["-c", "safe.directory=*", "ls-files", "-z"])
                .args(["--cached", "--others", "--exclude-standard"])
                .current_dir(&root),
        )?;
        let mut paths: Vec<String> = listing
            .split('\0')
            .filter(|p| !p.is_empty() && root.join(p).is_file())
            .map(str::to_owned)
            .collect();
        paths.sort();
        paths.dedup();
        if paths.is_empty() {
            return Err(format!("{}: git lists no files", root.display()));
        }
        Ok(Tree { root, paths })
    }

    /// The text of one file.
    pub fn text(&self, path: &str) -> Result<String, String> {
        std::fs::read_to_string(self.root.join(path)).map_err(|e| format!("{path}: {e}"))
    }

    /// The bytes of one file, text or not, as far as they are UTF-8.
    pub fn lossy(&self, path: &str) -> Result<String, String> {
        let bytes = std::fs::read(self.root.join(path)).map_err(|e| format!("{path}: {e}"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// All Rust files, lexed.
    pub fn sources(&self) -> Result<Vec<Source>, String> {
        let rust = self.paths.iter().filter(|p| p.ends_with(".rs"));
        rust.map(|p| Source::lex(p, self.text(p)?)).collect()
    }
}

/// The workspace's folder: the parent of this package's.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}

/// Runs a command and returns what it wrote to its standard output.
pub fn output(command: &mut Command) -> Result<String, String> {
    let done = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if !done.status.success() {
        return Err(format!("{command:?}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr)));
    }
    String::from_utf8(done.stdout).map_err(|e| format!("{command:?}: {e}"))
}
