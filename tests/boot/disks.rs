//! What guests do to their disks, seen from both sides.

use system_tests::{Disk, Machine, Result, warnings};

#[test]
fn two_disks_one_of_them_read_only() -> Result<()> {
    let written = Disk::empty(4 << 20)?;
    let kept = Disk::with(b"sixteen letters.", 1 << 20)?;
    let before = kept.content()?;
    let ended = Machine::new("disks")
        .disk(written.path(), ",serial=first")
        .disk(kept.path(), ",serial=second,readonly=on")
        .run()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    // Size in sectors, read-only flag, serial.
    assert_eq!(ended.said("vda")?, "8192 0 first");
    assert_eq!(ended.said("vdb")?, "2048 1 second");
    assert_eq!(ended.said("vdb-begins")?, "sixteen letters.");
    assert_eq!(ended.said("vda-written")?, "0");
    ended.said("vdb-refused")?;
    assert!(ended.said("vdb-written").is_err() && ended.said("vdb-forced").is_err());
    assert_eq!(kept.content()?, before);
    assert!(written.content()?[512..].starts_with(b"written by the guest\0"));
    warnings::none_of_ours(&ended)
}

#[test]
fn a_quarter_gibibyte_written_by_the_guest_is_what_the_host_finds() -> Result<()> {
    let disk = Disk::empty(256 << 20)?;
    let ended = Machine::new("pattern").option("cpus", "2").disk(disk.path(), ",queues=2").run()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    let digest = ended.said("filled")?;
    assert_eq!(ended.said("read")?, format!("{digest} wrong=0"));
    assert_eq!(disk.digest(0)?, digest);
    warnings::none_of_ours(&ended)
}
