//! A network that is a program which `vmm` starts: stand-ins for passt and for the device whose frames it takes.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use protocol::{Channel, DeviceOptions, FromDevice, Phase, Ready, ToDevice};

use crate::machine::{Machine, program, until};
use crate::stand_in;

/// What is in the log once the network has a word of the device's.
const HEARD: &str = "net0, passt: heard frame";

/// The largest packet of a network that cannot be had.
const FAILS: &str = "1499";

/// A device that sends one word to its network.
pub fn device(control: &Channel) -> ExitCode {
    let Some((ToDevice::Setup(setup), fds)) = control.receive(Phase::HandOver).expect("a setup") else {
        return ExitCode::from(99);
    };
    let (DeviceOptions::Net(net), Ok([_connection, stream])) = (setup.options, <[OwnedFd; 2]>::try_from(fds))
    else {
        return ExitCode::from(98);
    };
    assert!(net.stream && net.pairs == 1 && net.mtu.is_some(), "{net:?}");
    // As a device of ours would, by a call that a successor has. Nobody may be there.
    let _ = std::fs::File::from(stream).write_all(b"frame");
    let ready = FromDevice::Ready(Ready { landlock_abi: 0, lacking: Vec::new() });
    control.send(&ready, &[]).expect("the launcher listens");
    stand_in::obey(control, "")
}

/// A network that says what it was given and what it hears, until nobody has the other end.
pub fn passt(mut stream: UnixStream) -> ExitCode {
    // As a change of its ids does it: it is to end by its stream alone.
    prctl::set_pdeathsig(None).expect("none");
    let count = |folder: &str| std::fs::read_dir(folder).map_or(0, Iterator::count).saturating_sub(1);
    let descriptors = count("/proc/self/fd");
    let gains = !prctl::get_no_new_privs().expect("a bit");
    let arguments: Vec<String> = std::env::args().collect();
    let variables = std::env::vars_os().count();
    let (leader, own) = (nix::unistd::getsid(None).expect("a session"), nix::unistd::getpid());
    let apart = leader == own;
    eprintln!(
        "{}: {descriptors} descriptors, {variables} variables, apart {apart}, gains {gains}",
        arguments.join(" ")
    );
    if arguments.last().is_some_and(|mtu| mtu == FAILS) {
        eprintln!("no external interface");
        return ExitCode::FAILURE;
    }
    let mut word = [0; 5];
    while stream.read_exact(&mut word).is_ok() {
        eprintln!("heard {}", String::from_utf8_lossy(&word));
    }
    ExitCode::SUCCESS
}

fn started() -> Machine {
    let passt = program("passt");
    Machine::with("obey", &[&format!("--device=net,user=on,passt={}", passt.display())])
}

pub fn a_users_network_has_its_stream_and_outlives_its_devices() {
    let mut machine = started();
    let options = "passt --foreground --quiet --fd=3 --no-map-gw --mtu 32746";
    let given = format!("net0, passt: {options}: 4 descriptors, 0 variables, apart true, gains false\n");
    machine.wait_for_all(&[&given, HEARD, "vmm: confined: "]);
    for _ in 0..3 {
        machine.kill_program("device-net");
        machine.wait_for_all(&[HEARD, "vmm: device net0 serves again (pid "]);
    }
    machine.kill_program("passt");
    machine.wait_for("vmm: device net0 has no network any more: killed by SIGKILL");
    machine.send(Signal::SIGTERM);
    let ended = machine.end();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_eq!(ended.log.matches("no network any more").count(), 1, "{}", ended.log);
}

pub fn a_users_network_that_ends_at_once_ends_the_machine_before_its_guest_runs() {
    let device = format!("--device=net,user=on,mtu={FAILS},passt={}", program("passt").display());
    let ended = Machine::with("never-ready", &[&device]).end();
    assert_eq!(ended.code, Some(3), "{}", ended.log);
    let said = [
        "net0, passt: no external interface\n",
        "cannot use device net0: its network, passt, ended before the guest ran, ",
    ];
    assert!(said.iter().all(|said| ended.log.contains(said)), "{}", ended.log);
    assert!(ended.log.contains("code 1") && !ended.log.contains("confined"), "{}", ended.log);
}

pub fn a_users_network_ends_with_the_machine() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut machine = started();
        machine.wait_for_all(&[HEARD, "vmm: confined: "]);
        let of_network = |child: &u32| {
            let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            line.starts_with(b"passt")
        };
        let networks: Vec<u32> = machine.children().into_iter().filter(of_network).collect();
        assert_eq!(networks.len(), 1, "{networks:?}");
        machine.send(signal);
        // It writes to the launcher's log, and to nobody's when that is gone.
        let ended = machine.end();
        assert_eq!(ended.code, (signal == Signal::SIGTERM).then_some(0), "{}", ended.log);
        until("the end of the network", || !networks.iter().any(|network| lives(*network)));
    }
}

/// Whether it is there as itself.
fn lives(id: u32) -> bool {
    let line = std::fs::read(Path::new("/proc").join(id.to_string()).join("cmdline")).unwrap_or_default();
    line.starts_with(b"passt")
}
