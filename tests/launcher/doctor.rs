//! `vmm doctor` on this host, and on hosts from which something was taken away.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::thread;

use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter};
use serde_json::Value;
use system_tests::{Result, Running, program};

use crate::host::without;
use crate::refusal::{KVM, RESOURCE};

const SANDBOX: i32 = 6;

fn doctor(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(program("vmm")?);
    command.args(["doctor", "--json"]).args(arguments);
    Ok(command)
}

/// What it found, when it ended with `code` and said the same.
fn found(command: Command, code: i32) -> Result<Vec<Value>> {
    let ended = Running::start(command)?.wait()?;
    assert_eq!((ended.code(), ended.log.as_str()), (Some(code), ""), "{}", ended.everything());
    let whole: Value = serde_json::from_str(&ended.console).expect("JSON");
    assert_eq!((&whole["code"], &whole["runs"]), (&code.into(), &(code == 0).into()), "{whole}");
    let all = whole["findings"].as_array().expect("findings").clone();
    for one in &all {
        let lack = ["costs", "advice", "stops"].iter().all(|key| one.get(key).is_some());
        assert_eq!(lack, one["held"] == false, "{one}");
    }
    Ok(all)
}

fn of<'a>(all: &'a [Value], what: &str) -> &'a Value {
    all.iter().find(|one| one["what"] == what).unwrap_or_else(|| panic!("nothing of {what}: {all:?}"))
}

fn holds(all: &[Value], whats: &[&str]) {
    for what in whats {
        assert_eq!(of(all, what)["held"], true, "{all:?}");
    }
}

fn stops(all: &[Value], what: &str, code: i32, says: &str) {
    let one = of(all, what);
    assert_eq!((&one["held"], &one["stops"]), (&false.into(), &code.into()), "{one}");
    assert!(one["found"].as_str().expect("a text").contains(says), "no {says:?} in: {one}");
}

#[test]
fn a_host_that_runs_machines_has_every_layer() -> Result<()> {
    let all = found(doctor(&[])?, 0)?;
    holds(&all, &["KVM", "guest memory", "namespaces", "confinement", "virtual machine", "launcher"]);
    for device in ["blk", "blk-qcow2", "rng", "net", "console", "pmem", "balloon", "fs", "vsock", "mem"] {
        let name = format!("device-{device}");
        holds(&all, &[&name]);
        // Those that want a directory are only looked for.
        assert_eq!(of(&all, &name)["tried"], !["fs", "vsock"].contains(&device), "{device}");
    }
    // Looked for, and not started.
    let passt = of(&all, "passt");
    assert_eq!(passt["held"], Path::new("/usr/bin/passt").is_file(), "{passt}");
    assert!(passt["held"] == false || passt["tried"] == false, "{passt}");
    // What is lacking here is no reason to refuse.
    assert!(all.iter().all(|one| one["held"] == true || one["stops"].is_null()), "{all:?}");
    let mut screen = Command::new(program("vmm")?);
    screen.arg("doctor");
    let ended = Running::start(screen)?.wait()?;
    assert_eq!((ended.code(), ended.log.as_str()), (Some(0), ""), "{}", ended.everything());
    for one in &all {
        assert!(ended.console.contains(one["what"].as_str().expect("a name")), "{one}");
    }
    assert!(ended.console.contains("vmm would run here with --sandbox=required"), "{}", ended.console);
    Ok(())
}

#[test]
fn a_host_without_user_namespaces() -> Result<()> {
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" doctor --json";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", script]).arg(program("vmm")?);
    let all = found(command, SANDBOX)?;
    stops(&all, "namespaces", SANDBOX, "user.max_user_namespaces");
    stops(&all, "namespaces", SANDBOX, "user namespace: none");
    // What has nothing to do with it is said to be there.
    holds(&all, &["KVM", "guest memory", "virtual machine", "launcher"]);
    Ok(())
}

#[test]
fn a_host_without_kvm_can_still_confine() -> Result<()> {
    for node in ["/nowhere/kvm", "/dev/null"] {
        let all = found(doctor(&["--kvm", node])?, KVM)?;
        stops(&all, "KVM", KVM, node);
        holds(&all, &["namespaces", "confinement", "device-blk", "launcher"]);
        assert!(all.iter().all(|one| one["what"] != "virtual machine"), "{all:?}");
    }
    Ok(())
}

/// What it finds under a filter.
fn under(filter: std::result::Result<BpfProgram, BackendError>, code: i32) -> Vec<Value> {
    let filtered = thread::spawn(move || {
        seccompiler::apply_filter(&filter.unwrap()).unwrap();
        found(doctor(&[]).unwrap(), code).unwrap()
    });
    filtered.join().unwrap()
}

#[test]
fn a_kvm_without_a_capability_is_told_from_a_sandbox_without_a_layer() {
    let all = under(without(32), KVM);
    stops(&all, "virtual machine", KVM, "KVM_CAP_IRQFD");
    holds(&all, &["KVM", "namespaces", "confinement", "launcher"]);
}

/// `landlock_create_ruleset` of x86-64, and what it answers where it is not.
const LANDLOCK: i64 = 444;
const ENOSYS: u32 = 38;

fn without_landlock() -> std::result::Result<BpfProgram, BackendError> {
    let rules = [(LANDLOCK, Vec::new())].into_iter().collect();
    let missing = SeccompAction::Errno(ENOSYS);
    SeccompFilter::new(rules, SeccompAction::Allow, missing, std::env::consts::ARCH.try_into()?)?.try_into()
}

#[test]
fn a_kernel_without_landlock() {
    let all = under(without_landlock(), SANDBOX);
    stops(&all, "confinement", SANDBOX, "landlock");
    stops(&all, "landlock", SANDBOX, "lsm=");
    holds(&all, &["KVM", "namespaces"]);
}

#[test]
fn programs_that_are_missing_or_none() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    let run = |code| {
        let mut command = Command::new(place("vmm"));
        command.args(["doctor", "--json"]);
        found(command, code)
    };
    std::fs::copy(program("vmm")?, place("vmm")).expect("a copy");
    stops(&run(RESOURCE)?, "vmm-core", RESOURCE, "vmm-core");
    symlink(program("vmm-core")?, place("vmm-core")).expect("a link");
    symlink(program("device-blk")?, place("device-blk")).expect("a link");
    // Its folder has a program of that name, and what is in it is another.
    symlink(program("vmm-core")?, place("device-rng")).expect("a link");
    let all = run(0)?;
    holds(&all, &["virtual machine", "device-blk"]);
    for (name, says) in [("device-net", "cannot find"), ("device-rng", "")] {
        let one = of(&all, name);
        assert_eq!((&one["held"], &one["stops"]), (&false.into(), &Value::Null), "{one}");
        assert!(one["found"].as_str().expect("a text").contains(says), "{one}");
    }
    for (name, costs) in [
        ("device-net", "--device net is refused"),
        ("device-blk-qcow2", "--device blk,format=qcow2 is refused"),
        // There is no --device of it.
        ("device-mem", "--device mem is refused"),
    ] {
        assert_eq!(of(&all, name)["costs"], costs);
    }
    Ok(())
}

#[test]
fn a_directory_that_is_no_control_group() -> Result<()> {
    let all = found(doctor(&["--cgroup", "/proc"])?, SANDBOX)?;
    stops(&all, "control groups", SANDBOX, "is no cgroup v2");
    Ok(())
}
