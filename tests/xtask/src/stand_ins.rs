//! `cargo xtask record-peers`, and what benches have in common with it: the real programs with stand-ins for some of them,
//! on this host and without a guest.

use std::process::{Command, Stdio};

use crate::failure::{Outcome, Tried};
use crate::workspace::{Profile, Workspace};

/// Writes the recording of this minor version.
pub fn record_peers(workspace: &Workspace) -> Outcome<bool> {
    let folder = workspace.tests_folder().join("protocol/peers");
    run(workspace, Profile::Debug, "recorder", |command, stand_in| {
        command.arg(stand_in).arg(folder);
    })
}

/// Builds the product's programs, the stand-in and `program`, and runs that with the arguments that `add` adds.
pub fn run(
    workspace: &Workspace,
    profile: Profile,
    program: &str,
    add: impl FnOnce(&mut Command, &std::path::Path),
) -> Outcome<bool> {
    let programs = workspace.build_programs(profile)?;
    let stand_in = workspace.build_program("system-tests", "stand-in", profile)?;
    let file = workspace.build_program("system-tests", program, profile)?;
    crate::progress::step(program);
    let mut command = Command::new(&file);
    command.env("VMM_BIN_DIR", &programs).stdin(Stdio::null());
    add(&mut command, &stand_in);
    crate::progress::clear();
    let status = command.status().tried(|| format!("cannot run {}", file.display()))?;
    Ok(status.success())
}
