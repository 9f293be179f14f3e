//! `vmm inspect` on a machine that runs: all its processes, as its user and the kernel's view of them, and nothing that is
//! less than promised.

use std::process::Output;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use system_tests::Result;

use crate::guest::Guest;
use crate::house::{House, Who};
use crate::moments::confinement;

/// What is said of the machine in this house: found to be as promised.
fn inspected(house: &House) -> Vec<Value> {
    let run = |arguments: &[&str]| -> Output {
        house.vmm().arg("inspect").arg(house.control()).args(arguments).output().expect("vmm runs")
    };
    let screen = run(&[]);
    let text = String::from_utf8(screen.stdout).expect("text");
    assert_eq!((screen.status.code(), screen.stderr.as_slice()), (Some(0), &b""[..]), "{text}");
    assert!(!text.contains("DIFFERENT") && text.contains("each confined as its policy promises"), "{text}");
    let json: Value = serde_json::from_slice(&run(&["--json"]).stdout).expect("JSON");
    assert_eq!(json["different"], false);
    let processes = json["processes"].as_array().expect("processes").clone();
    for process in &processes {
        let name = process["name"].as_str().expect("a name");
        assert!(text.contains(&format!("(pid {})", process["pid"])), "{name}: {text}");
        assert_eq!(process["ready"], true, "{process}");
        let own = if process["program"] == "vmm" { 1 } else { 3 };
        for thread in process["threads"].as_array().expect("threads") {
            assert_eq!(
                (&thread["seccomp_mode"], &thread["no_new_privs"]),
                (&2.into(), &true.into()),
                "{name}"
            );
            assert!(thread["seccomp_filters"].as_u64().expect("a number") >= own, "{name}: {thread}");
        }
        // What an ordinary user is not shown is said to be so; root sees all.
        let hidden = process["descriptors"].is_null();
        assert_eq!(hidden, house.user() != 0 && name != "vmm-spawner", "{process}");
        assert_eq!(text.contains("hidden from this user"), house.user() != 0, "{text}");
    }
    processes
}

fn text<'a>(process: &'a Value, key: &str) -> &'a str {
    process[key].as_str().expect("a text")
}

fn names(processes: &[Value]) -> Vec<(&str, &str)> {
    let mut names: Vec<_> =
        processes.iter().map(|process| (text(process, "name"), text(process, "state"))).collect();
    names.sort_unstable();
    names
}

fn inspect_all(who: Who) -> Result<()> {
    let house = House::new(who)?;
    let running = house.start_controlled(Guest::Halts, ",spare=on", &["rng"])?;
    running.wait_for_log("the line on confinement", |log| confinement(log).map(drop))?;
    running.wait_for_log("a spare", |log| log.contains("vmm: device blk0 has a spare").then_some(()))?;
    let before = inspected(&house);
    let expected = [
        ("blk0", "second"),
        ("blk0", "serving"),
        ("rng0", "serving"),
        ("vmm", "launcher"),
        ("vmm-core", "serving"),
        ("vmm-spawner", "spawner"),
    ];
    assert_eq!(names(&before), expected);
    let launcher = before.iter().find(|process| process["name"] == "vmm").expect("a launcher");
    assert_eq!(launcher["pid"], running.pid());
    // A successor is under the spawner's filter, too, and no less confined.
    let rng = before.iter().find(|process| process["name"] == "rng0").expect("a generator");
    let pid = rng["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it lives");
    running.wait_for_log("a successor", |log| log.contains("vmm: device rng0 serves again").then_some(()))?;
    let after = inspected(&house);
    assert_eq!(names(&after), expected);
    let rng = after.iter().find(|process| process["name"] == "rng0").expect("a generator");
    assert_ne!(rng["pid"], pid);
    assert_eq!(rng["threads"][0]["seccomp_filters"], 4);
    drop(running);
    house.check_left()
}

#[test]
fn each_process_of_a_machine_is_inspected_and_as_promised() -> Result<()> {
    inspect_all(Who::Caller)
}

#[test]
fn an_ordinary_user_inspects_his_machine_and_is_told_what_he_is_not_shown() -> Result<()> {
    inspect_all(Who::OrdinaryUser)
}
