//! A guest whose balloon's program dies again and again while it is given memory and has it back: the amounts are what was
//! asked for, and what the guest keeps is not touched.

use system_tests::control::told;
use system_tests::{Machine, Result, warnings, within};

use crate::one_process::{SETTLED, killed};
use crate::plan::Plan;

/// The deaths of a run that has to be short.
const KILLS: usize = 20;
/// What the guest gives and gets, in turn, as it is asked and as it is told.
const GIVEN: [(&str, &str); 2] = [("96M", "96M"), ("0", "0 bytes")];

#[test]
fn a_balloon_is_as_large_as_was_asked_whenever_its_program_dies() -> Result<()> {
    let mut plan = Plan::of_environment(KILLS);
    println!("VMM_KILLS={} VMM_SEED={}", plan.kills, plan.seed);
    let folder = tempfile::tempdir().expect("a folder");
    let control = folder.path().join("control");
    let mut running = Machine::new("survive-balloon")
        .option("memory", "384M")
        .option("control-socket", control.to_str().expect("text"))
        // With it the driver takes pages back of its own accord.
        .option("device", "balloon,deflate-on-oom=off")
        .start()?;
    running.wait_for("kept")?;
    let holds = |amount: &str| {
        within(&format!("{amount} in the balloon"), || {
            let devices = told(&control, &["devices"]).ok()?;
            devices.contains(&format!("holds {amount} of {amount}")).then_some(())
        })
    };
    for (death, (amount, shown)) in (1..=plan.kills).zip(GIVEN.iter().cycle()) {
        std::thread::sleep(SETTLED);
        told(&control, &["balloon", "balloon0", amount])?;
        // While the driver is about it, from not yet begun to nearly done.
        std::thread::sleep(plan.moment());
        killed(&running, "device-balloon", "balloon0", death)?;
        plan.tell(death);
        // Some deaths come one upon the other's work, and each second one finds what it is to hold.
        if death % 4 < 2 {
            holds(shown).inspect_err(|_| println!("{}\n{}", running.console(), running.log()))?;
        }
    }
    told(&control, &["balloon", "balloon0", "0"])?;
    holds("0 bytes")?;
    running.type_line("end")?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert_eq!((ended.said("same")?, ended.said("used")?), ("0", "0"), "{}", ended.everything());
    assert_eq!(ended.log.matches("vmm: device balloon0 died: killed by SIGKILL").count(), plan.kills);
    warnings::none_of_ours(&ended)
}
