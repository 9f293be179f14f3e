//! Disks.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use system_tests::{Disk, Result, within};

use crate::qemu::Qemu;
use crate::qemu_img::{clean, clean_but_for_leaks, convert, create};

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

#[test]
fn what_a_guest_of_qemu_writes_to_a_qcow2_image_is_what_qemu_img_finds_there() -> Result<()> {
    let size = 64 << 20;
    let disk = Disk::empty(0)?;
    // Small clusters have many tables, and preallocated ones all tables from the start.
    for options in ["cluster_size=64k", "cluster_size=4k,refcount_bits=1", "preallocation=metadata"] {
        create(disk.path(), options, size)?;
        let device = ["-device", "vhost-user-blk-pci,num-queues=2,chardev="];
        let qemu = Qemu::new().device("blk-qcow2", &[&path(&disk), "--queues=2"], &device)?;
        let ended = qemu.start("pattern")?.wait()?;
        let digest = ended.said("filled")?;
        assert_eq!(ended.said("read")?, format!("{digest} wrong=0"), "{options}");
        clean(disk.path())?;
        let raw = Disk::empty(size)?;
        convert(disk.path(), "qcow2", raw.path(), &["-O", "raw"])?;
        assert_eq!(raw.digest(0)?, digest, "{options}");
    }
    Ok(())
}

#[test]
fn a_guest_of_qemu_reads_a_compressed_qcow2_image_and_writes_over_it() -> Result<()> {
    let raw = Disk::with(&b"sixteen letters.".repeat(1 << 10), 4 << 20)?;
    let (written, kept) = (Disk::empty(0)?, Disk::empty(0)?);
    for image in [&written, &kept] {
        convert(raw.path(), "raw", image.path(), &["-c", "-O", "qcow2"])?;
    }
    let before = kept.content()?;
    let qemu = Qemu::new().device("blk-qcow2", &[&path(&written), "--serial=first"], &DISK)?;
    let qemu = qemu.device("blk-qcow2", &[&path(&kept), "--serial=second", "--read-only"], &DISK)?;
    let ended = qemu.start("disks")?.wait()?;
    assert_eq!(ended.said("vda")?, "8192 0 first");
    assert_eq!(ended.said("vdb")?, "8192 1 second");
    assert_eq!(ended.said("vdb-begins")?, "sixteen letters.");
    assert_eq!(ended.said("vda-written")?, "0");
    ended.said("vdb-refused")?;
    assert_eq!(kept.content()?, before);
    clean(written.path())?;
    let found = Disk::empty(0)?;
    convert(written.path(), "qcow2", found.path(), &["-O", "raw"])?;
    let (found, mut expected) = (found.content()?, raw.content()?);
    assert!(found[512..].starts_with(b"written by the guest\0"));
    expected[512..1024].copy_from_slice(&found[512..1024]);
    assert!(found == expected);
    Ok(())
}

/// It has another below it, which qemu-img finds by the name in it.
#[test]
fn a_qcow2_image_whose_program_is_killed_again_and_again_is_whole_for_qemu_img() -> Result<()> {
    let (size, deaths) = (64 << 20, 8);
    let (disk, base) = (Disk::empty(0)?, Disk::empty(0)?);
    let raw = Disk::with(&b"sixteen letters.".repeat(1 << 21), 48 << 20)?;
    convert(raw.path(), "raw", base.path(), &["-c", "-O", "qcow2"])?;
    let before = base.content()?;
    let below = base.path().display();
    create(disk.path(), &format!("cluster_size=512,backing_file={below},backing_fmt=qcow2"), size)?;
    let arguments = [path(&disk), format!("--backing={below}")];
    let arguments = [arguments[0].as_str(), &arguments[1]];
    let mut guest = Qemu::new().device("blk-qcow2", &arguments, &DISK)?.start("survive")?;
    guest.running.wait_for("writing")?;
    for death in 0..deaths {
        guest.kill_first()?;
        // It serves the guest, which waits for each write before it makes the next; then any moment of that work.
        let (before, now) = (written(disk.path()), || written(disk.path()));
        within("a write of the guest's", || (now() != before).then_some(()))?;
        std::thread::sleep(Duration::from_millis(617 * death % 400));
    }
    guest.running.type_line("end")?;
    let ended = guest.wait()?;
    let (_, failed) = ended.said("written-and-failed")?.split_once(' ').expect("two numbers");
    assert_eq!((failed, ended.said("different")?), ("0", "0"), "{}", ended.everything());
    clean_but_for_leaks(disk.path())?;
    let raw = Disk::empty(size)?;
    convert(disk.path(), "qcow2", raw.path(), &["-O", "raw"])?;
    assert_eq!(raw.md5()?, ended.said("whole")?);
    assert!(base.content()? == before);
    Ok(())
}

/// When the file was written to.
fn written(path: &Path) -> SystemTime {
    let written = fs::metadata(path).and_then(|metadata| metadata.modified());
    written.expect("a file system that knows")
}
