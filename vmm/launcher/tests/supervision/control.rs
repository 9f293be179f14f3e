//! The control socket: who may use it, what can be asked, and what becomes of it.

use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, connect, recv, send, shutdown, socket,
};
use nix::unistd::{Pid, geteuid};

use crate::machine::{Machine, ctl, program, until};

const RESOURCE: i32 = 3;
const SANDBOX: i32 = 6;
const DEVICE: i32 = 7;
/// Somebody who owns nothing.
const NOBODY: u32 = 65534;

fn controlled(act: &str) -> Machine {
    let mut machine = Machine::with(act, &["--device=blk,path=disk.raw", "--control-socket=control"]);
    machine.wait_until_confined();
    machine
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// It fails with this code and says all of `parts` in one line.
fn fails(output: &Output, code: i32, parts: &[&str]) {
    let text = said(output);
    assert_eq!((output.status.code(), text.lines().count()), (Some(code), 1), "{text}");
    parts.iter().for_each(|part| assert!(text.contains(part), "no {part:?} in: {text}"));
}

/// The pid of the one device, which is in this state.
fn serving(machine: &Machine) -> i32 {
    let output = machine.ctl(&["devices"]);
    let text = said(&output);
    let rest = text.strip_prefix("blk0: serving (pid ").unwrap_or_else(|| unexpected(&text));
    let number = rest.split_once(')').map(|(number, _)| number).unwrap_or_else(|| unexpected(&text));
    number.parse().expect("a pid")
}

fn unexpected(text: &str) -> &str {
    assert_eq!(text, "blk0: serving (pid …)");
    text
}

fn ends_well(machine: Machine) {
    machine.send(Signal::SIGTERM);
    let ended = machine.end();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
}

pub fn a_devices_program_is_replaced_while_the_machine_runs() {
    let mut machine = controlled("obey");
    let mut pid = serving(&machine);
    for _ in 0..3 {
        let output = machine.ctl(&["replace-device", "blk0"]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        machine.wait_for("vmm: device blk0 is replaced (pid ");
        machine.wait_for("blk0: told to stop");
        let new = serving(&machine);
        assert_ne!(new, pid);
        pid = new;
    }
    // What replaced another is a process as any other.
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it lives");
    machine.wait_for("vmm: device blk0 died: killed by SIGKILL");
    machine.wait_for("vmm: device blk0 serves again (pid ");
    assert_ne!(serving(&machine), pid);
    ends_well(machine);
}

pub fn another_program_serves_from_then_on() {
    let mut machine = controlled("obey");
    let other = another(&machine);
    let path = other.to_str().expect("text").to_owned();
    let executes = |machine: &Machine| {
        let link = format!("/proc/{}/exe", serving(machine));
        std::fs::read_link(link).expect("a process of ours")
    };
    assert_eq!(executes(&machine), program("device-blk"));
    let output = machine.ctl(&["replace-device", "blk0", "--program", &path]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(executes(&machine), other);
    kill(Pid::from_raw(serving(&machine)), Signal::SIGKILL).expect("it lives");
    machine.wait_for("vmm: device blk0 serves again (pid ");
    assert_eq!(executes(&machine), other, "its successor");
    let output = machine.ctl(&["replace-device", "blk0"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(executes(&machine), other, "its replacement");
    ends_well(machine);
}

pub fn a_replacement_that_the_core_refuses_changes_nothing() {
    let machine = controlled("refuse-replacements");
    let pid = serving(&machine);
    for _ in 0..3 {
        let output = machine.ctl(&["replace-device", "blk0"]);
        fails(&output, DEVICE, &["vmm: the new program will not do: it is another device"]);
    }
    assert_eq!(serving(&machine), pid);
    ends_well(machine);
}

pub fn a_device_that_fails_while_it_is_being_replaced_costs_the_machine_nothing_else() {
    for word in ["refuse-late", "take-up-late"] {
        let disk = "--device=blk,path=disk.raw,on-failure=fail";
        let mut machine = Machine::with(word, &[disk, "--control-socket=control"]);
        machine.wait_until_confined();
        let pid = serving(&machine);
        let mut replacing = ctl(&machine.folder().join("control"), &["replace-device", "blk0"]);
        let replacing = replacing.stderr(Stdio::piped()).spawn().expect("vmm runs");
        machine.wait_for("vmm-core: slot 1 has two to choose from");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it lives");
        machine.wait_for("vmm: device blk0 has failed: ");
        machine.wait_for("vmm-core: slot 1 is given up");
        let output = replacing.wait_with_output().expect("it has an answer");
        fails(&output, DEVICE, &["the process that serves has died"]);
        // The core has said its word by now, and says that it ends after that.
        ends_well(machine);
    }
}

pub fn a_program_that_is_asked_for_while_a_spare_is_on_its_way_is_not_taken_for_it() {
    let disk = "--device=blk,path=disk.raw,spare=on";
    let mut machine = Machine::with("obey", &[disk, "--control-socket=control"]);
    machine.wait_until_confined();
    machine.wait_for("vmm: device blk0 has a spare (pid ");
    let other = another(&machine);
    machine.signal_program("vmm", Signal::SIGSTOP);
    kill(Pid::from_raw(serving(&machine)), Signal::SIGKILL).expect("it lives");
    // The next spare is asked for now, and nobody makes it.
    machine.wait_for("vmm: device blk0 serves again (pid ");
    let mut replacing = ctl(
        &machine.folder().join("control"),
        &["replace-device", "blk0", "--program", other.to_str().expect("text")],
    );
    let replacing = replacing.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("vmm runs");
    until("a replacement", || said(&machine.ctl(&["devices"])).contains("being replaced"));
    machine.signal_program("vmm", Signal::SIGCONT);
    let output = replacing.wait_with_output().expect("it has an answer");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let link = format!("/proc/{}/exe", serving(&machine));
    assert_eq!(std::fs::read_link(link).expect("a process of ours"), other);
    ends_well(machine);
}

fn is_zombie(child: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

/// A program of the device's in another file.
fn another(machine: &Machine) -> PathBuf {
    let other = machine.folder().join("another");
    std::fs::copy(program("device-blk"), &other).expect("a copy");
    std::fs::set_permissions(&other, PermissionsExt::from_mode(0o755)).expect("permissions");
    other
}

pub fn what_cannot_be_asked_is_refused_with_its_reason() {
    let machine = controlled("obey");
    let pid = serving(&machine);
    let folder = machine.folder();
    let text = folder.join("text");
    std::fs::write(&text, "no program").expect("a file");
    std::fs::set_permissions(&text, PermissionsExt::from_mode(0o755)).expect("permissions");
    let text = text.to_str().expect("text");
    fails(&machine.ctl(&["replace-device", "blk1"]), DEVICE, &["'blk1'", "did you mean 'blk0'"]);
    fails(&machine.ctl(&["replace-device", "a b"]), 2, &["name"]);
    fails(&machine.ctl(&["replace-device"]), 2, &["ID"]);
    fails(&machine.ctl(&["replace-devices", "blk0"]), 2, &["replace-device"]);
    fails(
        &machine.ctl(&["replace-device", "blk0", "--program", text]),
        DEVICE,
        &["cannot be started", "exec"],
    );
    // What was made of it is a child of the launcher's, which has waited for it.
    until("nothing", || machine.children().into_iter().all(|child| !is_zombie(child)));
    fails(&machine.ctl(&["replace-device", "blk0", "--program", "/nowhere"]), RESOURCE, &["/nowhere"]);
    fails(&machine.ctl(&["replace-device", "blk0", "--program", "/proc"]), RESOURCE, &["/proc", "no file"]);
    let nobody = ctl(&folder.join("nobody"), &["devices"]).output().expect("vmm runs");
    fails(&nobody, RESOURCE, &["--control-socket"]);
    let file = ctl(&folder.join("disk.raw"), &["devices"]).output().expect("vmm runs");
    fails(&file, RESOURCE, &["no machine listens there"]);
    assert_eq!(serving(&machine), pid, "and all goes on");
    ends_well(machine);
}

pub fn a_disk_is_resized_by_who_knows_how() {
    let mut machine = controlled("obey");
    let output = machine.ctl(&["resize-disk", "blk0", "8K"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    machine.wait_for("blk0: told of Disk(Some(8192))");
    fails(&machine.ctl(&["resize-disk", "blk0"]), DEVICE, &["vmm: a stand-in will not"]);
    machine.wait_for("blk0: told of Disk(None)");
    fails(&machine.ctl(&["resize-disk", "blk1"]), DEVICE, &["'blk1'", "did you mean 'blk0'"]);
    fails(&machine.ctl(&["resize-disk"]), 2, &["ID"]);
    fails(&machine.ctl(&["resize-disk", "blk0", "20"]), 2, &["20", "unit"]);
    for size in ["0", "5000000T"] {
        fails(&machine.ctl(&["resize-disk", "blk0", size]), 2, &["size of a disk", "512 bytes to 4E"]);
    }
    ends_well(machine);
    // An older program would end at what it does not know: it is not sent that, and the user is told.
    for minor in ["older", "of-minor-4"] {
        let disk = format!("--device=blk,path=disk.raw,serial={minor}");
        let mut machine = Machine::with("obey", &[&disk, "--control-socket=control"]);
        machine.wait_until_confined();
        fails(&machine.ctl(&["resize-disk", "blk0"]), DEVICE, &["has known this setting since 5", "replace"]);
        machine.send(Signal::SIGTERM);
        let ended = machine.end();
        assert!(ended.code == Some(0) && !ended.log.contains("told of"), "{}", ended.log);
    }
}

pub fn the_control_socket_goes_with_the_machine() {
    for end in [Signal::SIGTERM, Signal::SIGQUIT] {
        let mut machine = controlled("obey");
        let folder = machine.keep();
        assert!(folder.join("control").exists());
        machine.send(end);
        machine.end();
        assert!(!folder.join("control").exists(), "{end}");
        std::fs::remove_dir_all(folder).expect("our folder");
    }
    let mut machine = Machine::with("die", &["--control-socket=control"]);
    let folder = machine.keep();
    machine.end();
    assert!(!folder.join("control").exists());
    std::fs::remove_dir_all(folder).expect("our folder");
}

pub fn the_control_socket_of_a_dead_launcher_is_replaced_and_that_of_a_live_one_not() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("control");
    let argument = format!("--control-socket={}", path.display());
    let mut first = Machine::with("obey", &[&argument]);
    first.wait_until_confined();
    let second = Machine::with("obey", &[&argument]).end();
    assert_eq!(second.code, Some(RESOURCE), "{}", second.log);
    assert!(second.log.contains("somebody listens there already"), "{}", second.log);
    // The spawner first: it may yet be quick enough to remove the name when the launcher is killed.
    first.kill_program("vmm");
    first.wait_for("vmm: the spawner is gone");
    first.send(Signal::SIGKILL);
    first.end();
    assert!(path.exists(), "nobody was left to remove it");
    let mut third = Machine::with("obey", &[&argument]);
    third.wait_until_confined();
    let output = ctl(&path, &["devices"]).output().expect("vmm runs");
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""));
    ends_well(third);
    assert!(!path.exists());
}

fn pid_in(line: &str) -> i32 {
    let (_, rest) = line.split_once("(pid ").expect("a pid");
    rest.split_once(')').expect("its end").0.parse().expect("a number")
}

pub fn a_spare_takes_over_and_is_followed_by_another() {
    let disk = "--device=blk,path=disk.raw,spare=on";
    let mut machine = Machine::with("obey", &[disk, "--control-socket=control"]);
    machine.wait_until_confined();
    let mut spare = pid_in(&machine.line("vmm: device blk0 has a spare (pid "));
    let serves = serving(&machine);
    assert_ne!(serves, spare);
    kill(Pid::from_raw(serves), Signal::SIGKILL).expect("it lives");
    machine.wait_for("vmm: device blk0 died: killed by SIGKILL");
    assert_eq!(pid_in(&machine.line("vmm: device blk0 serves again (pid ")), spare);
    spare = pid_in(&machine.line("vmm: device blk0 has a spare (pid "));
    // With a spare there, too, the program can be replaced; the spare goes with the old one.
    let output = machine.ctl(&["replace-device", "blk0"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_ne!(serving(&machine), spare);
    let last = pid_in(&machine.line("vmm: device blk0 has a spare (pid "));
    assert_ne!(last, spare);
    kill(Pid::from_raw(last), Signal::SIGKILL).expect("it lives");
    machine.wait_for("vmm: device blk0 has no spare any more: ");
    assert!(serving(&machine) > 0, "it is no matter for the one that serves");
    ends_well(machine);
}

/// The stand-ins are spawned as programs are, and do not confine themselves.
pub fn a_process_that_is_less_confined_than_promised_is_found() {
    let machine = controlled("obey");
    let inspect = |arguments: &[&str]| {
        let mut command = std::process::Command::new(program("vmm"));
        command.arg("inspect").arg(machine.folder().join("control")).args(arguments);
        command.output().expect("vmm runs")
    };
    let output = inspect(&[]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(SANDBOX), "{text}");
    for part in
        ["  DIFFERENT    thread ", "seccomp: mode 0, not 2 (filter)", "landlock: none, by its own word"]
    {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(text.contains("2 of 4 processes less confined than promised\n"), "{text}");
    let output = inspect(&["--json"]);
    assert_eq!(output.status.code(), Some(SANDBOX));
    let json = said(&output);
    assert!(json.starts_with("{\"different\":true,\"processes\":[{\"name\":\"vmm\","), "{json}");
    assert_eq!(json.matches("\"differences\":[]").count(), 2, "of vmm and its spawner: {json}");
    fails(&inspect(&["--jsn"]), 2, &["--jsn", "vmm inspect --help"]);
    ends_well(machine);
}

/// A client that speaks for itself.
fn client(path: &Path) -> OwnedFd {
    let socket =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    connect(socket.as_raw_fd(), &UnixAddr::new(path).expect("an address")).expect("a connection");
    socket
}

/// Whether the launcher hangs up; waits until it does or says something.
fn is_hung_up_on(client: &OwnedFd) -> bool {
    matches!(
        recv(client.as_raw_fd(), &mut [0; 64], MsgFlags::empty()),
        Ok(0) | Err(nix::errno::Errno::ECONNRESET)
    )
}

pub fn clients_are_few_and_speak_the_protocol() {
    let machine = controlled("obey");
    let path = machine.folder().join("control");
    let four: Vec<OwnedFd> = (0..4).map(|_| client(&path)).collect();
    assert!(is_hung_up_on(&client(&path)), "a fifth");
    // No frame, one that is too long, and a frame of the launcher's to the core.
    let frame = [&b"vmm\0\x01\x02\x07\x01\x01\0\0\0\0\0\0\0"[..], &[0]].concat();
    for (one, junk) in four.iter().zip([&b"junk"[..], &[0; 20_000], &frame]) {
        send(one.as_raw_fd(), junk, MsgFlags::MSG_NOSIGNAL).expect("it is taken");
        assert!(is_hung_up_on(one), "{} bytes", junk.len());
    }
    let others: Vec<OwnedFd> = (0..3).map(|_| client(&path)).collect();
    assert!(is_hung_up_on(&client(&path)), "a fifth again");
    // A place is free at once for whoever comes next. Not by closing: another test's child has copies until it executes.
    others.iter().for_each(|one| shutdown(one.as_raw_fd(), Shutdown::Both).expect("it was connected"));
    assert!(serving(&machine) > 0);
    drop(four);
    ends_well(machine);
}

pub fn another_user_is_not_served() {
    let machine = controlled("obey");
    let path = machine.folder().join("control");
    let mode = std::fs::metadata(&path).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    if geteuid().is_root() {
        let everyone = PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(machine.folder(), everyone).expect("permissions");
        std::fs::set_permissions(
            program("vmm").parent().expect("a folder"),
            PermissionsExt::from_mode(0o755),
        )
        .expect("permissions");
        let output = ctl(&path, &["devices"]).uid(NOBODY).gid(NOBODY).output().expect("vmm runs");
        fails(&output, RESOURCE, &["no permission"]);
        // And if somebody opens the door.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).expect("permissions");
        let output = ctl(&path, &["devices"]).uid(NOBODY).gid(NOBODY).output().expect("vmm runs");
        fails(&output, DEVICE, &["hung up", "another user"]);
    }
    assert!(serving(&machine) > 0);
    ends_well(machine);
}
