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
    for death in 1..=plan.kills {
        let of_generator = plan.is_of_generator(death);
        let place = fleet.next_victim(plan.random.below(usize::MAX), of_generator)?;
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
    let mut late = 0;
    for device in &devices {
        late += check_log(&ended, &device.name, &device.deaths);
        if let Serves::Disk(number, image) = &device.serves {
            let said = ended.said(&format!("disk{number}"))?;
            let nothing = "failed=0 torn=0 misplaced=0 lost=0 repeated=0 reordered=0 invented=0";
            assert!(said.ends_with(nothing), "{}", ended.everything());
            assert!(said.starts_with(&format!("digest={} ", image.disk.digest(*number)?)), "{said}");
            println!("measured: {} died {} times; {said}", device.name, device.deaths.len());
        }
    }
    let entropy = ended.said("entropy")?;
    assert!(entropy.ends_with("failed=0 repeated=0"), "{}", ended.everything());
    println!("measured: rng0 died {} times; {entropy}", devices[4].deaths.len());
    println!("measured: {}", pauses(&ended, &plan, late));
    warnings::none_of_ours(&ended)
}

/// Of each death there is a line with its cause, in their order, and of no other but those of successors that the machine
/// itself did not wait for: with several that start at once on a host that others use, one may miss a deadline. Returns how
/// many of those there were. A device that nobody touched has none.
fn check_log(ended: &Ended, name: &str, deaths: &[Cause]) -> usize {
    let mark = format!("vmm: device {name} died: ");
    let lines = ended.log.lines().filter(|line| line.starts_with(&mark));
    let (late, told): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.contains(" in time); "));
    assert!(late.is_empty() || !deaths.is_empty(), "{name}: {}", ended.log);
    assert_eq!(told.len(), deaths.len(), "{name}: {}", ended.everything());
    for (line, cause) in told.iter().zip(deaths) {
        assert!(line.contains(cause.told()), "{name} died of {cause:?}: {line}");
    }
    late.len()
}

/// What `vmm` said of the times for which a device was away.
fn pauses(ended: &Ended, plan: &Plan, late: usize) -> String {
    let Plan { kills, seed, .. } = plan;
    let lines = ended.log.lines().filter(|line| line.contains(" serves again (pid "));
    let mut pauses: Vec<u64> =
        lines.filter_map(|line| line.rsplit_once(" after ")?.1.split_once(" ms")?.0.parse().ok()).collect();
    pauses.sort_unstable();
    let at =
        |percent: usize| pauses.get((pauses.len().saturating_sub(1) * percent) / 100).copied().unwrap_or(0);
    format!(
        "{kills} deaths (VMM_SEED={seed}), {late} successors too slow, away for {} / {} / {} / {} ms (median, p90, p99, \
         longest)",
        at(50),
        at(90),
        at(99),
        at(100)
    )
}
