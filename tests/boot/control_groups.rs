//! Control groups: one for each program in a directory that is delegated to us, and none when the machine has ended.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use system_tests::{Disk, Error, Machine, Process, Result, Running, children};

const HIERARCHY: &str = "/sys/fs/cgroup";

/// A group that we made for machines, as somebody who delegates one would. Only root can, as in our own rig.
struct Delegated(PathBuf);

impl Delegated {
    fn new(name: &str) -> Option<Self> {
        let path = Path::new(HIERARCHY).join(name);
        let made = fs::write(Path::new(HIERARCHY).join("cgroup.subtree_control"), "+memory +pids +cpu +io")
            .and_then(|()| fs::create_dir(&path));
        assert!(made.is_ok() || std::env::var("VMM_RIG").as_deref() != Ok("nested"), "{made:?}");
        made.ok().map(|()| Self(path))
    }

    /// A machine whose guest waits on its console, and the groups of its programs.
    fn start(&self, disk: &Path, options: &str) -> Result<(Running, Vec<PathBuf>)> {
        let machine = Machine::new("console").disk(disk, options);
        let running = machine.option("cgroup", &self.0.display().to_string()).start()?;
        running.wait_for("listening")?;
        running.wait_for_log("vmm's report", |log| {
            log.lines().find(|line| line.contains("confined: ") && line.ends_with("), cgroup")).map(drop)
        })?;
        let programs = programs(&running);
        let groups: Vec<PathBuf> =
            programs.iter().map(|program| group_of(program.pid)).collect::<Result<_>>()?;
        assert!(groups.len() == 2 && groups.iter().all(|group| group.starts_with(&self.0)), "{groups:?}");
        Ok((running, groups))
    }

    /// The groups in it, each with who is in there.
    fn groups(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path());
        let procs = |group: PathBuf| {
            Some(format!("{}: {:?}", group.display(), fs::read_to_string(group.join("cgroup.procs")).ok()?))
        };
        entries.filter(|path| path.is_dir()).filter_map(procs).collect()
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        // What keeps it from going is what the test has failed for.
        let _ = fs::remove_dir(&self.0);
    }
}

/// The programs that were spawned. The spawner is a copy of the launcher, and in the launcher's group.
fn programs(running: &Running) -> Vec<Process> {
    let spawned = |process: &Process| process.name == "vmm-core" || process.name.starts_with("device-");
    children(running.pid()).into_iter().filter(spawned).collect()
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| Error::Unexpected(format!("{}: {error}", path.display())))
}

fn group_of(pid: i32) -> Result<PathBuf> {
    let groups = read(Path::new(&format!("/proc/{pid}/cgroup")))?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    group.map(|group| Path::new(HIERARCHY).join(group)).ok_or(Error::Unexpected(groups.clone()))
}

#[test]
fn each_program_has_its_own_and_its_limits() -> Result<()> {
    let Some(delegated) = Delegated::new("machines") else { return Ok(()) };
    let disk = Disk::empty(1 << 20)?;
    let (mut running, groups) = delegated.start(disk.path(), "")?;
    for (group, program) in groups.iter().zip(programs(&running)) {
        // With the core there are threads of the kernel that serve its VM.
        let processes = read(&group.join("cgroup.procs"))?;
        assert!(processes.lines().any(|line| line == program.pid.to_string()), "{group:?}: {processes}");
        let number =
            |file: &str| Ok::<u64, Error>(read(&group.join(file))?.trim().parse().unwrap_or(u64::MAX));
        assert!(number("pids.max")? < 64, "{group:?}");
        // The guest has 256 MiB.
        assert!((256 << 20..512 << 20).contains(&number("memory.max")?), "{group:?}");
        // One vCPU and one front end, or one queue, and the first thread of each.
        let processors = if program.name == "vmm-core" { "300000 100000" } else { "200000 100000" };
        assert_eq!(read(&group.join("cpu.max"))?.trim_end(), processors, "{group:?}");
        // It lies in memory.
        assert_eq!(read(&group.join("io.max"))?, "", "{group:?}");
    }
    running.type_line("that is all")?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert_eq!(delegated.groups(), Vec::<String>::new());
    Ok(())
}

#[test]
fn the_kernel_keeps_the_program_of_a_limited_disk_to_its_bandwidth_too() -> Result<()> {
    let Some(delegated) = Delegated::new("machines-with-a-limited-disk") else { return Ok(()) };
    // A block device that is memory, of the nested rig's.
    let disk = Path::new("/dev/ram0");
    if !disk.exists() {
        assert!(std::env::var("VMM_RIG").as_deref() != Ok("nested"), "no {disk:?}");
        return Ok(());
    }
    let (mut running, groups) = delegated.start(disk, ",bandwidth=10M")?;
    for (group, program) in groups.iter().zip(programs(&running)) {
        // Twice a second's and the burst of a tenth.
        let limit = "1:0 rbps=23068672 wbps=23068672 riops=max wiops=max\n";
        let limit = if program.name == "device-blk" { limit } else { "" };
        assert_eq!(read(&group.join("io.max"))?, limit, "{group:?}");
    }
    running.type_line("that is all")?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    Ok(())
}

#[test]
fn those_that_a_killed_launcher_left_go_with_the_next_machine() -> Result<()> {
    let Some(delegated) = Delegated::new("machines-of-the-killed") else { return Ok(()) };
    let disk = Disk::empty(1 << 20)?;
    let (running, _) = delegated.start(disk.path(), "")?;
    running.signal(Signal::SIGKILL)?;
    running.wait()?;
    let (mut running, groups) = delegated.start(disk.path(), "")?;
    assert_eq!(delegated.groups().len(), groups.len(), "{:?}", delegated.groups());
    running.type_line("that is all")?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert_eq!(delegated.groups(), Vec::<String>::new());
    Ok(())
}
