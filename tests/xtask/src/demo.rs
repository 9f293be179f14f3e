//! `cargo xtask demo`: a real guest, and the confinement of each process while it runs.

use std::process::{Command, Stdio};

use crate::artifacts::Artifacts;
use crate::failure::{Outcome, Tried};
use crate::nested::{self, Job, Rig};
use crate::workspace::{Profile, Workspace};

/// Builds what is needed, boots, shows; returns whether all went well.
pub fn run(workspace: &Workspace) -> Outcome<bool> {
    let rig = Rig::detect()?;
    let programs = workspace.build_programs(Profile::Debug)?;
    let demo = workspace.build_program("system-tests", "demo", Profile::Debug)?;
    let artifacts = Artifacts::prepare(workspace)?;
    crate::progress::clear();
    println!("the guest runs {rig}");
    if rig == Rig::Direct {
        crate::progress::step("the guest boots");
        let status = Command::new(demo)
            .env("VMM_BIN_DIR", &programs)
            .env("VMM_ARTIFACTS", &artifacts.folder)
            .stdin(Stdio::null())
            .status()
            .tried(|| "cannot run the demonstration".to_owned())?;
        return Ok(status.success());
    }
    let job =
        Job { programs: &programs, runs: vec![("demo", demo.as_path())], arguments: &[], settings: &[] };
    let mut run = nested::run(workspace, &artifacts, &job)?;
    if let Some(stuck) = &run.stuck {
        crate::progress::clear();
        println!("nested rig: the emulator itself stopped ({stuck}); starting it again, once");
        run = nested::run(workspace, &artifacts, &job)?;
    }
    crate::progress::clear();
    let mut succeeded = false;
    for program in run.programs {
        let shown = program.output.lines().filter(|line| !line.starts_with("@@"));
        println!("{}", shown.collect::<Vec<_>>().join("\n").trim_end());
        succeeded = program.succeeded;
    }
    Ok(succeeded)
}
