//! A guest whose disk becomes larger while it runs, and stays so when the disk's program dies.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::control::{ctl, told};
use system_tests::{Disk, Machine, Result, warnings};

const MEBIBYTE: u64 = 1 << 20;

fn resize(socket: &Path, words: &[&str]) -> Result<()> {
    told(socket, &[&["resize-disk", "blk0"], words].concat()).map(drop)
}

#[test]
fn a_guest_sees_its_disk_grow_and_uses_what_is_new_also_after_a_death() -> Result<()> {
    let disk = Disk::empty(4 * MEBIBYTE)?;
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("control");
    let mut running = Machine::new("resize")
        .disk(disk.path(), "")
        .option("device", "rng")
        .option("control-socket", socket.to_str().expect("text"))
        .start()?;
    assert_eq!(running.wait_for("size")?, "8192");

    // Once by the host, of which nobody hears until it is said, and once by vmm.
    let file = std::fs::File::options().write(true).open(disk.path()).expect("the disk");
    file.set_len(6 * MEBIBYTE).expect("a larger disk");
    running.type_line("look")?;
    assert_eq!(running.wait_for("unasked")?, "8192");
    resize(&socket, &[])?;
    assert_eq!(running.wait_for("larger")?, "12288 0");
    resize(&socket, &["9M"])?;
    assert_eq!(running.wait_for("largest")?, "18432 0");

    let died = running.process("device-blk")?;
    kill(Pid::from_raw(died), Signal::SIGKILL).expect("it lives");
    running.wait_for_log("that it serves again", |log| log.contains("blk0 serves again").then_some(()))?;
    running.type_line("again")?;
    assert_eq!(running.wait_for("after-a-death")?, "18432 0");

    for (words, why) in [
        (&["resize-disk", "blk0"][..], "make it larger first"),
        (&["resize-disk", "blk0", "1M"], "not made smaller under a guest"),
        (&["resize-disk", "rng0"], "nothing of the kind"),
        (&["resize-disk", "blk1"], "did you mean 'blk0'"),
    ] {
        let refused = ctl(&socket, words)?;
        assert!(refused.code() == Some(7) && refused.log.contains(why), "{}", refused.everything());
    }
    running.type_line("end")?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    let content = disk.content()?;
    assert_eq!(content.len() as u64, 9 * MEBIBYTE);
    for (at, mark) in [(5, "larger"), (8, "largest"), (7, "after-a-death")] {
        let from = usize::try_from(at * MEBIBYTE).expect("small");
        assert!(content[from..].starts_with(mark.as_bytes()), "{mark} at {at} MiB");
    }
    warnings::none_of_ours(&ended)
}
