//! Records what the launcher and a device of this build say to each other, as the peers that later versions are tested
//! with: `cargo xtask record-peers` writes `tests/protocol/peers/minor-N.txt` for the present minor version N.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::signal::Signal;
use protocol::{Message, ToDevice, frame, limits};
use system_tests::front_end::sealed_memory;
use system_tests::spawned::Spawned;
use system_tests::stand_ins::StandIns;
use system_tests::{Error, Result, packet, program};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [stand_in, folder] = arguments.as_slice() else {
        eprintln!("recorder STAND-IN FOLDER");
        return ExitCode::from(2);
    };
    match record(Path::new(stand_in), Path::new(folder)) {
        Ok(file) => {
            println!("{file}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("recorder: {error}");
            ExitCode::FAILURE
        }
    }
}

fn record(stand_in: &Path, folder: &Path) -> Result<String> {
    let setup = launchers_setup(stand_in, "golden")?;
    let bare = |message: &ToDevice| {
        let body = message.encode().map_err(unexpected)?;
        frame::encode(message.kind(), &body, message.fds()).map_err(unexpected)
    };
    let [query, stop, keep] = [bare(&ToDevice::Query)?, bare(&ToDevice::Stop)?, bare(&ToDevice::Keep)?];
    let disk = tempfile::NamedTempFile::new().map_err(failed("a disk image"))?;
    disk.as_file().set_len(1 << 20).map_err(failed("a disk image"))?;
    let size = u64::try_from(limits::KEEP_SIZE).unwrap_or(u64::MAX);
    let memory = sealed_memory("keep", size)?;
    let told = [(&keep[..], Some(&memory)), (&query[..], None)];
    let [keeps, ready, counters] =
        devices_answers(&setup, disk.as_file(), &told)?.try_into().map_err(too_few)?;
    // What is no disk.
    let null = File::open("/dev/null").map_err(failed("/dev/null"))?;
    let [failed_frame] = devices_answers(&setup, &null, &[])?.try_into().map_err(too_few)?;
    let minor = frame::MINOR;
    let mut text = format!(
        "# What a launcher and a device of minor version {minor} say: whole frames of their control channel.\n\
         # Written by `cargo xtask record-peers` at the last commit of that version; never changed afterwards.\n"
    );
    for (name, frame) in [
        ("setup", setup),
        ("query", query),
        ("stop", stop),
        ("keeps", keeps),
        ("keep", keep),
        ("ready", ready),
        ("counters", counters),
        ("failed", failed_frame),
    ] {
        text.push_str(&format!("{name} {}\n", packet::to_hex(&frame)));
    }
    let file = folder.join(format!("minor-{minor}.txt"));
    std::fs::write(&file, text).map_err(failed("the recording"))?;
    Ok(file.display().to_string())
}

/// The set-up of a disk with this serial, as the launcher sends it.
fn launchers_setup(stand_in: &Path, serial: &str) -> Result<Vec<u8>> {
    // The stand-in says what it gets when its disk is called so; both names have as many letters.
    let stand_ins = StandIns::of(stand_in, &["vmm-core", "device-blk"])?;
    let running = stand_ins.start("idle", 1 << 20, ",serial=record,queues=2,queue-size=64")?;
    let hex = running.wait_for_log("the set-up", |log| {
        let line = log.split_inclusive('\n').find(|line| line.ends_with('\n') && line.contains("frame "))?;
        Some(line.split_once("frame ")?.1.trim().to_owned())
    })?;
    running.wait_for_log("the machine", |log| log.contains("vmm: confined: ").then_some(()))?;
    running.signal(Signal::SIGTERM)?;
    running.wait()?;
    let renamed = hex.replace(&packet::to_hex(b"record"), &packet::to_hex(serial.as_bytes()));
    packet::from_hex(&renamed).ok_or_else(|| Error::Unexpected(format!("no frame: {hex}")))
}

/// What `device-blk` says to this set-up with this disk and then to each of `frames`, some of which have a descriptor.
fn devices_answers(setup: &[u8], disk: &File, frames: &[(&[u8], Option<&File>)]) -> Result<Vec<Vec<u8>>> {
    let device = Spawned::start(&program("device-blk")?, "device-blk")?;
    let (_ours, theirs) = UnixStream::pair().map_err(failed("a socket"))?;
    packet::send(device.socket(), setup, &[theirs.as_raw_fd(), disk.as_raw_fd()])?;
    let mut answers = Vec::new();
    let answer = || {
        let received = packet::receive(device.socket())?;
        received.map(|(frame, _)| frame).ok_or_else(|| Error::Unexpected("the device hung up".to_owned()))
    };
    answers.push(answer()?);
    for (frame, descriptor) in frames {
        let descriptors: Vec<RawFd> = descriptor.iter().map(|file| file.as_raw_fd()).collect();
        packet::send(device.socket(), frame, &descriptors)?;
        answers.push(answer()?);
    }
    Ok(answers)
}

fn too_few(answers: Vec<Vec<u8>>) -> Error {
    Error::Unexpected(format!("{} answers", answers.len()))
}

fn unexpected(error: protocol::Error) -> Error {
    Error::Unexpected(error.to_string())
}

fn failed(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::System { what: what.to_owned(), source }
}
