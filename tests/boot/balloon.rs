//! A guest that gives half of its memory back to its host, has it again, and goes on when the balloon's program dies.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::control::{ctl, held, told};
use system_tests::{Machine, Result, Running, warnings, within};

pub const MEBIBYTE: u64 = 1 << 20;
/// What the guest's job writes to once, and what it is then asked to give.
const FILLED: u64 = 300 * MEBIBYTE;
const WANTED: u64 = 256 * MEBIBYTE;
/// What else goes on in a guest.
pub const SLACK: u64 = 24 * MEBIBYTE;

/// Asks the guest for so much of its memory from now on.
pub fn set(socket: &Path, size: &str) -> Result<()> {
    told(socket, &["balloon", "balloon0", size]).map(drop)
}

/// What the guest says of its memory is what it says of it inside.
fn has_statistics(socket: &Path, running: &Running) -> Result<()> {
    let statistics = told(socket, &["balloon-stats", "balloon0"])?;
    let whole: u64 = running.wait_for("whole")?.parse().expect("a number of KiB");
    let in_bytes = |name: &str| {
        let size = statistics.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).expect(name);
        let digits = size.find(|letter: char| !letter.is_ascii_digit()).expect("a unit");
        let (number, unit) = size.split_at(digits);
        let number: u64 = number.parse().expect("a number");
        number
            << match unit {
                "K" => 10,
                "M" => 20,
                _ => panic!("{name} is {size}"),
            }
    };
    assert_eq!(in_bytes("total"), whole << 10, "{statistics}");
    // Its job has used most of it once, and has it no more.
    let (free, available) = (in_bytes("free"), in_bytes("available"));
    assert!(free > FILLED / 2 && free < whole << 10 && available < whole << 10, "{statistics}");
    for name in ["major page faults", "minor page faults", "swapped in", "disk caches"] {
        assert!(statistics.contains(&format!("\n{name}: ")) || statistics.starts_with(name), "{statistics}");
    }
    // Nobody else has any, and says so.
    let refused = ctl(socket, &["balloon-stats", "rng0"])?;
    assert!(
        refused.code() == Some(7) && refused.log.contains("nothing of the kind"),
        "{}",
        refused.everything()
    );
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
    let before = held(&running)?;
    assert!(before > FILLED, "{before}");
    has_statistics(&socket, &running)?;
    set(&socket, "256M")?;
    within("half of the memory", || {
        held(&running).is_ok_and(|held| held < before - WANTED + SLACK).then_some(())
    })?;
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
    assert!(held(&running)? < before - WANTED + SLACK);

    set(&socket, "0")?;
    running.type_line("again")?;
    running.wait_for("filled-again")?;
    let again = held(&running)?;
    assert!(again > FILLED, "{again}");
    running.type_line("end")?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    warnings::none_of_ours(&ended)
}
