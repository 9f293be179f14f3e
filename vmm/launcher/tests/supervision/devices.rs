//! The same with a device that does whatever it likes.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::machine::{Ended, Machine};

const SANDBOX: i32 = 6;
const DEVICE: i32 = 7;
const CORE: i32 = 8;

/// A machine that runs as long as it may, with a disk that does `act`.
fn with_disk(act: &str) -> Machine {
    Machine::with("obey", &[&format!("--device=blk,path=disk.raw,serial={act}")])
}

fn ends(act: &str) -> Ended {
    with_disk(act).end()
}

pub fn a_device_gets_its_disk_and_the_core_its_socket() {
    let ended = Machine::with("power-off", &["--device=blk,path=disk.raw"]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(ended.log.contains("vmm-core: given 3 descriptors and 1 sockets\n"), "{}", ended.log);
}

pub fn each_process_has_its_place_in_the_report() {
    let mut machine = with_disk("obey");
    machine.wait_until_confined();
    machine.send(Signal::SIGTERM);
    let ended = machine.end();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(ended.log.starts_with("vmm: confined: device-blk blk0 (pid "), "{}", ended.log);
    assert!(ended.log.contains("), vmm-core (pid "), "{}", ended.log);
}

pub fn a_device_that_dies_at_any_point_ends_the_machine_by_name() {
    for act in ["abort-at-once", "die", "exit"] {
        let ended = ends(act);
        assert_eq!(ended.code, Some(DEVICE), "{act}: {}", ended.log);
        assert!(ended.log.contains("vmm: device blk0 is lost: "), "{act}: {}", ended.log);
    }
    let gave_up = ends("exit-at-once");
    assert_eq!(gave_up.code, Some(SANDBOX), "{}", gave_up.log);
}

pub fn a_device_that_is_killed_is_followed_by_another_with_its_disk() {
    let mut machine = with_disk("obey");
    machine.wait_until_confined();
    for _ in 0..8 {
        machine.kill_program("device-blk");
        machine.wait_for("vmm: device blk0 died: killed by SIGKILL");
        machine.wait_for("vmm: device blk0 serves again (pid ");
    }
    let disk = machine.folder().join("disk.raw");
    assert!(!is_free(&disk), "its lock is that of the machine");
    machine.send(Signal::SIGTERM);
    let ended = machine.end();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
}

pub fn a_device_that_dies_over_and_over_ends_the_machine() {
    let ended = ends("die");
    assert_eq!(ended.code, Some(DEVICE), "{}", ended.log);
    let restarts = ended.log.matches("it is started again").count();
    // None, if it died before the machine ran.
    assert!(restarts == 10 || restarts == 0, "{}", ended.log);
    assert_eq!(ended.log.contains("after 10 others"), restarts == 10, "{}", ended.log);
}

pub fn a_successor_that_the_core_refuses_is_ended_and_followed() {
    let mut machine = Machine::with("refuse-twice", &["--device=blk,path=disk.raw"]);
    machine.wait_until_confined();
    machine.kill_program("device-blk");
    machine.wait_for("vmm: device blk0 died: killed by SIGKILL");
    for _ in 0..2 {
        machine.wait_for(
            "vmm: device blk0 died: killed by SIGKILL (it is another device); it is started again\n",
        );
    }
    machine.wait_for("vmm: device blk0 serves again (pid ");
    machine.send(Signal::SIGTERM);
    assert_eq!(machine.end().code, Some(0));
}

pub fn a_device_ends_as_the_user_said() {
    let mut machine = Machine::with("obey", &["--device=blk,path=disk.raw,on-failure=fail"]);
    machine.wait_until_confined();
    machine.kill_program("device-blk");
    machine.wait_for("vmm: device blk0 has failed: killed by SIGKILL");
    machine.wait_for("vmm-core: slot 1 is given up\n");
    machine.send(Signal::SIGTERM);
    assert_eq!(machine.end().code, Some(0));

    let mut machine = Machine::with("obey", &["--device=blk,path=disk.raw,on-failure=stop"]);
    machine.wait_until_confined();
    machine.kill_program("device-blk");
    let ended = machine.end();
    assert_eq!(ended.code, Some(DEVICE), "{}", ended.log);
    assert!(ended.log.contains("vmm: device blk0 is lost: "), "{}", ended.log);
}

pub fn a_machine_outlives_its_spawner_but_not_its_device_then() {
    let mut machine = with_disk("obey");
    machine.wait_until_confined();
    machine.kill_program("vmm");
    machine.wait_for("vmm: the spawner is gone");
    machine.kill_program("device-blk");
    let ended = machine.end();
    assert_eq!(ended.code, Some(DEVICE), "{}", ended.log);
}

pub fn a_core_cannot_claim_a_successor() {
    let ended = Machine::with("reconnected-unasked", &["--device=blk,path=disk.raw"]).end();
    assert_eq!(ended.code, Some(8), "{}", ended.log);
    assert!(ended.log.contains("a successor that nobody sent"), "{}", ended.log);
}

pub fn a_device_is_heard_when_it_fails() {
    let ended = ends("fail");
    assert_eq!(ended.code, Some(DEVICE), "{}", ended.log);
    assert!(ended.log.ends_with("vmm: blk0: the disk is no disk\n"), "{}", ended.log);
}

pub fn a_device_can_say_nothing_but_what_is_in_its_table() {
    for act in [
        "counters-unasked",
        "set-unasked",
        "statistics-unasked",
        "claim-to-be-core",
        "keep-twice",
        "keep-late",
        "raw-junk",
        "raw-byte",
        "raw-long",
        "raw-cut",
        "raw-strays",
    ] {
        let ended = ends(act);
        assert_eq!(ended.code, Some(DEVICE), "{act}: {}", ended.log);
        assert!(ended.log.contains("blk0 broke the rules of its control channel"), "{act}: {}", ended.log);
    }
}

pub fn a_device_that_does_not_answer_is_ended_as_one_that_hangs_and_no_other() {
    // The first stops, the second answers, the third is of a version that nobody asks.
    let disk = "--device=blk,path=disk.raw,readonly=on";
    let older = format!("{disk},serial=older");
    let mut machine = Machine::with("obey", &[disk, disk, &older, "--events=events"]);
    let report = machine.line("vmm: confined: ");
    let (_, first) = report.split_once("device-blk blk0 (pid ").expect("its place in the report");
    let first: String = first.chars().take_while(char::is_ascii_digit).collect();
    kill(Pid::from_raw(first.parse().expect("a number")), Signal::SIGSTOP).expect("it lives");
    machine.wait_for(
        "vmm: device blk0 died: killed by SIGKILL (it has not answered on its control channel for 60 s); it is started again\n",
    );
    machine.wait_for("vmm: device blk0 serves again (pid ");
    let events = std::fs::read_to_string(machine.folder().join("events")).expect("a file of events");
    assert!(events.contains(r#""event":"death","device":"blk0","cause":"hang""#), "{events}");
    machine.send(Signal::SIGTERM);
    let ended = machine.end();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_eq!(ended.log.matches(" died: ").count(), 1, "{}", ended.log);
    assert!(!ended.log.contains("blk2: asked"), "{}", ended.log);
}

/// What is said of whoever says that its policy refused this.
const REFUSED: &str = "killed by SIGSYS: it made the system call connect(42) with arguments \
                       (0x9, 0x1000, 0x6e, 0x0, 0x0, 0x0), which its policy forbids";

pub fn who_says_that_its_policy_refused_a_call_is_ended_and_the_call_is_told() {
    // They live on, or would: it is the launcher that ends them.
    let ended = Machine::start("refused").end();
    assert_eq!(ended.code, Some(CORE), "{}", ended.log);
    assert!(ended.log.contains(&format!("vmm: the core died: {REFUSED}\n")), "{}", ended.log);

    for act in ["refused-at-once", "refused"] {
        let disk = format!("--device=blk,path=disk.raw,serial={act},on-failure=stop");
        let ended = Machine::with("obey", &[&disk]).end();
        assert_eq!(ended.code, Some(DEVICE), "{act}: {}", ended.log);
        assert!(
            ended.log.contains(&format!("vmm: device blk0 is lost: {REFUSED}\n")),
            "{act}: {}",
            ended.log
        );
    }

    let disk = "--device=blk,path=disk.raw,serial=refused-on-signal,on-failure=fail";
    let mut machine = Machine::with("obey", &[disk, "--events=events"]);
    machine.wait_until_confined();
    machine.signal_program("device-blk", Signal::SIGUSR1);
    machine.wait_for(&format!("vmm: device blk0 has failed: {REFUSED}"));
    let events = std::fs::read_to_string(machine.folder().join("events")).expect("a file of events");
    let object = r#""cause":"system-call","system_call":"connect","number":42,"text":"killed by SIGSYS: "#;
    assert!(events.contains(object), "{events}");
    machine.send(Signal::SIGTERM);
    assert_eq!(machine.end().code, Some(0));
}

pub fn what_a_later_process_lacks_and_the_one_before_did_not_is_told_once() {
    let mut machine = with_disk("lack-later");
    machine.wait_until_confined();
    machine.wait_for("vmm: lacking: blk0: layer 1\n");
    machine.kill_program("device-blk");
    machine.wait_for("vmm: lacking: blk0: layer 2\n");
    for _ in 0..2 {
        machine.wait_for("vmm: device blk0 serves again (pid ");
        machine.kill_program("device-blk");
    }
    machine.wait_for("vmm: device blk0 serves again (pid ");
    machine.send(Signal::SIGTERM);
    let ended = machine.end();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let told = |layer: &str| ended.log.matches(&format!("vmm: lacking: blk0: {layer}\n")).count();
    assert_eq!((told("layer 1"), told("layer 2")), (1, 1), "{}", ended.log);
}

pub fn each_process_of_a_device_has_what_the_one_before_kept() {
    let disk = "--device=blk,path=disk.raw,readonly=on,serial=keep";
    let mut machine = Machine::with("obey", &[disk, disk, "--control-socket=control"]);
    machine.wait_until_confined();
    for number in 2..5 {
        let replaced = machine.ctl(&["replace-device", "blk0"]);
        assert!(replaced.status.success(), "{replaced:?}");
        machine.wait_for(&format!("blk0: process {number} of this device\n"));
    }
    let replaced = machine.ctl(&["replace-device", "blk1"]);
    assert!(replaced.status.success(), "{replaced:?}");
    machine.wait_for("blk1: process 2 of this device\n");
    machine.send(Signal::SIGTERM);
    assert_eq!(machine.end().code, Some(0));

    let mut machine = Machine::with("obey", &[&format!("{disk},spare=on")]);
    machine.wait_for("vmm: device blk0 has a spare (pid ");
    machine.send(Signal::SIGTERM);
    let ended = machine.end();
    assert!(ended.log.contains("blk0: process 2 of this device\n"), "{}", ended.log);

    let mut machine = with_disk("keep");
    machine.wait_until_confined();
    for number in 2..5 {
        machine.kill_program("device-blk");
        machine.wait_for(&format!("blk0: process {number} of this device\n"));
        machine.wait_for("vmm: device blk0 serves again (pid ");
    }
    machine.send(Signal::SIGTERM);
    assert_eq!(machine.end().code, Some(0));
}

pub fn a_device_that_does_not_stop_is_killed_and_the_end_is_the_guests() {
    let mut machine = with_disk("ignore-stop");
    machine.wait_until_confined();
    machine.send(Signal::SIGTERM);
    let ended = machine.end();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(ended.log.contains("blk0 did not stop within "), "{}", ended.log);
}

pub fn the_disk_is_free_after_any_end() {
    for act in ["die", "ignore-stop"] {
        let mut machine = with_disk(act);
        if act == "ignore-stop" {
            machine.wait_until_confined();
            machine.kill_children();
        }
        let folder = machine.keep();
        machine.end();
        let disk = folder.join("disk.raw");
        assert!(is_free(&disk), "somebody has the disk");
        std::fs::remove_dir_all(folder).expect("our folder");
    }
}

/// Whether a writer could have it.
fn is_free(disk: &Path) -> bool {
    let file = std::fs::File::options().read(true).write(true).open(disk).expect("the disk");
    let lock = nix::libc::flock {
        l_type: i16::try_from(nix::libc::F_WRLCK).expect("small"),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).is_ok()
}
