//! Moments in a machine's life at which something may happen to one of its programs: steps that can be seen
//! from outside, and a short random while after them.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::{Error, Result, Running, children};

use crate::guest::UP;

/// One of the three programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    Launcher,
    Core,
    Device,
}

/// A step of the start, as seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The process is there, perhaps as a copy of its parent still.
    Appeared,
    /// It has become its program.
    Executed,
    /// `vmm` has said how all are confined.
    Confined,
    /// The guest has said that it is up.
    Up,
}

impl Step {
    pub const ALL: [Self; 4] = [Self::Appeared, Self::Executed, Self::Confined, Self::Up];
}

impl Victim {
    pub const ALL: [Self; 3] = [Self::Launcher, Self::Core, Self::Device];

    fn name(self) -> &'static str {
        match self {
            Self::Launcher => "vmm",
            Self::Core => "vmm-core",
            Self::Device => "device-blk",
        }
    }

    /// Its process in this machine at the step, awaited.
    pub fn at(self, step: Step, running: &Running) -> Result<i32> {
        match step {
            Step::Appeared => self.awaited(running, true),
            Step::Executed => self.awaited(running, false),
            Step::Confined => {
                running.wait_for_log("the line on confinement", |log| confinement(log).map(drop))?;
                self.awaited(running, false)
            }
            Step::Up => {
                running.wait_for(UP)?;
                self.awaited(running, false)
            }
        }
    }

    /// Sends it a signal; it may have ended in this very moment.
    pub fn signal(self, pid: i32, signal: Signal) {
        let _ = kill(Pid::from_raw(pid), signal);
    }

    fn awaited(self, running: &Running, before_exec: bool) -> Result<i32> {
        loop {
            if let Some(pid) = self.look(running, before_exec) {
                return Ok(pid);
            }
            let own = i32::try_from(std::process::id()).expect("a process id");
            if !children(own).iter().any(|child| child.pid == running.pid()) {
                return Err(Error::Unexpected(format!("vmm ended before there was a {}", self.name())));
            }
            std::thread::yield_now();
        }
    }

    fn look(self, running: &Running, before_exec: bool) -> Option<i32> {
        if self == Self::Launcher {
            let executed = before_exec || program_of(running.pid())? == "vmm";
            return executed.then_some(running.pid());
        }
        let children: Vec<(i32, String)> = children(running.pid())
            .iter()
            .filter_map(|child| Some((child.pid, program_of(child.pid)?)))
            .collect();
        let find = |name: &str| children.iter().find(|(_, other)| other == name).map(|(pid, _)| *pid);
        // The device is spawned first and the core second: a copy of the launcher is the one or the other.
        let copy = || {
            let is_core = find(Self::Device.name()).is_some();
            (is_core == (self == Self::Core)).then(|| find("vmm")).flatten()
        };
        find(self.name()).or_else(|| before_exec.then(copy).flatten())
    }
}

/// The child of `parent` that runs the program `name`.
pub fn program_among(parent: i32, name: &str) -> Option<i32> {
    children(parent)
        .iter()
        .map(|child| child.pid)
        .find(|pid| program_of(*pid).is_some_and(|other| other == name))
}

/// The launcher's copy of itself, which has named itself so.
pub fn spawner(running: &Running) -> i32 {
    let named =
        |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "vmm-spawner\n");
    children(running.pid()).iter().map(|child| child.pid).find(named).expect("a spawner")
}

/// The file name in argument 0 of a process, which everybody may read.
fn program_of(pid: i32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let argument = line.split(|byte| *byte == 0).next()?;
    let name = Path::new(std::str::from_utf8(argument).ok()?).file_name()?;
    Some(name.to_string_lossy().into_owned())
}

/// The line in which `vmm` says what confines each process, once it is whole.
pub fn confinement(log: &str) -> Option<&str> {
    let mut lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines.find(|line| line.contains("confined:")).map(str::trim_end)
}

/// Random numbers from a seed that can be given again (SplitMix64).
pub struct Random(u64);

impl Random {
    /// Seeded by `VMM_TEST_SEED`, else by chance; says by what.
    pub fn announced() -> Self {
        let given = std::env::var("VMM_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        println!("VMM_TEST_SEED={seed}");
        Self(seed)
    }

    /// A number below `limit`, which is small against 2^64.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }

    /// One of these.
    pub fn choice<T: Copy>(&mut self, all: &[T]) -> T {
        let count = u64::try_from(all.len()).expect("few");
        all[usize::try_from(self.below(count)).expect("small")]
    }

    /// Sleeps for a while shorter than `limit`; half of the times not at all.
    pub fn pause(&mut self, limit: Duration) {
        if self.below(2) == 0 {
            return;
        }
        let limit = u64::try_from(limit.as_micros()).expect("short").max(1);
        std::thread::sleep(Duration::from_micros(self.below(limit)));
    }
}
