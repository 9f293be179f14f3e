//! A guest that has more memory while it runs, uses it, and gives it back, also when the program of that dies.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::control::{ctl, held, told};
use system_tests::{Machine, Result, warnings, within};

use crate::balloon::{MEBIBYTE, SLACK};

#[test]
fn a_guest_grows_uses_what_it_has_got_and_shrinks() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("control");
    let mut running = Machine::new("memory")
        .option("memory", "192M")
        .option("control-socket", socket.to_str().expect("text"))
        .option("device", "mem,size=512M")
        .command_line("memhp_default_state=online_movable")
        .start()?;
    running.wait_for("whole")?;
    let holds = |amount: &str| {
        within(&format!("{amount} plugged"), || {
            let devices = told(&socket, &["devices"]).ok()?;
            devices.contains(&format!("holds {amount}")).then_some(())
        })
    };
    let refused = ctl(&socket, &["mem", "mem0", "513M"])?;
    assert!(refused.code() == Some(7) && refused.log.contains("whole blocks"), "{}", refused.everything());
    told(&socket, &["mem", "mem0", "256M"])?;
    holds("256M of 256M")?;
    running.type_line("grown")?;
    running.wait_for("grown")?;
    running.wait_for("filled")?;
    let full = held(&running)?;
    assert!(full > 220 * MEBIBYTE, "{full}");

    // Another process knows what is plugged, and what is in it is what was written.
    let died = running.process("device-mem")?;
    kill(Pid::from_raw(died), Signal::SIGKILL).expect("it lives");
    running.wait_for_log("that it serves again", |log| log.contains("mem0 serves again").then_some(()))?;
    holds("256M of 256M")?;
    running.type_line("free")?;
    assert_eq!(running.wait_for("sums")?, "1", "{}", running.console());
    running.wait_for("freed")?;
    told(&socket, &["mem", "mem0", "0"])?;
    holds("0 bytes of 0 bytes")?;
    running.wait_for("shrunk")?;
    within("less memory of the host's", || {
        held(&running).is_ok_and(|held| held < 192 * MEBIBYTE + SLACK).then_some(())
    })?;
    running.type_line("end")?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    warnings::none_of_ours(&ended)
}
