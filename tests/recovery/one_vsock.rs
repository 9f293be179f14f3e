//! A guest whose vsock's program dies again and again: the connections that it had end on both sides, and new ones work at
//! once.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use system_tests::sockets::{comes_back, connect, ends};
use system_tests::{Machine, Result, Running, warnings, within};

use crate::one_process::dies;
use crate::plan::Plan;

/// The deaths of a run that has to be short.
const KILLS: usize = 20;
/// Connections that each death ends.
const OPEN: usize = 20;

/// How many connections the guest has lost.
fn lost(running: &Running) -> usize {
    running.console().matches("@@lost ").count()
}

#[test]
fn connections_end_with_the_program_of_a_vsock_and_new_ones_work_at_once() -> Result<()> {
    let mut plan = Plan::of_environment(KILLS);
    println!("VMM_KILLS={} VMM_SEED={}", plan.kills, plan.seed);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("vm");
    // Where the host's file system maps no owners (tmpfs before Linux 6.3), root's program is a stranger.
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).expect("its owner");
    let device = format!("vsock,cid=42,path={}", path.display());
    let mut running = Machine::new("survive-vsock").option("cpus", "2").option("device", &device).start()?;
    running.wait_for("echoing")?;
    for death in 1..=plan.kills {
        let open = (0..OPEN).map(|_| connect(&path, 1024)).collect::<Result<Vec<_>>>()?;
        open.iter().try_for_each(|stream| comes_back(stream, b"before"))?;
        dies(&running, "device-vsock", "vsock0", death, plan.moment())?;
        for mut stream in open {
            assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "the host's program has its end");
        }
        within("the guest's ends", || (lost(&running) >= death * OPEN).then_some(()))?;
        let new = connect(&path, 1024)?;
        comes_back(&new, b"after")?;
        ends(&new)?;
    }
    running.type_line("end")?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert_eq!(ended.everything().matches("@@lost ").count(), plan.kills * OPEN);
    assert_eq!(ended.everything().matches("@@ended ").count(), plan.kills, "each new one in order");
    assert_eq!(ended.log.matches("vmm: device vsock0 died: killed by SIGKILL").count(), plan.kills);
    warnings::none_of_ours(&ended)
}
