//! A machine of four disks and two generators under work, whose devices are killed at random.

use system_tests::{Ended, Result, warnings};

use crate::causes::Cause;
use crate::fleet::{Fleet, Serves};
use crate::plan::Plan;

#[test]
fn a_guest_loses_nothing_whatever_its_devices_die_of() -> Result<()> {
    let mut plan = Plan::of_environment();
    println!("VMM_KILLS={} VMM_SEED={}", plan.kills, plan.seed);
    let mut fleet = Fleet::start()?;
    for _ in 0..plan.kills {
        let place = fleet.next_victim(plan.random.below(usize::MAX))?;
        let moment = plan.moment();
        std::thread::sleep(fleet.grace(place, moment));
        let device = &fleet.devices[place];
        let cause = plan.cause(matches!(device.serves, Serves::Disk(..)));
        cause.strike(device.pid, &mut plan.random);
        fleet.mourn(place, cause);
    }
    fleet.recover()?;
    fleet.check_untouched();
    fleet.running.type_line("end")?;
    let Fleet { running, devices } = fleet;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    for device in &devices {
        check_log(&ended, &device.name, &device.deaths);
        if let Serves::Disk(number, image) = &device.serves {
            let said = ended.said(&format!("disk{number}"))?;
            let nothing = "failed=0 torn=0 misplaced=0 lost=0 repeated=0 reordered=0 invented=0";
            assert!(said.ends_with(nothing), "{}", ended.everything());
            assert!(said.starts_with(&format!("digest={} ", image.digest(*number)?)), "{said}");
            println!("measured: {} died {} times; {said}", device.name, device.deaths.len());
        }
    }
    let entropy = ended.said("entropy")?;
    assert!(entropy.ends_with("failed=0 repeated=0"), "{}", ended.everything());
    println!("measured: rng0 died {} times; {entropy}", devices[4].deaths.len());
    println!("measured: {}", pauses(&ended, plan.kills, plan.seed));
    warnings::none_of_ours(&ended)
}

/// Of each death there is a line with its cause, and of no other.
fn check_log(ended: &Ended, name: &str, deaths: &[Cause]) {
    let mark = format!("vmm: device {name} died: ");
    let told: Vec<&str> = ended.log.lines().filter(|line| line.starts_with(&mark)).collect();
    assert_eq!(told.len(), deaths.len(), "{name}: {}", ended.log);
    for (line, cause) in told.iter().zip(deaths) {
        assert!(line.contains(cause.told()), "{name} died of {cause:?}: {line}");
    }
}

/// What `vmm` said of the times for which a device was away.
fn pauses(ended: &Ended, kills: usize, seed: u64) -> String {
    let lines = ended.log.lines().filter(|line| line.contains(" serves again (pid "));
    let mut pauses: Vec<u64> =
        lines.filter_map(|line| line.rsplit_once(" after ")?.1.split_once(" ms")?.0.parse().ok()).collect();
    pauses.sort_unstable();
    let at =
        |percent: usize| pauses.get((pauses.len().saturating_sub(1) * percent) / 100).copied().unwrap_or(0);
    format!(
        "{kills} deaths (VMM_SEED={seed}), away for {} / {} / {} / {} ms (median, p90, p99, longest)",
        at(50),
        at(90),
        at(99),
        at(100)
    )
}
