//! `cargo xtask`: the project's own chores: real guests to test with, all tests, fuzzing, benches, a
//! demonstration.

mod artifacts;
mod bench;
mod demo;
mod failure;
mod fuzz;
mod groups;
mod host;
mod libtest;
mod nested;
mod progress;
mod stand_ins;
mod suite;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::Outcome;
use crate::workspace::Workspace;

/// Chores of the vmm workspace.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Runs the tests, all groups or those named: unit, architecture, protocol, launcher,
    /// confinement, devices, boot, recovery.
    ///
    /// VMM_KILLS=N in the environment says how many deaths of devices the group `recovery` makes each of two guests
    /// survive, VMM_SEED=N makes the choices of an earlier run again, and VMM_MEBIBYTES=N says how much the guest with every
    /// device moves over its network (16 unless told otherwise).
    Test {
        /// Groups to run; all if none is named.
        groups: Vec<String>,
        /// Handed on to each test program, e.g. a part of a test's name.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Fetches and builds the guests' kernel, their initramfs and the disk with fio.
    Artifacts,
    /// Measures, natively and in the release profile.
    Bench {
        /// What: `recovery`, how long a disk is away when its program dies; `limits`, whether limited devices keep to them.
        what: bench::What,
        /// How often it is killed.
        #[arg(long, default_value_t = 100)]
        deaths: u16,
    },
    /// Feeds hostile input to what takes it, guided by the coverage of the code (libFuzzer).
    Fuzz(fuzz::Options),
    /// Records what a launcher and a device of this version say, for the tests of later ones.
    RecordPeers,
    /// Boots the distribution's kernel and shows how each process is confined.
    Demo,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = run(&arguments.chore);
    progress::clear();
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: &Chore) -> Outcome<bool> {
    let workspace = Workspace::load()?;
    match chore {
        Chore::Test { groups, arguments } => suite::run(&workspace, groups, arguments),
        Chore::Artifacts => {
            let mut artifacts = artifacts::Artifacts::prepare(&workspace)?;
            artifacts.prepare_fio(&workspace)?;
            artifacts.prepare_passt(&workspace)?;
            artifacts.prepare_qemu(&workspace)?;
            progress::clear();
            println!("{}", artifacts.folder.display());
            Ok(true)
        }
        Chore::Bench { what: bench::What::Recovery, deaths } => bench::recovery(&workspace, *deaths),
        Chore::Bench { what: bench::What::Limits, .. } => bench::limits(&workspace),
        Chore::Fuzz(options) => fuzz::run(&workspace, options),
        Chore::RecordPeers => stand_ins::record_peers(&workspace),
        Chore::Demo => demo::run(&workspace),
    }
}
