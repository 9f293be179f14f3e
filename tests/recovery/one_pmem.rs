//! Persistent memory whose flushes are served by one process after the other: none fails, and what was acknowledged is there.

use system_tests::{Disk, Machine, Result, warnings};

use crate::one_process::dies;
use crate::plan::Plan;

/// The deaths of a run that has to be short.
const KILLS: usize = 20;
const BLOCK: usize = 4096;

/// How many blocks the guest says were flushed.
fn flushed(console: &str) -> usize {
    let words = console.lines().filter_map(|line| line.split_once("@@flushed-"));
    words.filter_map(|(_, number)| number.trim().parse().ok()).max().unwrap_or(0)
}

#[test]
fn nothing_acknowledged_is_lost_and_no_flush_fails_whatever_its_devices_die_of() -> Result<()> {
    let mut plan = Plan::of_environment(KILLS);
    println!("VMM_KILLS={} VMM_SEED={}", plan.kills, plan.seed);
    let file = Disk::empty(8 << 20)?;
    let device_option = format!("pmem,path={}", file.path().display());
    let mut running =
        Machine::new("pmem-storm").option("cpus", "2").option("device", &device_option).start()?;
    running.wait_for("writing")?;
    for death in 1..=plan.kills {
        let before = flushed(&running.console());
        running
            .wait_for_console("more that is flushed", |console| (flushed(console) > before).then_some(()))?;
        dies(&running, "device-pmem", "pmem0", death, plan.moment())?;
    }
    let before = flushed(&running.console());
    running.wait_for_console("more that is flushed", |console| (flushed(console) > before).then_some(()))?;
    running.type_line("")?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    let said = ended.said("flushed-and-failed")?;
    let (number, failed) = said.split_once(' ').expect("two numbers");
    assert_eq!(failed, "0", "{}", ended.everything());
    let number: usize = number.parse().expect("a number");
    // Of the blocks at one place the last one is there.
    let content = file.content()?;
    let blocks = content.len() / BLOCK;
    for block in number.saturating_sub(blocks - 1).max(1)..=number {
        let meant = format!("block {block}\0");
        let found = &content[block % blocks * BLOCK..];
        assert!(found.starts_with(meant.as_bytes()), "{meant:?}: {:?}", found.first_chunk::<32>());
    }
    println!("measured: {number} blocks flushed over {} deaths", plan.kills);
    warnings::none_of_ours(&ended)
}
