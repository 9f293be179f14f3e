//! A guest that gives half of its memory back to its host, has it again, and goes on when the balloon's program dies.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::{Ended, Machine, Result, Running, children, program, warnings, within};

const MEBIBYTE: u64 = 1 << 20;
/// What the guest's job writes to once, and what it is then asked to give.
const FILLED: u64 = 300 * MEBIBYTE;
const WANTED: u64 = 256 * MEBIBYTE;
/// What else goes on in a guest.
const SLACK: u64 = 24 * MEBIBYTE;

fn process(running: &Running, name: &str) -> Result<i32> {
    within(name, || children(running.pid()).into_iter().find(|it| it.name == name).map(|it| it.pid))
}

/// How much shared memory is in the core's page tables: what the guest has of the host.
fn held(core: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{core}/status")).expect("the core's status");
    let line =
        status.lines().find_map(|line| line.strip_prefix("RssShmem:")).expect("a kernel that counts it");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes << 10
}

fn ctl(socket: &Path, words: &[&str]) -> Result<Ended> {
    let mut command = Command::new(program("vmm")?);
    command.arg("ctl").arg(socket).args(words);
    Running::start(command)?.wait()
}

fn set(socket: &Path, size: &str) -> Result<()> {
    let ended = ctl(socket, &["balloon", "balloon0", size])?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    Ok(())
}

#[test]
fn half_of_a_guests_memory_goes_to_the_host_and_comes_back() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("control");
    let mut running = Machine::new("balloon")
        .option("memory", "512M")
        .option("control-socket", socket.to_str().expect("text"))
        .option("device", "balloon")
        .start()?;
    let core = process(&running, "vmm-core")?;
    running.wait_for("filled")?;
    let before = held(core);
    assert!(before > FILLED, "{before}");
    set(&socket, "256M")?;
    within("half of the memory", || (held(core) < before - WANTED + SLACK).then_some(()))?;
    let refused = ctl(&socket, &["balloon", "blk0", "1M"])?;
    assert!(refused.code() != Some(0) && refused.log.contains("blk0"), "{}", refused.everything());

    // Another process knows what is wanted and what was given.
    let died = process(&running, "device-balloon")?;
    kill(Pid::from_raw(died), Signal::SIGKILL).expect("it lives");
    running
        .wait_for_log("that it serves again", |log| log.contains("balloon0 serves again").then_some(()))?;
    running.type_line("still")?;
    let given: u64 = running.wait_for("given")?.parse().expect("a number of MiB");
    assert!(given * MEBIBYTE >= WANTED - SLACK, "{given}");
    assert!(held(core) < before - WANTED + SLACK);

    set(&socket, "0")?;
    running.type_line("again")?;
    running.wait_for("filled-again")?;
    assert!(held(core) > FILLED, "{}", held(core));
    running.type_line("end")?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    warnings::none_of_ours(&ended)
}
