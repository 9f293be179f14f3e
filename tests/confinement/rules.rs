//! Each rule of each policy allows something to the machines here, or stands in `unused_rules.txt` with the reason why
//! it does not: a rule that nobody needs is found.
//!
//! The programs are copies whose filters tell a tracer what they allow ([`crate::filters`]); all else is as it ships. A rule
//! for setting up counts as used if serving uses it, and one of the spawner's if a device does: filters stack.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Output;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandbox_policies::policy;
use sandbox_policies::{Program, Stage};
use system_tests::{Result, children, within};
use tempfile::TempDir;

use crate::driver::DONE;
use crate::excuses::{Seen, rules, wrong};
use crate::guest::Guest;
use crate::house::House;
use crate::image_file::Shape;
use crate::moments::program_among;

/// Why each of the others is not used here.
const EXCUSES: &str = include_str!("unused_rules.txt");

#[test]
fn each_rule_is_used_or_known_not_to_be() -> Result<()> {
    let mut used = BTreeSet::new();
    for machine in [powers_off, has_a_qcow2_image, is_driven_and_controlled] {
        let house = House::with_telling_filters()?;
        machine(&house)?;
        used.extend(house.witnessed().lines().map(str::to_owned));
        house.check_left()?;
    }
    used.extend(are_started_alone()?);
    let wrong = wrong(rules(&used), EXCUSES);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Its end is the guest's.
fn powers_off(house: &House) -> Result<()> {
    let running = house.start_witnessed(Guest::DrivesAndPowersOff, "", &[], &[])?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    Ok(())
}

/// Of a disk.
const IMAGE: Shape = Shape { cluster_bits: 16, refcount_order: 4, size: 1 << 20 };

/// The same, of which its guest drives the one disk.
fn has_a_qcow2_image(house: &House) -> Result<()> {
    std::fs::write(house.disk(), IMAGE.empty()).expect("an image");
    let running = house.start_witnessed(Guest::DrivesAndPowersOff, ",format=qcow2", &[], &[])?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    Ok(())
}

/// One device of each kind, each started again; and what can be asked of a machine.
fn is_driven_and_controlled(house: &House) -> Result<()> {
    house.make_place_for_socket();
    let shared = tempfile::tempdir().expect("a folder");
    let sockets = tempfile::tempdir().expect("a folder");
    let stream = sockets.path().join("stream");
    let _peer = UnixListener::bind(&stream).expect("a socket");
    let mut devices = devices(house, &shared, &sockets);
    devices.push(format!("net,stream={}", stream.display()));
    let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
    let control = format!("--control-socket={}", house.control().display());
    let running = house.start_witnessed(Guest::KeepsDriving, "", &devices, &[&control])?;
    running.wait_for(DONE)?;
    for (program, device) in [
        ("device-blk", "blk0"),
        ("device-rng", "rng0"),
        ("device-balloon", "balloon0"),
        ("device-mem", "mem0"),
        ("device-console", "console0"),
        ("device-pmem", "pmem0"),
        ("device-fs", "fs0"),
        ("device-vsock", "vsock0"),
        ("device-net", "net0"),
    ] {
        let launcher = children(running.pid()).first().expect("a launcher beneath its witness").pid;
        let pid = program_among(launcher, program).expect("a live process of each");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is ours");
        let line = format!("vmm: device {device} serves again");
        running.wait_for_log(&line, |log| log.contains(&line).then_some(()))?;
    }
    let ctl = |arguments: &[&str]| {
        let output: Output =
            house.vmm().arg("ctl").arg(house.control()).args(arguments).output().expect("vmm runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    for arguments in [
        &["devices"][..],
        &["replace-device", "blk0"],
        &["resize-disk", "blk0", "8M"],
        &["resize-console", "console0", "100x40"],
        &["balloon", "balloon0", "8M"],
        &["mem", "mem0", "8M"],
    ] {
        ctl(arguments);
    }
    running.signal(Signal::SIGUSR1)?;
    running.wait_for_log("the counters", |log| log.contains("vmm: counters ").then_some(()))?;
    running.signal(Signal::SIGTERM)?;
    running.signal(Signal::SIGQUIT)?;
    running.wait().map(drop)
}

/// Each device's program on its own, to which a front end says what is no message. What it used.
fn are_started_alone() -> Result<BTreeSet<String>> {
    let house = House::with_telling_filters()?;
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    let _peer = UnixListener::bind(place("stream")).expect("a socket");
    std::fs::write(place("image"), IMAGE.empty()).expect("an image");
    let mut used = BTreeSet::new();
    for (program, arguments) in [
        (Program::DeviceBlk, vec![("path", house.disk())]),
        (Program::DeviceBlkQcow2, vec![("path", place("image"))]),
        (Program::DeviceRng, vec![]),
        (Program::DeviceBalloon, vec![]),
        (Program::DeviceMem, vec![("address", "0x100000000".into()), ("size", "2097152".into())]),
        (Program::DeviceConsole, vec![("listen", place("console"))]),
        (Program::DevicePmem, vec![("path", house.memory()), ("address", "0x100000000".into())]),
        (Program::DeviceNet, vec![("stream", place("stream")), ("mac", "52:54:00:12:34:56".into())]),
        (Program::DeviceFs, vec![("path", folder.path().to_owned()), ("tag", "t".into())]),
        (Program::DeviceVsock, vec![("path", place("vsock")), ("cid", "42".into())]),
    ] {
        let socket = place(program.name());
        let arguments = arguments.into_iter().chain([("socket-path", socket.clone())]);
        let arguments: Vec<_> =
            arguments.map(|(option, value)| format!("--{option}={}", value.display())).collect();
        let running = house.start_witnessed_alone(program, &arguments)?;
        let mut front_end =
            within(&format!("a socket of {}", program.name()), || UnixStream::connect(&socket).ok())?;
        front_end.write_all(&[0xFF; 12]).expect("it is connected");
        let ended = running.wait()?;
        assert_eq!(ended.code(), Some(7), "{}: {}", program.name(), ended.everything());
        let witnessed = house.witnessed();
        let own = format!("{} {} ", program.name(), Stage::StandAlone.key());
        assert!(witnessed.contains(&own), "{}: {witnessed}", program.name());
        used.extend(witnessed.lines().map(str::to_owned));
    }
    house.check_left()?;
    Ok(used)
}

fn devices(house: &House, shared: &TempDir, sockets: &TempDir) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    vec![
        "rng".to_owned(),
        "balloon".to_owned(),
        "mem,size=64M".to_owned(),
        "console,pty=on".to_owned(),
        format!("pmem,path={}", path(&house.memory())),
        format!("fs,path={},tag=t", path(shared.path())),
        format!("vsock,cid=42,path={}", path(&sockets.path().join("vm"))),
    ]
}

#[test]
fn an_excuse_that_nobody_needs_and_a_rule_without_one_are_found() {
    let seen = |stage: Stage, used: bool| Seen {
        program: Program::DeviceRng,
        stage,
        rule: policy::list(Program::DeviceRng, stage)
            .expect("a list")
            .of_call("ppoll")
            .next()
            .expect("a rule"),
        used,
        excused: false,
    };
    let both = |setup, serve| vec![seen(Stage::Setup, setup), seen(Stage::Serve, serve)];
    assert_eq!(wrong(both(true, true), ""), Vec::<String>::new());
    // What serving needs, setting up must allow.
    assert_eq!(wrong(both(false, true), ""), Vec::<String>::new());
    assert_eq!(wrong(both(true, false), "").len(), 1);
    assert_eq!(wrong(both(false, false), "").len(), 2);
    assert_eq!(wrong(both(false, false), "# Why.\nnever device-*.serve ppoll"), Vec::<String>::new());
    for idle in [
        "never * ppoll",
        "never device-rng.serve ppoll",
        "never * pause",
        "sometimes * pause",
        "always * ppoll",
    ] {
        assert_eq!(wrong(both(true, true), idle).len(), 1, "{idle}");
    }
    assert_eq!(wrong(both(true, true), "sometimes * ppoll"), Vec::<String>::new());
}
