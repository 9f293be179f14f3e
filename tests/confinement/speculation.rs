//! `--speculation=restricted`: what each process of a machine has, successors included, as the kernel shows it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandbox_policies::{posture, speculation};
use system_tests::{Result, children};

use crate::guest::Guest;
use crate::house::{House, Who};
use crate::moments::{confinement, program_among};

/// What the kernel says of a thread that cannot speculate past stores, or whose processor cannot.
const NO_STORE_BYPASS: [&str; 3] = ["thread force mitigated", "globally mitigated", "not vulnerable"];
/// The same of indirect branches.
const NO_INDIRECT_BRANCHES: [&str; 3] = ["conditional force disabled", "always disabled", "not affected"];

/// The threads of the machine's processes whose speculation is not restricted, and how many were looked at.
fn looked_at(launcher: i32) -> (Vec<String>, usize) {
    let processes = children(launcher).iter().map(|child| child.pid).chain([launcher]).collect::<Vec<_>>();
    let postures = processes.iter().map(|pid| posture::read(*pid).expect("a live process"));
    let threads: Vec<_> = postures.flat_map(|posture| posture.threads).collect();
    let unrestricted = threads.iter().filter(|thread| {
        let [stores, branches] = thread.speculation.each_ref().map(String::as_str);
        !NO_STORE_BYPASS.contains(&stores) || !NO_INDIRECT_BRANCHES.contains(&branches)
    });
    (unrestricted.map(|thread| format!("{}: {:?}", thread.name, thread.speculation)).collect(), threads.len())
}

#[test]
fn no_process_of_a_machine_speculates_that_is_told_not_to() -> Result<()> {
    let house = House::new(Who::OrdinaryUser)?;
    let running = house.start_told(Guest::Halts, &["rng"], &["--speculation=restricted"])?;
    if !speculation::shortcomings().is_empty() {
        // A host on which it is nobody's to switch: refused, with the code for a layer that is missing.
        let ended = running.wait()?;
        assert_eq!(ended.code(), Some(6), "{}", ended.everything());
        return house.check_left();
    }
    running.wait_for_log("the line on confinement", |log| confinement(log).map(drop))?;
    let (unrestricted, threads) = looked_at(running.pid());
    assert!(unrestricted.is_empty(), "{unrestricted:?}");
    // Launcher, spawner, core with two vCPUs, two devices of two threads.
    assert!(threads >= 9, "{threads}");
    let device = program_among(running.pid(), "device-rng").expect("a live process of it");
    kill(Pid::from_raw(device), Signal::SIGKILL).expect("it lives");
    running.wait_for_log("a successor", |log| log.contains("rng0 serves again").then_some(()))?;
    let (unrestricted, again) = looked_at(running.pid());
    assert!(unrestricted.is_empty() && again == threads, "{unrestricted:?}, {again} of {threads}");
    drop(running);
    house.check_left()
}

#[test]
fn a_machine_that_is_told_nothing_speculates_as_its_host() -> Result<()> {
    let house = House::new(Who::OrdinaryUser)?;
    let running = house.start(Guest::Halts, None)?;
    running.wait_for_log("the line on confinement", |log| confinement(log).map(drop))?;
    let own = posture::read(i32::try_from(std::process::id()).expect("a process id")).expect("ourselves");
    for pid in children(running.pid()).iter().map(|child| child.pid) {
        let posture = posture::read(pid).expect("a live process");
        assert!(posture.threads.iter().all(|thread| thread.speculation == own.threads[0].speculation));
    }
    drop(running);
    house.check_left()
}
