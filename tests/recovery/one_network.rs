//! A guest whose network dies again and again under one TCP connection, which goes on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use protocol::tap;
use system_tests::cable::Cable;
use system_tests::echo::{Echo, Listener};
use system_tests::network::{again_inside, ip, is_inside};
use system_tests::{Ended, Machine, Result, Running, artifact, program, warnings, within};

use crate::one_process::dies;
use crate::plan::Plan;

/// The deaths of a run that has to be short.
const KILLS: usize = 20;
/// The same over passt, which gives up a connection of which it had to send something again for the fourth time: that of
/// Debian 12 has been seen to reset one after eighteen deaths, every byte until then having come back. Its connections are its
/// own; that no frame is torn and none comes twice is seen over a stream with the kernel's TCP at both of its ends.
const KILLS_OVER_PASST: usize = 5;

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
    outlives(machine, KILLS, Close::UnderWay, |_| {
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
    outlives(machine, KILLS, Close::UnderWay, |_| cable.carry()).map(drop)
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
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("control");
    let machine = Machine::new("user-network").option("cpus", "2").option("device", &device);
    let machine = machine.option("control-socket", &socket.display().to_string());
    // Root of the nested rig may have groups for its programs; passt's is one of them.
    let groups = Path::new("/sys/fs/cgroup/user-network");
    let delegated = fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory +pids")
        .and_then(|()| fs::create_dir(groups))
        .is_ok();
    let machine = if delegated { machine.option("cgroup", &groups.display().to_string()) } else { machine };
    // A frame that is lost with a process is sent again, but passt of Debian 12 takes a segment that says it is the last one
    // for the end although some before it are missing: the end has to come when nothing is.
    let ended = outlives(machine, KILLS_OVER_PASST, Close::AtRest, |running| {
        let passt = running.process("passt")?;
        if delegated {
            let group = fs::read_to_string(format!("/proc/{passt}/cgroup")).expect("a live process");
            assert!(group.trim_end().ends_with(".net0.passt"), "{group}");
        }
        running.wait_for_log("what confines all", |log| log.contains("confined: ").then_some(()))?;
        let inspected = Command::new(program("vmm")?).arg("inspect").arg(&socket).output().expect("vmm runs");
        let text = String::from_utf8_lossy(&inspected.stdout);
        assert!(inspected.status.success(), "{text}{}", String::from_utf8_lossy(&inspected.stderr));
        assert!(text.contains(&format!("net0 passt (pid {passt}): its network\n")), "{text}");
        Ok(())
    })?;
    assert_eq!(ended.said("address")?, "10.7.0.2/24 by 10.7.0.1", "{}", ended.everything());
    if delegated {
        fs::remove_dir(groups).expect("all groups in it are gone");
    }
    Ok(())
}

/// When the connection is closed on our side.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Close {
    /// With bytes of it under way.
    UnderWay,
    /// Once all have come back.
    AtRest,
}

/// Kills the network of a machine, which `join` joins to ours once it runs, over and over under one connection.
fn outlives(
    machine: Machine,
    kills: usize,
    close: Close,
    join: impl FnOnce(&Running) -> Result<()>,
) -> Result<Ended> {
    let mut plan = Plan::of_environment(kills);
    println!("VMM_KILLS={} VMM_SEED={}", plan.kills, plan.seed);
    let listener = Listener::new()?;
    let running = machine.start()?;
    join(&running)?;
    let (echo, over) = (listener.accept()?, AtomicBool::new(false));
    let moved = std::thread::scope(|scope| {
        let (echo, over) = (&echo, &over);
        let is_over = move |sent| {
            let at_rest = || (close == Close::UnderWay || echo.came_back() >= sent).then_some(());
            over.load(Relaxed) && within("all that was sent", at_rest).is_ok()
        };
        let stream = scope.spawn(move || echo.compare(is_over));
        let killed = kill_over_and_over(&running, echo, &mut plan);
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
