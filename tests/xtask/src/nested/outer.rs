//! The outer guest's initramfs: busybox, KVM's modules, and the job: the product's programs, the test
//! programs and the inner guests' artifacts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Job;
use crate::artifacts::{self, Artifacts};
use crate::failure::{Outcome, Tried};
use crate::host;
use crate::workspace::Workspace;

/// Writes the initramfs for `job` into `folder`.
pub fn initramfs(
    workspace: &Workspace,
    artifacts: &Artifacts,
    job: &Job<'_>,
    folder: &Path,
) -> Outcome<PathBuf> {
    let mut archive = artifacts.userland(&artifacts::OUTER_MODULES)?;
    archive.file("init", 0o755, &artifacts::read(&workspace.tests_folder().join("nested/init"))?);
    for path in ["job", "job/bin", "job/runs", "job/artifacts"] {
        archive.folder(path);
    }
    for name in workspace.programs()? {
        archive.file(&format!("job/bin/{name}"), 0o755, &stripped(&job.programs.join(&name), folder)?);
    }
    let mut order = String::new();
    for (name, file) in &job.runs {
        archive.file(&format!("job/runs/{name}"), 0o755, &stripped(file, folder)?);
        order.push_str(&format!("{name}\n"));
    }
    archive.file("job/order", 0o644, order.as_bytes());
    for (name, lines) in [("arguments", job.arguments), ("settings", job.settings)] {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        archive.file(&format!("job/{name}"), 0o644, text.as_bytes());
    }
    for name in &artifacts.for_guests {
        let content = artifacts::read(&artifacts.folder.join(name))?;
        archive.file(&format!("job/artifacts/{name}"), 0o755, &content);
    }
    for path in ["lib", "lib64", "lib/x86_64-linux-gnu"] {
        archive.folder(path);
    }
    for (path, file) in &artifacts.for_outer {
        archive.file(path, 0o755, &artifacts::read(file)?);
    }
    let file = folder.join("initramfs");
    fs::write(&file, archive.finish()).tried(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// The program without its debugging information, which is most of it and slows the emulator's start.
fn stripped(program: &Path, folder: &Path) -> Outcome<Vec<u8>> {
    let copy = folder.join("stripped");
    host::output_of(Command::new("strip").arg("--strip-debug").arg("-o").arg(&copy).arg(program))?;
    artifacts::read(&copy)
}
