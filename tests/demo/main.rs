//! The demonstration: a stock kernel boots on `vmm`; while its guest runs, each process is shown with the
//! confinement that the kernel reports for it.
//!
//! `cargo xtask demo` runs this where guests run, and says where the programs and artifacts are.

use std::collections::BTreeMap;
use std::process::ExitCode;

use sandbox_policies::posture::{self, Posture};
use system_tests::{Disk, Error, Machine, Process, Result, Running, children, within};

/// What the host leaves on the disk for the guest to find.
const FROM_THE_HOST: &[u8] = b"written by the host";

fn main() -> ExitCode {
    match show() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show() -> Result<()> {
    let disk = Disk::with(FROM_THE_HOST, 64 << 20)?;
    let mut running = Machine::new("demo").option("cpus", "2").disk(disk.path(), ",serial=demo").start()?;
    println!("guest: kernel {}", running.wait_for("userspace")?);
    println!("guest: its disk is {}", running.wait_for("disk")?);
    println!("guest: read from its disk: {}", running.wait_for("read")?);
    println!("guest: wrote to its disk: {}", running.wait_for("wrote")?);
    println!("\nwhile it runs, as /proc shows each process:");
    for process in processes(&running)? {
        println!("{}", row(&process)?);
    }
    println!("{}", report(&running)?);
    running.type_line("go on")?;
    let ended = running.wait()?;
    let content = disk.content()?;
    let found = content.get(4096..).unwrap_or_default();
    let found: Vec<u8> = found.iter().copied().take_while(|byte| *byte != 0).collect();
    println!("\nhost: found on the disk: {}", String::from_utf8_lossy(&found));
    println!("vmm: the guest powered off, exit code {}", ended.code().unwrap_or(-1));
    if ended.code() != Some(0) || found != b"written by the guest" {
        return Err(Error::Unexpected(ended.everything()));
    }
    Ok(())
}

/// The machine's processes: the launcher, and the programs that it started.
fn processes(running: &Running) -> Result<Vec<Process>> {
    within("the core and the device", || {
        let launcher = Process { pid: running.pid(), name: "vmm".to_owned(), parent: 0 };
        let near = children(running.pid());
        let far: Vec<Process> = near.iter().flat_map(|process| children(process.pid)).collect();
        let programs = near.into_iter().chain(far).filter(|process| process.name != "vmm");
        let all: BTreeMap<i32, Process> = programs.map(|process| (process.pid, process)).collect();
        (all.len() >= 2).then(|| std::iter::once(launcher).chain(all.into_values()).collect())
    })
}

fn row(process: &Process) -> Result<String> {
    let posture: Posture = posture::read(process.pid).map_err(|error| {
        Error::Unexpected(format!("cannot read how {} is confined: {error}", process.name))
    })?;
    Ok(posture.to_string())
}

/// What `vmm` itself says of the layers that hold: /proc has no file on landlock.
fn report(running: &Running) -> Result<String> {
    running.wait_for_log("a report of the sandbox", |log| {
        let line = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        line.map(str::trim_end).find(|line| line.contains("landlock")).map(str::to_owned)
    })
}
