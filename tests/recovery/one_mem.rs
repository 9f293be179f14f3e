//! A guest whose memory is plugged in and out while the program of that dies again and again: how much is what was asked for,
//! the driver is told nothing that is not so, and what the guest keeps is not touched.

use std::cell::Cell;
use std::path::Path;

use system_tests::control::told;
use system_tests::{Machine, Result, progress, warnings, within};

use crate::one_process::{SETTLED, killed};
use crate::plan::Plan;

/// The deaths of a run that has to be short.
const KILLS: usize = 20;
/// What it is asked for between two times that it is asked for the same.
const BETWEEN: &str = "128M";
/// Looks at what it has, after which it is asked again.
const LOOKS: usize = 60;
/// What the guest is to have, in turn, as it is asked and as it is told.
const GIVEN: [(&str, &str); 2] = [("256M", "256M"), ("0", "0 bytes")];

#[test]
fn as_much_is_plugged_as_was_asked_whenever_its_program_dies() -> Result<()> {
    let mut plan = Plan::of_environment(KILLS);
    println!("VMM_KILLS={} VMM_SEED={}", plan.kills, plan.seed);
    let folder = tempfile::tempdir().expect("a folder");
    let control = folder.path().join("control");
    let mut running = Machine::new("survive-mem")
        .option("memory", "192M")
        .option("control-socket", control.to_str().expect("text"))
        .option("device", "mem,size=512M")
        .command_line("memhp_default_state=online_movable")
        .start()?;
    running.wait_for("kept")?;
    for (death, (amount, shown)) in (1..=plan.kills).zip(GIVEN.iter().cycle()) {
        std::thread::sleep(SETTLED);
        told(&control, &["mem", "mem0", amount])?;
        // While the driver is about it, from not yet begun to nearly done.
        std::thread::sleep(plan.moment());
        killed(&running, "device-mem", "mem0", death)?;
        plan.tell(death);
        // Some deaths come one upon the other's work, and each second one finds what is to be plugged.
        if death % 4 < 2 {
            holds(&control, amount, shown)
                .inspect_err(|_| println!("{}\n{}", running.console(), running.log()))?;
        }
    }
    told(&control, &["mem", "mem0", "256M"])?;
    holds(&control, "256M", "256M")?;
    running.type_line("end")?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert_eq!((ended.said("same")?, ended.said("sums")?), ("0", "1"), "{}", ended.everything());
    assert_eq!(ended.log.matches("vmm: device mem0 died: killed by SIGKILL").count(), plan.kills);
    warnings::none_of_ours(&ended)
}

/// Waits until the guest has what it was asked to have, `amount`, which is told as `shown`.
///
/// Linux's driver that did not get a block free tries it again after 50 seconds, and then after twice as long each time, up
/// to five minutes; a change of what is asked for has it try at once. So after many looks it is asked for another amount,
/// and for this one again.
fn holds(control: &Path, amount: &str, shown: &str) -> Result<()> {
    let looks = Cell::new(0_usize);
    within(&format!("{amount} plugged"), || {
        let devices = told(control, &["devices"]).ok()?;
        looks.set(looks.get() + 1);
        if devices.contains(&format!("holds {shown} of {shown}")) {
            return Some(());
        }
        if looks.get().is_multiple_of(LOOKS) {
            progress(&format!("asked again for {amount} after {} looks: {}", looks.get(), devices.trim()));
            told(control, &["mem", "mem0", BETWEEN]).ok()?;
            std::thread::sleep(SETTLED);
            told(control, &["mem", "mem0", amount]).ok()?;
        }
        None
    })
}
