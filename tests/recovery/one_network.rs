//! A guest whose network dies again and again under one TCP connection, which goes on.

use protocol::tap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use system_tests::cable::Cable;
use system_tests::echo::{Echo, Listener};
use system_tests::network::{again_inside, ip, is_inside};
use system_tests::{Ended, Machine, Result, Running, artifact, warnings, within};

use crate::one_process::dies;
use crate::plan::Plan;

/// The deaths of a run that has to be short.
const KILLS: usize = 20;

/// Kills the program at any moment of its work, each time a whole one, with the stream going on in between.
fn kill_over_and_over(running: &Running, echo: &Echo, plan: &mut Plan) -> Result<()> {
    for death in 1..=plan.kills {
        let before = echo.came_back();
        within("bytes that come back", || (echo.came_back() > before).then_some(()))?;
        dies(running, "device-net", "net0", death, plan.moment())?;
    }
    let before = echo.came_back();
    within("bytes that come back", || (echo.came_back() > before).then_some(()))
}

#[test]
fn a_tcp_connection_outlives_every_death_of_its_network() -> Result<()> {
    if !is_inside() {
        return again_inside("one_network::a_tcp_connection_outlives_every_death_of_its_network");
    }
    let machine = Machine::new("network").option("cpus", "2").option("device", "net,tap=made0");
    outlives(machine, || {
        within("the interface that vmm makes", || tap::is_there("made0").then_some(()))?;
        ip("address add 10.9.0.1/24 dev made0")
    })
    .map(drop)
}

#[test]
fn a_tcp_connection_outlives_every_death_of_its_network_on_a_stream() -> Result<()> {
    if !is_inside() {
        return again_inside("one_network::a_tcp_connection_outlives_every_death_of_its_network_on_a_stream");
    }
    let cable = Cable::new("made0", 1500)?;
    ip("address add 10.9.0.1/24 dev made0")?;
    let device = format!("net,stream={}", cable.path().display());
    let machine = Machine::new("network").option("cpus", "2").option("device", &device);
    outlives(machine, || cable.carry()).map(drop)
}

/// The network that passt(1) makes of what a user without privileges may reach.
#[test]
fn a_tcp_connection_outlives_every_death_of_a_users_network() -> Result<()> {
    if !is_inside() {
        return again_inside("one_network::a_tcp_connection_outlives_every_death_of_a_users_network");
    }
    ip("link set lo up")?;
    // The host's way out, from which the guest gets its address, and on which there is nobody; and another address of the
    // host's, for the guest's own is that of this one.
    let _out = tap::make("out0", None, 1).expect("the right of whoever made this network");
    ip("address add 10.7.0.2/24 dev out0")?;
    ip("route add default via 10.7.0.1 dev out0")?;
    ip("address add 10.9.0.1/32 dev lo")?;
    let device = format!("net,user=on,passt={}", artifact("passt")?.display());
    let machine = Machine::new("user-network").option("cpus", "2").option("device", &device);
    let ended = outlives(machine, || Ok(()))?;
    assert_eq!(ended.said("address")?, "10.7.0.2/24 by 10.7.0.1", "{}", ended.everything());
    Ok(())
}

/// Kills the network of a machine, which `join` joins to ours once it runs, over and over under one connection.
fn outlives(machine: Machine, join: impl FnOnce() -> Result<()>) -> Result<Ended> {
    let mut plan = Plan::of_environment(KILLS);
    println!("VMM_KILLS={} VMM_SEED={}", plan.kills, plan.seed);
    let listener = Listener::new()?;
    let running = machine.start()?;
    join()?;
    let (echo, over) = (listener.accept()?, AtomicBool::new(false));
    let moved = std::thread::scope(|scope| {
        let stream = scope.spawn(|| echo.compare(|_| over.load(Relaxed)));
        let killed = kill_over_and_over(&running, &echo, &mut plan);
        over.store(true, Relaxed);
        let moved = stream.join().expect("no panic");
        killed.and(moved)
    });
    let moved = moved.inspect_err(|_| println!("{}\n{}", running.console(), running.log()))?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert_eq!(ended.said("echo-ended")?, "0");
    assert_eq!(ended.log.matches("vmm: device net0 died: killed by SIGKILL").count(), plan.kills);
    println!("measured: {moved} bytes sent and come back over {} deaths", plan.kills);
    warnings::none_of_ours(&ended).map(|()| ended)
}
