//! A launcher of minor version 1 to 4 and today's device program.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::limits;
use sandbox_policies::spawn::Ended;
use system_tests::front_end::{DATA, FrontEnd, Kind, LEAST_MEMORY, sealed_memory};
use system_tests::old_peers::{FromDevice, MINORS, frame, from_device};
use system_tests::spawned::Spawned;
use system_tests::{Disk, Result, packet, program};

/// Sector that is written and read.
const SECTOR: u64 = 64;
/// A limit on hangs, in milliseconds.
const PATIENCE: u16 = 60_000;

fn hear(device: &Spawned) -> FromDevice {
    let (packet, fds) = packet::receive(device.socket()).expect("a socket").expect("it has not hung up");
    from_device(&packet, fds.len()).expect("an old launcher understands it")
}

fn tell(device: &Spawned, minor: u8, name: &str) -> Result<()> {
    packet::send(device.socket(), &frame(minor, name).expect("it was recorded"), &[])
}

/// Makes a request and waits for its status.
fn ask(front_end: &mut FrontEnd, kind: Kind) -> Result<u8> {
    front_end.submit(0, kind, SECTOR)?;
    loop {
        if let Some((slot, status)) = front_end.completed()? {
            assert_eq!(slot, 0);
            return Ok(status);
        }
        let mut call = [PollFd::new(front_end.call().as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut call, PollTimeout::from(PATIENCE)), Ok(1), "no call");
    }
}

#[test]
fn a_launcher_of_an_older_minor_version_hands_a_disk_to_todays_device() -> Result<()> {
    MINORS.into_iter().try_for_each(hands_over)
}

fn hands_over(minor: u8) -> Result<()> {
    let disk = Disk::empty(1 << 20)?;
    let image = std::fs::File::options().read(true).write(true).open(disk.path()).expect("our image");
    let device = Spawned::start(&program("device-blk")?, "device-blk")?;
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let setup = frame(minor, "setup").expect("it was recorded");
    packet::send(device.socket(), &setup, &[theirs.as_raw_fd(), image.as_raw_fd()])?;
    drop(theirs);
    if let Some(keep) = frame(minor, "keep") {
        assert_eq!(hear(&device), FromDevice::Keeps);
        let memory = sealed_memory("keep", limits::KEEP_SIZE.try_into().expect("small"))?;
        packet::send(device.socket(), &keep, &[memory.as_raw_fd()])?;
    }
    assert!(matches!(hear(&device), FromDevice::Ready(..)));

    let mut front_end = FrontEnd::new(sealed_memory("guest", LEAST_MEMORY)?, LEAST_MEMORY)?;
    front_end.attach(ours.into())?;
    let data: [u8; DATA] = std::array::from_fn(|at| u8::try_from(at % 251).expect("small"));
    front_end.fill(0, &data)?;
    assert_eq!(ask(&mut front_end, Kind::Write)?, 0);
    let mut written = [0; DATA];
    image.read_exact_at(&mut written, SECTOR * 512).expect("our image");
    assert!(written == data);
    front_end.fill(0, &[0; DATA])?;
    assert_eq!(ask(&mut front_end, Kind::Read)?, 0);
    assert!(front_end.data(0)? == data);

    tell(&device, minor, "query")?;
    assert!(matches!(hear(&device), FromDevice::Counters(_)));
    tell(&device, minor, "stop")?;
    // It says nothing more that an old launcher would have to understand.
    assert!(packet::receive(device.socket())?.is_none());
    let (ended, log) = device.wait()?;
    assert_eq!(ended, Ended::Exited(0), "{log}");
    Ok(())
}

#[test]
fn a_launcher_of_an_older_minor_version_hears_why_todays_device_fails() -> Result<()> {
    MINORS.into_iter().try_for_each(hears)
}

fn hears(minor: u8) -> Result<()> {
    let device = Spawned::start(&program("device-blk")?, "device-blk")?;
    let (_ours, theirs) = UnixStream::pair().expect("a pair");
    let null = std::fs::File::open("/dev/null").expect("it is there");
    let setup = frame(minor, "setup").expect("it was recorded");
    packet::send(device.socket(), &setup, &[theirs.as_raw_fd(), null.as_raw_fd()])?;
    assert!(matches!(hear(&device), FromDevice::Failed(text) if !text.is_empty()));
    assert!(packet::receive(device.socket())?.is_none());
    let (ended, log) = device.wait()?;
    assert!(matches!(ended, Ended::Exited(code) if code != 0), "{log}");
    Ok(())
}
