//! A guest that gives half of its memory back to its host, has it again, and goes on when the balloon's program dies.

use std::os::unix::fs::MetadataExt;
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

/// How much of the host the guest's memory takes: what its memfd holds, which each process of a device that is driven has.
fn held(running: &Running) -> u64 {
    let descriptors = children(running.pid()).into_iter().flat_map(|process| {
        std::fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter().flatten().flatten()
    });
    let is_memory = |path: &std::path::PathBuf| {
        std::fs::read_link(path).is_ok_and(|link| link.starts_with("/memfd:guest-memory (deleted)"))
    };
    let memory =
        descriptors.map(|entry| entry.path()).find(is_memory).expect("a process that has guest memory");
    std::fs::metadata(memory).expect("a memfd").blocks().saturating_mul(512)
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
        // With it the driver goes on counting what it has given as its own.
        .option("device", "balloon,deflate-on-oom=off")
        .option("device", "rng")
        .start()?;
    running.wait_for("filled")?;
    let before = held(&running);
    assert!(before > FILLED, "{before}");
    set(&socket, "256M")?;
    within("half of the memory", || (held(&running) < before - WANTED + SLACK).then_some(()))?;
    for (device, why) in [("blk0", "there is no device 'blk0'"), ("rng0", "nothing of the kind")] {
        let refused = ctl(&socket, &["balloon", device, "1M"])?;
        assert!(refused.code() == Some(7) && refused.log.contains(why), "{}", refused.everything());
    }

    // Another process knows what is wanted and what was given.
    let died = running.process("device-balloon")?;
    kill(Pid::from_raw(died), Signal::SIGKILL).expect("it lives");
    running
        .wait_for_log("that it serves again", |log| log.contains("balloon0 serves again").then_some(()))?;
    running.type_line("still")?;
    let given: u64 = running.wait_for("given")?.parse().expect("a number of MiB");
    assert!(given * MEBIBYTE >= WANTED - SLACK, "{given}");
    assert!(held(&running) < before - WANTED + SLACK);

    set(&socket, "0")?;
    running.type_line("again")?;
    running.wait_for("filled-again")?;
    assert!(held(&running) > FILLED, "{}", held(&running));
    running.type_line("end")?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    warnings::none_of_ours(&ended)
}
