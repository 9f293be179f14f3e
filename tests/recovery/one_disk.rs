//! A guest whose only disk dies, or is replaced, again and again; it writes and compares by busybox, independently of our
//! checker.

use std::process::Command;
use std::time::Duration;

use system_tests::{Disk, Ended, Machine, Result, Running, children, program, warnings, within};

use crate::image_file::{Image, Shape, name_backing};
use crate::one_process::dies;

/// How often the program is killed.
const KILLS: usize = 20;

/// What serves the one disk, and one in a qcow2 image.
const PROGRAM: &str = "device-blk";
const PROGRAM_OF_AN_IMAGE: &str = "device-blk-qcow2";
/// That image: its clusters are small and it is never full, so that there is always something to be allocated, and the table
/// of counts has to move.
const SHAPE: Shape = Shape { cluster_bits: 9, refcount_order: 4, size: 64 << 20 };
/// Bytes of the raw disk below it: what is behind them, and was not written, is zeroes.
const BELOW: u32 = 48 << 20;
/// Clusters of the largest request, which is a block of the guest's, and of what its tables need.
const LARGEST_REQUEST: usize = 256;

/// Kills the program `KILLS` times at any moment of its work, each time a whole one.
fn kill_over_and_over(running: &Running, program: &str) -> Result<()> {
    for round in 0..KILLS {
        // Spread over the guest's rounds of work; a Weyl sequence is random enough.
        let moment = Duration::from_millis((round as u64).wrapping_mul(619) % 400);
        dies(running, program, "blk0", round + 1, moment)?;
    }
    Ok(())
}

/// The guest has written more often than its disk's process changed, and lost nothing of it.
fn is_whole(ended: &Ended, sum: &str) -> Result<()> {
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    let (written, failed) = ended.said("written-and-failed")?.split_once(' ').expect("two numbers");
    assert!(written.parse::<usize>().expect("a number") > KILLS, "{}", ended.everything());
    assert_eq!(failed, "0", "{}", ended.everything());
    assert_eq!(ended.said("different")?, "0", "{}", ended.everything());
    assert_eq!(sum, ended.said("whole")?);
    Ok(())
}

#[test]
fn a_guest_on_one_cpu_loses_nothing_to_twenty_deaths_of_its_disk() -> Result<()> {
    let disk = Disk::empty(4 << 20)?;
    let mut running = Machine::new("survive").disk(disk.path(), "").start()?;
    running.wait_for("writing")?;
    kill_over_and_over(&running, PROGRAM)?;
    running.type_line("end")?;
    let ended = running.wait()?;
    is_whole(&ended, &disk.md5()?)?;
    assert_eq!(ended.log.matches("vmm: device blk0 died: killed by SIGKILL").count(), KILLS);
    warnings::none_of_ours(&ended)
}

/// Nor anything of what is below it, which is as it was. And the image says of no cluster that it is free which has data or a table in it. Counted and not used are those of one
/// request for each death at most.
#[test]
fn a_guest_loses_nothing_to_twenty_deaths_of_its_qcow2_image() -> Result<()> {
    let mut empty = SHAPE.empty();
    name_backing(&mut empty, "base");
    let disk = Disk::with(&empty, u64::try_from(empty.len()).expect("small"))?;
    let below: Vec<u8> = (0..BELOW / 4).flat_map(u32::to_le_bytes).collect();
    let base = Disk::with(&below, BELOW.into())?;
    let options = format!(",format=qcow2,backing={},backing-format=raw", base.path().display());
    let mut running = Machine::new("survive").disk(disk.path(), &options).start()?;
    running.wait_for("writing")?;
    kill_over_and_over(&running, PROGRAM_OF_AN_IMAGE)?;
    running.type_line("end")?;
    let ended = running.wait()?;
    let image = Image { bytes: disk.content()? };
    let seen = Disk::with(&image.content(&below, 0, SHAPE.size), SHAPE.size)?;
    is_whole(&ended, &seen.md5()?)?;
    let leaked = image.check().expect("no cluster is used more often than it is counted");
    assert!(leaked <= KILLS * LARGEST_REQUEST, "{leaked} clusters are counted and not used");
    assert!(base.content()? == below);
    assert_eq!(ended.log.matches("vmm: device blk0 died: killed by SIGKILL").count(), KILLS);
    warnings::none_of_ours(&ended)
}

#[test]
fn a_guest_loses_nothing_while_its_disks_program_is_replaced_twenty_times() -> Result<()> {
    let disk = Disk::empty(4 << 20)?;
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("control");
    let path = socket.to_str().expect("text");
    let machine = Machine::new("survive").option("cpus", "2").option("control-socket", path);
    let mut running = machine.disk(disk.path(), ",queues=2").start()?;
    running.wait_for("writing")?;
    for round in 0..KILLS {
        let before = running.process(PROGRAM)?;
        let mut command = Command::new(program("vmm")?);
        command.arg("ctl").arg(&socket).args(["replace-device", "blk0"]);
        let ended = Running::start(command)?.wait()?;
        assert_eq!(ended.code(), Some(0), "round {round}: {}", ended.everything());
        // The old one was told to end.
        within("the end of the old one", || {
            children(running.pid()).into_iter().all(|process| process.pid != before).then_some(())
        })?;
        assert_ne!(running.process(PROGRAM)?, before);
    }
    running.type_line("end")?;
    let ended = running.wait()?;
    is_whole(&ended, &disk.md5()?)?;
    assert_eq!(ended.log.matches("vmm: device blk0 is replaced").count(), KILLS);
    assert!(!ended.log.contains(" died: "), "{}", ended.everything());
    assert!(!socket.exists());
    warnings::none_of_ours(&ended)
}
