//! fio, which writes at random and verifies, on two disks whose programs are killed at random: a judge that is not ours.
//!
//! The guest's job `fio` says how it writes; the regions here are those of that job.

use system_tests::{Disk, Ended, Machine, Result, artifact, warnings};

use crate::fleet::{Device, Fleet, Serves};
use crate::plan::Plan;
use crate::regions::{Region, Regions};
use crate::told;

/// The deaths of a run that has to be short.
const KILLS: usize = 12;
const SIZE: u64 = 6 << 20;

/// The two writers of the first disk, each of which has a queue.
const SMALL: Region = Region { offset: 0, size: 1 << 20, block: 4 << 10, depth: 8 };
const LARGE: Region = Region { offset: 1 << 20, size: 4 << 20, block: 64 << 10, depth: 4 };
/// The two of the second disk.
const MIXED: Region = Region { offset: 0, size: 4 << 20, block: 32 << 10, depth: 4 };
const PLAIN: Region = Region { offset: 4 << 20, size: 2 << 20, block: 16 << 10, depth: 1 };

/// Two disks, and one with fio that is left alone.
fn start(disks: &[Disk; 2]) -> Result<Fleet> {
    let [first, second] = disks.each_ref().map(Disk::path);
    let machine = Machine::new("fio")
        .option("cpus", "2")
        .disk(first, ",serial=first,queues=2")
        .disk(second, ",serial=second")
        .disk(&artifact("fio.ext4")?, ",serial=fio,readonly=on");
    let running = machine.start()?;
    running.wait_for("writing")?;
    let regions = |path, queues| Serves::Fio(Regions::of(path, queues));
    let devices = vec![
        Device::new("blk0".to_owned(), regions(first, vec![vec![SMALL], vec![LARGE]]), true),
        Device::new("blk1".to_owned(), regions(second, vec![vec![MIXED, PLAIN]]), true),
        Device::new("blk2".to_owned(), Serves::Programs, false),
    ];
    Fleet::of(running, devices)
}

/// The writer of this name ended well and has verified as much as it has written.
fn is_content(ended: &Ended, name: &str) -> Result<()> {
    let said = ended.said(&format!("fio-{name}"))?;
    let numbers: Vec<u64> =
        said.split([' ', '=']).skip(1).step_by(2).filter_map(|number| number.parse().ok()).collect();
    let [status, complaints, rounds, written, verified] = numbers[..] else {
        panic!("{name}: {}", ended.everything());
    };
    assert_eq!((status, complaints), (0, 0), "{name}: {}", ended.everything());
    assert!(rounds > 0 && written > 0 && verified == written, "{name}: {}", ended.everything());
    println!("measured: fio's {name}: {said}");
    Ok(())
}

#[test]
fn fio_finds_every_write_whatever_its_disks_die_of() -> Result<()> {
    let mut plan = Plan::of_environment(KILLS);
    println!("VMM_KILLS={} VMM_SEED={}", plan.kills, plan.seed);
    let disks = [Disk::empty(SIZE)?, Disk::empty(SIZE)?];
    let mut fleet = start(&disks)?;
    for death in 1..=plan.kills {
        // Drawn and waited for: the one that makes progress sooner would die more often.
        let drawn = fleet.devices[plan.random.below(disks.len())].name.clone();
        let place = fleet.next_victim(0, |device| device.name == drawn)?;
        let moment = plan.moment();
        std::thread::sleep(fleet.grace(place, moment));
        let cause = plan.cause(true);
        cause.strike(fleet.devices[place].pid, &mut plan.random);
        fleet.mourn(place, cause);
        plan.tell(death);
    }
    fleet.recover()?;
    fleet.check_untouched();
    fleet.running.type_line("end")?;
    let Fleet { running, devices } = fleet;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    // Else the writer of a queue would not be the one that its progress is seen by.
    assert_eq!(ended.said("queues")?, "0 1", "{}", ended.everything());
    for name in ["small", "large", "mixed", "plain"] {
        is_content(&ended, name)?;
    }
    let mut late = 0;
    for device in &devices {
        late += told::check_deaths(&ended, &device.name, &device.deaths);
        println!("measured: {} under fio died {} times", device.name, device.deaths.len());
    }
    println!("measured: {}", told::pauses(&ended, &plan, late));
    warnings::none_of_ours(&ended)
}
