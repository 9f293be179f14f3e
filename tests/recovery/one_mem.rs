//! A guest whose memory is plugged in and out while the program of that dies again and again: how much is what was asked for,
//! the driver is told nothing that is not so, and what the guest keeps is not touched.

use std::path::Path;

use system_tests::control::told;
use system_tests::{Machine, Result, Running, progress, warnings, within};

use crate::one_process::{SETTLED, killed};
use crate::plan::Plan;

/// The deaths of a run that has to be short.
const KILLS: usize = 20;
/// Looks at what it has, after which it is asked again.
const LOOKS: usize = 60;
/// What the guest is to have, in turn.
const GIVEN: [Amount; 2] = [WHOLE, Amount { asked: "0", told: "0 bytes", requested: 0 }];
const WHOLE: Amount = Amount { asked: "256M", told: "256M", requested: 256 << 20 };
/// What it is asked for between two times that it is asked for the same.
const BETWEEN: Amount = Amount { asked: "128M", told: "128M", requested: 128 << 20 };

/// So much memory: as the user asks for it, as `vmm` tells of it, and in bytes, of which the driver writes into its log.
#[derive(Debug, Clone, Copy)]
struct Amount {
    asked: &'static str,
    told: &'static str,
    requested: u64,
}

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
    for (death, amount) in (1..=plan.kills).zip(GIVEN.into_iter().cycle()) {
        std::thread::sleep(SETTLED);
        told(&control, &["mem", "mem0", amount.asked])?;
        // While the driver is about it, from not yet begun to nearly done.
        std::thread::sleep(plan.moment());
        killed(&running, "device-mem", "mem0", death)?;
        plan.tell(death);
        // Some deaths come one upon the other's work, and each second one finds what is to be plugged.
        if death % 4 < 2 {
            holds(&running, &control, amount)
                .inspect_err(|_| println!("{}\n{}", running.console(), running.log()))?;
        }
    }
    asked(&running, &control, WHOLE)?;
    holds(&running, &control, WHOLE)?;
    running.type_line("end")?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert_eq!((ended.said("same")?, ended.said("sums")?), ("0", "1"), "{}", ended.everything());
    assert_eq!(ended.log.matches("vmm: device mem0 died: killed by SIGKILL").count(), plan.kills);
    warnings::none_of_ours(&ended)
}

/// Asks the guest to have `amount`, and waits until its driver knows.
fn asked(running: &Running, control: &Path, amount: Amount) -> Result<()> {
    told(control, &["mem", "mem0", amount.asked])?;
    knows(running, amount)
}

/// Waits until the driver knows that `amount` is asked for. Whatever its program died of, it is told without being asked again.
fn knows(running: &Running, amount: Amount) -> Result<()> {
    let wanted = format!("{:#x}", amount.requested);
    within(&format!("a driver that knows of {amount:?}"), || {
        let console = running.console();
        let (_, last) = console.rsplit_once("@@asked ")?;
        (last.split_whitespace().next()? == wanted).then_some(())
    })
}

/// Waits until the guest has what it was asked to have.
///
/// Linux's driver that did not get a block free tries it again after 50 seconds, and then after twice as long each time, up
/// to five minutes; a change of what is asked for has it try at once. So after many looks one that knows is asked for another
/// amount, and for this one again.
fn holds(running: &Running, control: &Path, amount: Amount) -> Result<()> {
    knows(running, amount)?;
    let mut looks = 0_usize;
    within(&format!("{amount:?} plugged"), || {
        let devices = told(control, &["devices"]).ok()?;
        if devices.contains(&format!("holds {told} of {told}", told = amount.told)) {
            return Some(());
        }
        looks += 1;
        if looks.is_multiple_of(LOOKS) {
            progress(&format!("{amount:?} is asked for again: {}", devices.trim()));
            asked(running, control, BETWEEN).and_then(|()| asked(running, control, amount)).ok()?;
        }
        None
    })
}
