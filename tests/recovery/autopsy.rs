//! What is known of a machine in which nothing moves any more, and what makes it move again: for somebody who must find
//! out whether a wake-up was lost, and whose it was.
//!
//! Prints to the test's own output. What is done to the machine comes in an order in which each step tells something: a
//! stop and a continuation of the core has every vCPU leave its guest and enter it again, and nothing else; the death of a
//! device has its successor kicked and the driver called.

use std::fs::read_to_string;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::{Process, children};

use crate::fleet::{Device, Fleet, Serves};

/// For what was lost to be found again.
const WHILE: Duration = Duration::from_secs(10);

/// Shows all of it.
pub fn of(fleet: &mut Fleet) {
    let pid = fleet.running.pid();
    let show = |process: &Process| {
        println!("--- {} ({})", process.name, process.pid);
        show_threads(process.pid);
        show_events(process.pid);
    };
    children(pid).iter().for_each(show);
    // A failure to send is a process that is gone, which the rest shows.
    let _ = fleet.running.signal(Signal::SIGUSR1);
    println!("moved: {:?}", progress(fleet));
    std::thread::sleep(WHILE);
    println!("by itself: {:?}", progress(fleet));
    for core in children(pid).into_iter().filter(|process| process.name.contains("core")) {
        send(core.pid, Signal::SIGSTOP);
        std::thread::sleep(WHILE);
        send(core.pid, Signal::SIGCONT);
    }
    std::thread::sleep(WHILE);
    println!("after the core was stopped and went on: {:?}", progress(fleet));
    let disks =
        fleet.devices.iter().filter(|device| device.dies && matches!(device.serves, Serves::Disk(..)));
    disks.for_each(|device| send(device.pid, Signal::SIGKILL));
    std::thread::sleep(WHILE);
    println!("after the disks' programs were killed: {:?}", progress(fleet));
}

/// How far each disk's writers and the guest's reader of random bytes have come.
fn progress(fleet: &mut Fleet) -> (Vec<String>, usize) {
    let of = |device: &mut Device| match &mut device.serves {
        Serves::Disk(_, image) => Some(format!("{} {:?}", device.name, image.progress())),
        _ => None,
    };
    let read = fleet.running.console().matches("@@read ").count();
    (fleet.devices.iter_mut().filter_map(of).collect(), read)
}

fn send(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Where each thread waits, as far as this kernel and our rights show it.
fn show_threads(pid: i32) {
    for thread in names_in(&format!("/proc/{pid}/task")) {
        let read = |file: &str| {
            let text = read_to_string(format!("/proc/{pid}/task/{thread}/{file}")).unwrap_or_default();
            text.trim().replace('\n', " < ")
        };
        let state = read("status");
        let state = state.split(" < ").find(|line| line.starts_with("State")).unwrap_or_default().to_owned();
        let (name, call, stack) = (read("comm"), read("syscall"), read("stack"));
        println!("{thread} {name}: {state}; in {call}; {stack}");
    }
}

/// Counts of events that nobody has taken.
fn show_events(pid: i32) {
    for fd in names_in(&format!("/proc/{pid}/fdinfo")) {
        let text = read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
        let counts = text.lines().filter_map(|line| line.strip_prefix("eventfd-count:"));
        counts
            .map(str::trim)
            .filter(|count| *count != "0")
            .for_each(|count| println!("fd {fd}: {count} events"));
    }
}

fn names_in(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
