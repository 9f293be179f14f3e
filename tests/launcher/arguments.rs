//! Arguments that make no machine.

use std::process::Command;

use system_tests::{Disk, Result, program};

use crate::refusal::{USAGE, refused, says};

/// A kernel that can be opened; whether it is one is never looked at here.
const KERNEL: &str = "--kernel=/dev/null";

#[test]
fn no_kernel_named() -> Result<()> {
    says(&refused(USAGE, &["--memory=512M"])?, &["kernel"]);
    Ok(())
}

#[test]
fn memory_out_of_range() -> Result<()> {
    for memory in ["0", "1K", "100T", "99999999999999999999G", "-1", "lots"] {
        says(&refused(USAGE, &[KERNEL, &format!("--memory={memory}")])?, &["memory"]);
    }
    Ok(())
}

#[test]
fn cpus_out_of_range() -> Result<()> {
    for cpus in ["0", "33", "256", "-1", "two"] {
        says(&refused(USAGE, &[KERNEL, &format!("--cpus={cpus}")])?, &["cpus"]);
    }
    Ok(())
}

#[test]
fn an_unknown_device_names_the_nearest() -> Result<()> {
    says(&refused(USAGE, &[KERNEL, "--device=bkl,path=/disk.raw"])?, &["bkl", "blk"]);
    Ok(())
}

#[test]
fn an_unknown_device_option_names_the_nearest() -> Result<()> {
    says(&refused(USAGE, &[KERNEL, "--device=blk,path=/disk.raw,raedonly=on"])?, &["raedonly", "readonly"]);
    Ok(())
}

#[test]
fn an_unknown_option_names_the_nearest() -> Result<()> {
    says(&refused(USAGE, &[KERNEL, "--memroy=1G"])?, &["memroy", "--memory"]);
    Ok(())
}

#[test]
fn a_command_line_too_long() -> Result<()> {
    says(&refused(USAGE, &[KERNEL, &format!("--cmdline={}", "x".repeat(4096))])?, &["4096"]);
    Ok(())
}

#[test]
fn options_that_contradict_each_other() -> Result<()> {
    for (options, says_what) in [
        ("on-failure=fail,give-up=stop", "give-up="),
        ("on-failure=stop,patience=3", "patience="),
        ("patience=soon", "number of seconds"),
        ("give-up=later", "neither fail nor stop"),
        ("spare=on", "unknown option 'spare'"),
        ("patiense=3", "did you mean 'patience'"),
    ] {
        let device = format!("--device=net,socket=/run/net.sock,{options}");
        says(&refused(USAGE, &[KERNEL, &device])?, &["net0", says_what]);
    }
    says(
        &refused(USAGE, &[KERNEL, "--device=blk,path=/disk.raw,spare=on,on-failure=stop"])?,
        &["blk0", "spare=on"],
    );
    Ok(())
}

#[test]
fn a_directory_has_a_tag_of_its_own() -> Result<()> {
    let long = format!(",path=/,tag={}", "x".repeat(37));
    for (options, says_what) in [
        (",path=/", "tag=NAME"),
        (",tag=t", "path=DIRECTORY"),
        (long.as_str(), "1 to 36 bytes"),
        (",path=/,tag=t,queues=64", "1 to 63"),
        (",path=/,tag=t,ro=on", "unknown option"),
    ] {
        says(&refused(USAGE, &[KERNEL, &format!("--device=fs{options}")])?, &["fs0", says_what]);
    }
    let twice = [KERNEL, "--device=fs,path=/,tag=t", "--device=fs,path=/,tag=t"];
    says(&refused(USAGE, &twice)?, &["fs1", "fs0's already"]);
    Ok(())
}

#[test]
fn a_vsock_has_a_number_and_a_socket() -> Result<()> {
    let long = format!(",cid=3,path=/{}", "x".repeat(96));
    for (options, says_what) in [
        (",cid=3", "path=SOCKET"),
        (",path=/tmp/vm", "cid=N"),
        (",path=/tmp/vm,cid=2", "from 3 to 4294967294"),
        (long.as_str(), "a port comes behind it"),
        (",path=/tmp/vm,cid=3,operations=5", "unknown option"),
    ] {
        says(&refused(USAGE, &[KERNEL, &format!("--device=vsock{options}")])?, &["vsock0", says_what]);
    }
    let twice = [KERNEL, "--device=vsock,path=/tmp/a,cid=3", "--device=vsock,path=/tmp/b,cid=4"];
    says(&refused(USAGE, &twice)?, &["vsock1", "a guest has one"]);
    Ok(())
}

#[test]
fn memory_to_be_plugged_in_is_whole_blocks_of_a_size_that_there_can_be() -> Result<()> {
    for (options, says_what) in [
        ("", "size=SIZE is not given"),
        (",size=0", "whole blocks"),
        (",size=3M", "whole blocks"),
        (",size=385G", "whole blocks"),
        (",size=1G,block=3M", "a power of two from 2 MiB to 1 GiB"),
        (",size=1G,block=1M", "a power of two from 2 MiB to 1 GiB"),
        (",size=4G,block=2G", "a power of two from 2 MiB to 1 GiB"),
        (",size=32G,block=2M", "15872 whole blocks"),
        (",size=1G,requested=2G", "memory that is wanted"),
        (",size=1G,block=8M,requested=2M", "memory that is wanted"),
        (",size=1G,socket=/run/mem.sock", "served by device-mem"),
        (",size=1G,queues=2", "one queue"),
        (",size=1G,bandwidth=1M", "unknown option"),
        (",size=1G,requsted=2M", "did you mean 'requested'"),
    ] {
        says(&refused(USAGE, &[KERNEL, &format!("--device=mem{options}")])?, &["mem0", says_what]);
    }
    let huge = [KERNEL, "--hugepages=2M", "--device=mem,size=1G"];
    says(&refused(USAGE, &huge)?, &["mem0", "--hugepages"]);
    let seven = [&[KERNEL][..], &["--device=mem,size=1G"; 7]].concat();
    says(&refused(USAGE, &seven)?, &["mem6", "at most 6"]);
    Ok(())
}

#[test]
fn memory_to_be_plugged_in_lies_behind_persistent_memory_in_the_order_of_its_devices() -> Result<()> {
    let (text, pages) = (Disk::with(b"text", 4)?, Disk::with(b"memory", 2 << 20)?);
    let mut command = Command::new(program("vmm")?);
    command.arg(format!("--kernel={}", text.path().display())).args(["--dry-run", "--memory=512M"]);
    command.args(["--device=mem,size=3G", "--device=mem,size=2M"]);
    let ended = command.arg(format!("--device=pmem,path={}", pages.path().display())).output();
    let ended = ended.expect("vmm runs");
    let plan = String::from_utf8(ended.stdout).expect("text");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let memory = |line: &str| -> Option<String> {
        let (_, place) = line.split_once("guest address ")?;
        let (device, place) = (line.rsplit(' ').next()?, place.split([',', ' ', ':']).next()?);
        Some(format!("{device} {place}"))
    };
    let places: Vec<String> = plan.lines().filter_map(memory).filter(|it| it.contains("mem")).collect();
    assert_eq!(places, ["mem0 0x540000000", "mem1 0x600000000"], "{plan}");
    // The file's, 2 MiB at the first whole GiB behind the window.
    assert!(plan.contains("0x500000000"), "{plan}");
    Ok(())
}

#[test]
fn a_console_is_said_to_be_in_one_place() -> Result<()> {
    for (options, says_what) in [
        ("", "say where it is, once"),
        (",pty=on,path=/log", "say where it is, once"),
        (",pty=on,size=80", "80x24"),
        (",ptty=on", "did you mean 'pty'"),
    ] {
        says(&refused(USAGE, &[KERNEL, &format!("--device=console{options}")])?, &["console0", says_what]);
    }
    let both = [KERNEL, "--console=stdio", "--device=console,stdio=on"];
    says(&refused(USAGE, &both)?, &["console0", "--console=stdio"]);
    Ok(())
}

#[test]
fn a_machine_is_controlled_by_name_and_word() -> Result<()> {
    says(&refused(USAGE, &["ctl"])?, &["VM"]);
    says(&refused(USAGE, &["ctl", "vm.sock"])?, &["devices", "replace-device", "resize-disk"]);
    says(&refused(USAGE, &["ctl", "vm.sock", "replace-devise", "blk0"])?, &["replace-device"]);
    says(&refused(USAGE, &["ctl", "vm.sock", "replace-device"])?, &["ID"]);
    says(&refused(USAGE, &["ctl", "vm.sock", "replace-device", "blk0", "--porgram", "x"])?, &["--program"]);
    Ok(())
}

#[test]
fn a_plan_says_what_is_taken_from_the_processes_speculation() -> Result<()> {
    let text = Disk::with(b"text", 4)?;
    let kernel = format!("--kernel={}", text.path().display());
    let plan = |which: &[&str]| -> Result<String> {
        let arguments = [kernel.as_str(), "--dry-run"].into_iter().chain(which.iter().copied());
        let ended = Command::new(program("vmm")?).args(arguments).output().expect("vmm runs");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        Ok(String::from_utf8(ended.stdout).expect("text"))
    };
    says(&plan(&["--speculation=restricted"])?, &["from every process: speculation past stores"]);
    for as_it_is in [&["--speculation=host"][..], &[]] {
        let plan = plan(as_it_is)?;
        assert!(!plan.contains("speculation"), "{plan}");
    }
    says(&refused(USAGE, &[kernel.as_str(), "--speculation=none"])?, &["host, restricted"]);
    Ok(())
}
