//! A guest whose directory's program dies again and again under a writer of files: what it was told is done is there.

use std::os::unix::fs::PermissionsExt;
use system_tests::{Machine, Result, Running, warnings, within};

use crate::one_process::dies;
use crate::plan::Plan;

/// The deaths of a run that has to be short.
const KILLS: usize = 20;

/// How often the guest has said that it is alive.
fn told(running: &Running) -> usize {
    running.console().matches("@@made ").count()
}

#[test]
fn nothing_that_a_guest_was_told_is_done_is_lost_with_its_directorys_program() -> Result<()> {
    let mut plan = Plan::of_environment(KILLS);
    println!("VMM_KILLS={} VMM_SEED={}", plan.kills, plan.seed);
    let folder = tempfile::tempdir().expect("a folder");
    // Where the host's file system maps no owners (tmpfs before Linux 6.3), root's program is a stranger.
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).expect("its owner");
    let device_option = format!("fs,path={},tag=shared", folder.path().display());
    let mut running =
        Machine::new("survive-share").option("cpus", "2").option("device", &device_option).start()?;
    running.wait_for("checking")?;
    for death in 1..=plan.kills {
        let before = told(&running);
        within("files that are made", || (told(&running) > before).then_some(()))?;
        dies(&running, "device-fs", "fs0", death, plan.moment())?;
    }
    let before = told(&running);
    within("files that are made", || (told(&running) > before).then_some(()))?;
    running.type_line("end")?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    let done = ended.said("files")?;
    assert!(done.ends_with("lost=0"), "{}", ended.everything());
    println!("measured: {done} over {} deaths", plan.kills);
    assert_eq!(ended.log.matches("vmm: device fs0 died: killed by SIGKILL").count(), plan.kills);
    warnings::none_of_ours(&ended)
}
