//! What is set and asked of a device while the machine runs, and every way in which that is refused.

use std::process::{Output, Stdio};

use nix::sys::signal::Signal;

use crate::machine::{Machine, ctl};

const DEVICE: i32 = 7;

/// A machine of a core that does so and disks that are the stand-ins of these serials, and what becomes of each that dies.
fn machine(serials: &[&str], core: &str, on_failure: &str) -> Machine {
    let mut arguments = vec!["--control-socket=control".to_owned()];
    let disk = |serial: &&str| {
        format!("--device=blk,path=disk.raw,readonly=on,serial={serial},on-failure={on_failure}")
    };
    arguments.extend(serials.iter().map(disk));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut machine = Machine::with(core, &arguments);
    machine.wait_until_confined();
    machine
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// This answer, with this code.
fn answers(machine: &Machine, words: &[&str], code: i32, parts: &[&str]) {
    let output = machine.ctl(words);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
    parts.iter().for_each(|part| assert!(text.contains(part), "{words:?}: no {part:?} in: {text}"));
}

fn ends_well(machine: Machine) {
    machine.send(Signal::SIGTERM);
    let ended = machine.end();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
}

pub fn a_setting_that_cannot_be_made_is_refused_with_its_reason() {
    let mut machine = machine(&["", "older", "set-and-die"], "obey", "fail");
    answers(&machine, &["balloon", "blk0", "1M"], 0, &["set: "]);
    answers(
        &machine,
        &["balloon", "blk4", "1M"],
        DEVICE,
        &["there is no device 'blk4'", "did you mean 'blk"],
    );
    answers(&machine, &["balloon", "blk0", "385G"], 2, &["cannot ask for that", "at most 384G"]);
    // In the words of the device, as one that has nothing of the kind refuses it.
    answers(&machine, &["balloon", "blk0", "3M"], DEVICE, &["vmm: the stand-in does not like it"]);
    let old = [
        "the program of blk1 is of minor version 2, and has known this setting since 4",
        "replace-device blk1",
    ];
    answers(&machine, &["balloon", "blk1", "1M"], DEVICE, &old);
    answers(&machine, &["balloon", "blk2", "1M"], DEVICE, &["ended before it answered"]);
    machine.wait_for("vmm: device blk2 has failed: ");
    answers(&machine, &["balloon", "blk2", "1M"], DEVICE, &["no program of vmm serves blk2 now"]);
    ends_well(machine);
}

pub fn how_much_memory_is_to_be_plugged_in_is_set_or_refused_with_its_reason() {
    let mut machine = machine(&["", "of-minor-4", "set-and-die"], "obey", "fail");
    answers(&machine, &["mem", "blk0", "1M"], 0, &["set: the guest is told, and does it in its own time"]);
    machine.wait_for("blk0: told of Mem(1048576)");
    answers(&machine, &["mem", "blk4", "1M"], DEVICE, &["there is no device 'blk4'"]);
    answers(&machine, &["mem", "blk0", "385G"], 2, &["cannot ask for that", "at most 384G"]);
    answers(&machine, &["mem", "blk0", "soon"], 2, &["soon"]);
    answers(&machine, &["mem", "blk0", "3M"], DEVICE, &["vmm: the stand-in does not like it"]);
    let old = ["the program of blk1 is of minor version 4, and has known this setting since 5"];
    answers(&machine, &["mem", "blk1", "1M"], DEVICE, &old);
    answers(&machine, &["mem", "blk2", "1M"], DEVICE, &["ended before it answered"]);
    machine.wait_for("vmm: device blk2 has failed: ");
    answers(&machine, &["mem", "blk2", "1M"], DEVICE, &["no program of vmm serves blk2 now"]);
    ends_well(machine);
}

pub fn nothing_is_set_of_a_device_that_is_being_replaced() {
    let mut machine = machine(&[""], "never-choose", "restart");
    let path = machine.folder().join("control");
    let mut replacing = ctl(&path, &["replace-device", "blk0"]);
    let replacing = replacing.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("vmm runs");
    machine.wait_for("vmm-core: slot 1 has two to choose from");
    answers(&machine, &["balloon", "blk0", "1M"], DEVICE, &["blk0 is being replaced: try again"]);
    ends_well(machine);
    replacing.wait_with_output().expect("it has an answer or is hung up on");
}

pub fn what_a_guests_driver_says_is_shown_and_why_it_says_nothing() {
    let mut machine = machine(&["", "older", "ask-in-vain", "ask-and-die"], "obey", "fail");
    answers(
        &machine,
        &["balloon-stats", "blk0"],
        0,
        &["free: 300M\n", "number 77, which vmm does not know: 5\n"],
    );
    answers(&machine, &["balloon-stats", "blk4"], DEVICE, &["there is no device 'blk4'"]);
    let old = ["of minor version 2, and has known statistics since 5"];
    answers(&machine, &["balloon-stats", "blk1"], DEVICE, &old);
    answers(&machine, &["balloon-stats", "blk2"], DEVICE, &["vmm: there is nobody to ask"]);
    answers(&machine, &["balloon-stats", "blk3"], DEVICE, &["ended before the guest's driver answered"]);
    machine.wait_for("vmm: device blk3 has failed: ");
    answers(&machine, &["balloon-stats", "blk3"], DEVICE, &["no program of vmm serves blk3 now"]);
    answers(&machine, &["balloon-stats", "blk0"], 0, &["free: 300M\n"]);
    ends_well(machine);
}
