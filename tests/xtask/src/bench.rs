//! `cargo xtask bench`: what is measured on this host, with programs of the release profile.

use crate::failure::Outcome;
use crate::stand_ins;
use crate::workspace::{Profile, Workspace};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    /// How long a disk is away when its program dies.
    Recovery,
    /// What a limited disk and a limited link do in a second.
    Limits,
}

/// Prints what was asked for and what was had.
pub fn limits(workspace: &Workspace) -> Outcome<bool> {
    stand_ins::run(workspace, Profile::Release, "bench", |command, _| {
        command.arg("limits");
    })
}

/// Kills `device-blk` so often, and prints how long it took until it served again.
pub fn recovery(workspace: &Workspace, deaths: u16) -> Outcome<bool> {
    stand_ins::run(workspace, Profile::Release, "bench", |command, stand_in| {
        command.arg("recovery").arg(stand_in).arg(deaths.to_string());
    })
}
