//! A disk driven through each kind of request while core and device are under their serving filters, and
//! what the host then finds in its image.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use system_tests::{Disk, Result};

use crate::driver::{
    BUS, COPIED, COUNT, DISCARDED, DONE, IDENTIFIED, PATTERN, SECTORS, UNMAPPED, WRITTEN, ZEROED,
};
use crate::guest::Guest;
use crate::house::{House, Who};
use crate::image_file::{Image, Shape, name_backing};
use crate::leftovers;

/// As the launcher's table of exit codes has it.
const DEVICE_FAILED: i32 = 7;
/// What the image holds before.
const BEFORE: u8 = 0x5A;

/// The bytes of the image from `sector` on, as many as each request covers.
fn sectors(image: &[u8], sector: u64) -> &[u8] {
    let start = usize::try_from(sector * 512).expect("small");
    &image[start..start + usize::try_from(SECTORS * 512).expect("small")]
}

fn serve_all(house: &House, options: &str) -> Result<()> {
    fs::write(house.disk(), vec![BEFORE; 1 << 20]).expect("an image");
    drive(house, options)?;
    holds_what_was_written(&fs::read(house.disk()).expect("an image"), BEFORE);
    house.check_left()
}

fn drive(house: &House, options: &str) -> Result<()> {
    let options = format!(",serial=tiny{options}");
    let ended = house.start_with(Guest::DrivesAndPowersOff, None, &options)?.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert_eq!(ended.said(DONE)?, "0".repeat(COUNT), "{}", ended.everything());
    Ok(())
}

/// And everywhere else what there was `before`.
fn holds_what_was_written(image: &[u8], before: u8) {
    for place in [WRITTEN, COPIED] {
        assert!(sectors(image, place).iter().all(|byte| *byte == PATTERN), "sector {place}");
    }
    for place in [ZEROED, UNMAPPED] {
        assert!(sectors(image, place).iter().all(|byte| *byte == 0), "sector {place}");
    }
    // Discarded sectors hold what the host likes, the others what they held.
    assert_eq!(&sectors(image, IDENTIFIED)[..20], b"tiny\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    for place in [0, DISCARDED - u64::from(SECTORS), UNMAPPED + u64::from(SECTORS)] {
        assert!(sectors(image, place).iter().all(|byte| *byte == before), "sector {place}");
    }
}

#[test]
fn each_kind_of_request_is_served_under_the_filters() -> Result<()> {
    serve_all(&House::new(Who::Caller)?, "")
}

#[test]
fn an_ordinary_users_disk_is_served_under_the_filters() -> Result<()> {
    serve_all(&House::new(Who::OrdinaryUser)?, "")
}

#[test]
fn direct_io_is_served_under_the_filters() -> Result<()> {
    // Beside what was built: the folder for temporary files may be in memory, where old kernels have no direct
    // I/O.
    let house = House::within(Who::Caller, Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    serve_all(&house, ",direct=on")
}

/// The bit is kept, reads as it was written, and stops nothing: what is under way ends, and what comes after it is served.
#[test]
fn a_disk_is_served_when_its_guest_switches_bus_mastering_off_in_mid_request() -> Result<()> {
    let house = House::new(Who::Caller)?;
    fs::write(house.disk(), vec![BEFORE; 1 << 20]).expect("an image");
    let ended = house.start_with(Guest::DrivesWithoutBusMastering, None, ",serial=tiny")?.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert_eq!((ended.said(DONE)?, ended.said(BUS)?), (&*"0".repeat(COUNT), "2"), "{}", ended.everything());
    holds_what_was_written(&fs::read(house.disk()).expect("an image"), BEFORE);
    house.check_left()
}

/// Of the same size, with nothing in it.
fn qcow2() -> Vec<u8> {
    Shape { cluster_bits: 16, refcount_order: 4, size: 1 << 20 }.empty()
}

#[test]
fn a_qcow2_image_is_served_under_the_filters() -> Result<()> {
    let house = House::new(Who::OrdinaryUser)?;
    fs::write(house.disk(), qcow2()).expect("an image");
    drive(&house, ",format=qcow2")?;
    let image = Image { bytes: fs::read(house.disk()).expect("an image") };
    assert_eq!(image.check(), Ok(0));
    holds_what_was_written(&image.content(&[], 0, 1 << 20), 0);
    house.check_left()
}

/// The same that says to be backed by `name`.
fn backed(name: &str) -> Vec<u8> {
    let mut bytes = qcow2();
    name_backing(&mut bytes, name);
    bytes
}

/// Which may be read by whoever runs the machine.
fn base() -> Result<(Disk, String)> {
    let base = Disk::with(&vec![BEFORE; 1 << 20], 1 << 20)?;
    let options = format!(",format=qcow2,backing={},backing-format=raw", base.path().display());
    Ok((base, options))
}

#[test]
fn a_qcow2_image_is_served_over_the_file_that_its_user_named_and_not_that_which_it_names() -> Result<()> {
    let house = House::new(Who::OrdinaryUser)?;
    fs::write(house.disk(), backed("/etc/passwd")).expect("an image");
    let (base, options) = base()?;
    drive(&house, &options)?;
    let image = Image { bytes: fs::read(house.disk()).expect("an image") };
    assert_eq!(image.check(), Ok(0));
    holds_what_was_written(&image.content(&base.content()?, 0, 1 << 20), BEFORE);
    assert!(base.content()? == vec![BEFORE; 1 << 20]);
    leftovers::no_lock(base.path());
    house.check_left()
}

/// And all that a user can ask for is what it is with a raw one, but for another size.
#[test]
fn a_qcow2_image_outlives_the_programs_that_serve_it_one_after_the_other() -> Result<()> {
    let house = House::new(Who::OrdinaryUser)?;
    fs::write(house.disk(), backed("base")).expect("an image");
    let (base, options) = base()?;
    let options = format!("{options},spare=on,operations=100000");
    let running = house.start_controlled(Guest::KeepsDriving, &options, &[])?;
    running.wait_for(DONE)?;
    let spare = |count: usize| {
        let line = "vmm: device blk0 has a spare";
        running.wait_for_log("a spare", |log| (log.matches(line).count() == count).then_some(()))
    };
    let vmm = |words: &[&str]| {
        let output = house.vmm().arg(words[0]).arg(house.control()).args(&words[1..]).output();
        let output = output.expect("vmm runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).expect("text"))
    };
    for round in 1..=3 {
        spare(2 * round - 1)?;
        let (code, text) = vmm(&["inspect"]);
        assert!(code == Some(0) && text.contains("device-blk-qcow2"), "{text}");
        let (code, text) = vmm(&["ctl", "replace-device", "blk0"]);
        assert_eq!(code, Some(0), "{text}");
        spare(2 * round)?;
        let (code, text) = vmm(&["ctl", "resize-disk", "blk0", "8M"]);
        assert!(code == Some(DEVICE_FAILED) && text.contains("qemu-img resize"), "{code:?} {text}");
        let (_, text) = vmm(&["inspect", "--json"]);
        let all: Value = serde_json::from_str(&text).expect("JSON");
        let serves = |it: &&Value| it["program"] == "device-blk-qcow2" && it["state"] == "serving";
        let process = all["processes"].as_array().expect("processes").iter().find(serves);
        let pid = process.expect("one that serves")["pid"].as_i64().expect("a number");
        let pid = i32::try_from(pid).expect("a process id");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it lives");
    }
    spare(7)?;
    running.signal(Signal::SIGQUIT)?;
    let ended = running.wait()?;
    assert_eq!(ended.log.matches("vmm: device blk0 serves again").count(), 3, "{}", ended.everything());
    let image = Image { bytes: fs::read(house.disk()).expect("an image") };
    image.check().expect("no cluster is used more often than it is counted");
    let seen = image.content(&base.content()?, 0, 1 << 20);
    assert!(sectors(&seen, WRITTEN).iter().all(|byte| *byte == PATTERN));
    assert!(sectors(&seen, 0).iter().all(|byte| *byte == BEFORE));
    house.check_left()
}

/// What is on a raw disk its guest writes.
#[test]
fn a_qcow2_image_is_a_raw_disk_where_nothing_is_said() -> Result<()> {
    let house = House::new(Who::Caller)?;
    fs::write(house.disk(), [qcow2(), vec![0; 1 << 20]].concat()).expect("an image");
    drive(&house, "")?;
    let image = fs::read(house.disk()).expect("an image");
    assert!(sectors(&image, WRITTEN).iter().all(|byte| *byte == PATTERN));
    assert_eq!(image[..8], qcow2()[..8]);
    house.check_left()
}

#[test]
fn a_qcow2_image_that_is_not_served_ends_the_machine_and_is_as_it_was() -> Result<()> {
    let with = |at: usize, value: u8| {
        let mut bytes = qcow2();
        bytes[at] = value;
        bytes
    };
    let house = House::new(Who::OrdinaryUser)?;
    for (bytes, says) in [
        (vec![0; 1 << 20], "is none"),
        (with(7, 9), "another version"),
        (backed("/etc/passwd"), "which it calls '/etc/passwd'"),
        (with(79, 1), "marked dirty"),
    ] {
        fs::write(house.disk(), &bytes).expect("an image");
        let ended = house.start_with(Guest::PowersOff, None, ",format=qcow2")?.wait()?;
        assert_eq!(
            (ended.code(), ended.console.as_str()),
            (Some(DEVICE_FAILED), ""),
            "{}",
            ended.everything()
        );
        // The program's own line in the log, and the reason for the end.
        let lines: Vec<&str> = ended.log.lines().map(|line| line.trim_start_matches("vmm: ")).collect();
        assert!(matches!(lines[..], [own, reason] if own == reason), "{}", ended.log);
        assert!(lines[0].starts_with("blk0: the qcow2 image ") && lines[0].contains(says), "{}", ended.log);
        assert!(fs::read(house.disk()).expect("an image") == bytes);
        house.check_left()?;
    }
    Ok(())
}
