//! Devices as words, one beside the other.

use super::*;
use protocol::{BlkOptions, DiskFormat};

fn parsed(words: &[&str]) -> Result<Vec<Device>, Error> {
    let words: Vec<DeviceOption> = words.iter().map(|word| word.parse().unwrap()).collect();
    devices(&words)
}

fn refused(word: &str) -> String {
    parsed(&[word]).unwrap_err().to_string()
}

#[test]
fn names_count_within_a_type_and_slots_over_all() {
    let devices = parsed(&["blk,path=a", "rng,socket=/r", "blk,path=b"]).unwrap();
    let named: Vec<(&str, u8, u16)> =
        devices.iter().map(|device| (device.name.as_str(), device.slot, device.virtio_type)).collect();
    assert_eq!(named, [("blk0", 1, 2), ("rng0", 2, 4), ("blk1", 3, 2)]);
}

#[test]
fn a_disk_has_the_options_that_it_was_given() {
    let word = "blk,path=d,readonly=on,direct=on,discard=off,lock=off,serial=root,queues=2,queue-size=128";
    let device = parsed(&[word]).unwrap().remove(0);
    let options = BlkOptions {
        readonly: true,
        direct: true,
        serial: "root".to_owned(),
        queues: 2,
        queue_size: 128,
        discard: false,
        backing: Vec::new(),
    };
    let (path, format) = (PathBuf::from("d"), DiskFormat::Raw);
    let blk = Blk { path, format, backing: Vec::new(), lock: false, options };
    assert_eq!(device.back_end, BackEnd::Blk(blk));
    assert_eq!((device.queues, device.queue_size), (2, 128));
}

#[test]
fn a_disk_is_raw_unless_something_else_is_said() {
    let format = |word: &str| match parsed(&[word]).unwrap().remove(0).back_end {
        BackEnd::Blk(blk) => blk.format,
        other => panic!("{other:?}"),
    };
    assert_eq!(format("blk,path=disk.qcow2"), DiskFormat::Raw);
    assert_eq!(format("blk,path=d,format=raw,direct=on"), DiskFormat::Raw);
    assert_eq!(format("blk,path=d,format=qcow2"), DiskFormat::Qcow2);
    assert!(refused("blk,path=d,format=vmdk").contains("neither raw nor qcow2"));
    assert!(refused("blk,path=d,format=qcow2,direct=on").contains("direct=on"));
    assert!(refused("blk,socket=/s,format=qcow2").contains("unknown option 'format'"));
    let programs = ["blk,path=d", "blk,path=d,format=qcow2"]
        .map(|word| parsed(&[word]).unwrap().remove(0).back_end.program());
    assert_eq!(programs, [Some(Program::DeviceBlk), Some(Program::DeviceBlkQcow2)]);
}

#[test]
fn an_image_has_below_it_what_was_named_and_nothing_else() {
    let blk = |word: &str| match parsed(&[word]).unwrap().remove(0).back_end {
        BackEnd::Blk(blk) => blk,
        other => panic!("{other:?}"),
    };
    assert_eq!(blk("blk,path=d,format=qcow2").layers().count(), 0);
    let three = blk("blk,path=d,format=qcow2,backing=a,backing-2=b,backing-3=c,backing-format=raw");
    let paths = ["a", "b", "c"].map(PathBuf::from);
    let formats = [DiskFormat::Qcow2, DiskFormat::Qcow2, DiskFormat::Raw];
    assert!(three.layers().eq(paths.iter().zip(formats)));
    assert_eq!((three.images(), blk("blk,path=d").images()), (3, 0));
    assert_eq!(blk("blk,path=d,format=qcow2,backing=a").options.backing, [DiskFormat::Qcow2]);
    for (words, said) in [
        ("backing=a", "is format=qcow2 missing"),
        ("format=qcow2,backing=", "names no file"),
        ("format=qcow2,backing=a,backing-3=c", "unknown option 'backing-3'"),
        ("format=qcow2,backing-2=c", "unknown option 'backing-2'"),
        ("format=qcow2,backing-format=raw", "without backing="),
        ("format=qcow2,backing=a,backing-format=vmdk", "neither raw nor qcow2"),
    ] {
        let text = refused(&format!("blk,path=d,{words}"));
        assert!(text.contains(said), "{words}: {text}");
    }
}

#[test]
fn entropy_is_the_hosts_if_nothing_else_is_said() {
    let device = parsed(&["rng"]).unwrap().remove(0);
    assert_eq!(device.back_end, BackEnd::Rng(PathBuf::from("/dev/urandom")));
    assert_eq!((device.virtio_type, device.queues), (4, 1));
    let device = parsed(&["rng,path=/dev/hwrng,queues=1"]).unwrap().remove(0);
    assert_eq!(device.back_end, BackEnd::Rng(PathBuf::from("/dev/hwrng")));
    assert!(refused("rng,queues=2").contains("one queue"));
    assert!(refused("rng,readonly=on").contains("unknown option 'readonly'"));
}

#[test]
fn a_back_end_of_others_decides_on_its_queues() {
    let device = parsed(&["fs,socket=/run/fs.sock"]).unwrap().remove(0);
    assert_eq!(device.back_end, BackEnd::Socket(PathBuf::from("/run/fs.sock")));
    assert_eq!((device.virtio_type, device.queues), (26, 0));
}

#[test]
fn what_a_death_means_is_said_or_goes_by_who_serves() {
    let meant = |word: &str| parsed(&[word]).map(|devices| devices[0].on_failure);
    assert_eq!(meant("blk,path=d").unwrap(), OnFailure::Restart);
    assert_eq!(meant("blk,path=d,on-failure=fail").unwrap(), OnFailure::Fail);
    assert_eq!(meant("blk,socket=/s").unwrap(), OnFailure::Restart);
    assert_eq!(meant("blk,socket=/s,on-failure=stop").unwrap(), OnFailure::Stop);
    assert_eq!(meant("blk,socket=/s,on-failure=fail").unwrap(), OnFailure::Fail);
    assert!(refused("blk,path=d,on-failure=panic").contains("none of restart"));
}

#[test]
fn how_long_to_wait_and_what_then_is_the_users_to_say() {
    let parsed = |word: &str| parsed(&[word]).map(|devices| (devices[0].patience, devices[0].give_up));
    assert_eq!(parsed("net,socket=/s").unwrap(), (None, GiveUp::Stop));
    let thirty = Some(Duration::from_secs(30));
    assert_eq!(parsed("net,socket=/s,patience=30,give-up=fail").unwrap(), (thirty, GiveUp::Fail));
    assert_eq!(parsed("blk,path=d,give-up=fail").unwrap(), (None, GiveUp::Fail));
    assert!(refused("net,socket=/s,patience=-1").contains("not a number of seconds"));
    assert!(refused("net,socket=/s,give-up=restart").contains("neither fail nor stop"));
    assert!(refused("net,socket=/s,on-failure=fail,patience=3").contains("on-failure=restart alone"));
    assert!(refused("net,socket=/s,on-failure=stop,give-up=fail").contains("on-failure=restart alone"));
    assert!(refused("blk,path=d,patience=3").contains("unknown option 'patience'"));
    assert!(devices(&["rng,spare=on".parse().unwrap()]).unwrap()[0].spare);
    assert!(refused("blk,path=d,spare=on,on-failure=fail").contains("on-failure=restart alone"));
    assert!(refused("blk,socket=/s,spare=on").contains("unknown option 'spare'"));
}

#[test]
fn unknown_words_are_refused_with_the_nearest() {
    assert!(refused("blck,path=d").contains("did you mean 'blk'"));
    assert!(refused("blk,path=d,readnoly=on").contains("did you mean 'readonly'"));
    assert!(refused("blk,paht=d").contains("did you mean 'path'"));
    assert!(refused("blk,socket=/s,serial=x").contains("unknown option 'serial'"));
}

#[test]
fn values_out_of_range_are_refused() {
    for word in [
        "blk",
        "blk,path=",
        "net,queues=1",
        "blk,path=d,readonly=maybe",
        "blk,path=d,queues=0",
        "blk,path=d,queues=65",
        "blk,path=d,queue-size=100",
        "blk,path=d,queue-size=2048",
        "blk,path=d,serial=123456789012345678901",
        "blk,path=d,serial=é",
    ] {
        assert!(parsed(&[word]).is_err(), "{word}");
    }
    let words = vec!["rng,socket=/r"; 32];
    assert!(matches!(parsed(&words), Err(Error::Devices { wanted: 32, most: 31 })));
    assert_eq!(parsed(&words[1..]).unwrap().len(), 31);
}
