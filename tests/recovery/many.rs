//! A machine of four disks and two generators under work, whose devices are killed at random.

use system_tests::{Result, warnings};

use crate::fleet::{Device, Fleet, Serves};
use crate::plan::Plan;
use crate::told;

/// The deaths of a run that has to be short.
const KILLS: usize = 40;

#[test]
fn a_guest_loses_nothing_whatever_its_devices_die_of() -> Result<()> {
    let mut plan = Plan::of_environment(KILLS);
    println!("VMM_KILLS={} VMM_SEED={}", plan.kills, plan.seed);
    let mut fleet = Fleet::start()?;
    for death in 1..=plan.kills {
        let of_generator = plan.is_of_generator(death);
        let is_its_turn = |device: &Device| matches!(device.serves, Serves::Entropy) == of_generator;
        let place = fleet.next_victim(plan.random.below(usize::MAX), is_its_turn)?;
        let moment = plan.moment();
        std::thread::sleep(fleet.grace(place, moment));
        let device = &fleet.devices[place];
        let cause = plan.cause(matches!(device.serves, Serves::Disk(..)));
        cause.strike(device.pid, &mut plan.random);
        fleet.mourn(place, cause);
        plan.tell(death);
    }
    fleet.recover()?;
    fleet.check_untouched();
    fleet.running.type_line("end")?;
    let Fleet { running, devices } = fleet;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    let mut late = 0;
    for device in &devices {
        late += told::check_deaths(&ended, &device.name, &device.deaths);
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
    println!("measured: {}", told::pauses(&ended, &plan, late));
    warnings::none_of_ours(&ended)
}
