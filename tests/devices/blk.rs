//! Disks.

use system_tests::{Disk, Result};

use crate::qemu::Qemu;

const DISK: [&str; 2] = ["-device", "vhost-user-blk-pci,chardev="];

fn path(disk: &Disk) -> String {
    format!("--path={}", disk.path().display())
}

#[test]
fn a_guest_of_qemu_has_two_disks_one_of_them_read_only() -> Result<()> {
    Qemu::each(has_two_disks)
}

fn has_two_disks(qemu: Qemu) -> Result<()> {
    let written = Disk::empty(4 << 20)?;
    let kept = Disk::with(b"sixteen letters.", 1 << 20)?;
    let before = kept.content()?;
    let qemu = qemu.device("blk", &[&path(&written), "--serial=first"], &DISK)?;
    let qemu = qemu.device("blk", &[&path(&kept), "--serial=second", "--read-only"], &DISK)?;
    let ended = qemu.start("disks")?.wait()?;
    assert_eq!(ended.said("vda")?, "8192 0 first");
    assert_eq!(ended.said("vdb")?, "2048 1 second");
    assert_eq!(ended.said("vdb-begins")?, "sixteen letters.");
    assert_eq!(ended.said("vda-written")?, "0");
    ended.said("vdb-refused")?;
    assert!(ended.said("vdb-written").is_err() && ended.said("vdb-forced").is_err());
    assert_eq!(kept.content()?, before);
    assert!(written.content()?[512..].starts_with(b"written by the guest\0"));
    Ok(())
}

#[test]
fn what_a_guest_of_qemu_writes_is_what_the_host_finds() -> Result<()> {
    Qemu::each(writes)
}

fn writes(qemu: Qemu) -> Result<()> {
    let disk = Disk::empty(64 << 20)?;
    let options = ["-device", "vhost-user-blk-pci,num-queues=2,chardev="];
    let ended = qemu.device("blk", &[&path(&disk), "--queues=2"], &options)?.start("pattern")?.wait()?;
    let digest = ended.said("filled")?;
    assert_eq!(ended.said("read")?, format!("{digest} wrong=0"));
    assert_eq!(disk.digest(0)?, digest);
    Ok(())
}
