//! What guests do to their disks, seen from both sides.

use system_tests::{Disk, Machine, Result, warnings};

use crate::image_file::{Image, Shape};

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

#[test]
fn what_the_guest_writes_to_a_qcow2_image_is_in_it_and_its_tables_are_whole() -> Result<()> {
    let shape = Shape { cluster_bits: 16, refcount_order: 4, size: 64 << 20 };
    let empty = shape.empty();
    let disk = Disk::with(&empty, u64::try_from(empty.len()).expect("small"))?;
    let options = ",format=qcow2,queues=2";
    let ended = Machine::new("pattern").option("cpus", "2").disk(disk.path(), options).run()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    let digest = ended.said("filled")?;
    assert_eq!(ended.said("read")?, format!("{digest} wrong=0"));
    let image = Image { bytes: disk.content()? };
    assert_eq!(image.check(), Ok(0));
    assert_eq!(Disk::with(&image.content(&[], 0, shape.size), shape.size)?.digest(0)?, digest);
    warnings::none_of_ours(&ended)
}
