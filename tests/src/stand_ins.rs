//! The real `vmm` beside stand-ins for programs that it spawns.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::time::{ClockId, clock_gettime};

use crate::environment::program;
use crate::error::tried;
use crate::{Error, Result, Running};

/// A folder with the programs.
pub struct StandIns(tempfile::TempDir);

impl StandIns {
    /// The real programs, and `stand_in` (the program of that name) in the place of those called `names`. Links, and no
    /// copies: a file that is open for writing in a child that another thread has just forked cannot be executed.
    pub fn of(stand_in: &Path, names: &[&str]) -> Result<Self> {
        let vmm = program("vmm")?;
        let beside = vmm.parent().map(Path::to_owned).unwrap_or_default();
        let folder =
            tempfile::tempdir_in(beside).map_err(tried("cannot make a folder beside the programs"))?;
        for name in ["vmm", "vmm-core", "device-blk"] {
            let from = if names.contains(&name) { stand_in.to_owned() } else { program(name)? };
            std::fs::hard_link(&from, folder.path().join(name))
                .map_err(tried(format!("cannot link {}", from.display())))?;
        }
        Ok(Self(folder))
    }

    /// A file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Starts `vmm` with a disk of zeros, `bytes` long, and these `options` of it; the stand-in for the core is told `act`.
    pub fn start(&self, act: &str, bytes: u64, options: &str) -> Result<Running> {
        self.start_with(act, bytes, options, &[])
    }

    /// The same, with further `arguments`.
    pub fn start_with(&self, act: &str, bytes: u64, options: &str, arguments: &[String]) -> Result<Running> {
        let disk = std::fs::File::create(self.file("disk.raw")).map_err(tried("cannot make a disk image"))?;
        disk.set_len(bytes).map_err(tried("cannot size a disk image"))?;
        std::fs::write(self.file("kernel"), "not looked at").map_err(tried("cannot write a kernel"))?;
        let mut command = Command::new(self.file("vmm"));
        command
            .arg("--kernel")
            .arg(self.file("kernel"))
            .args(["--cmdline", act])
            .arg(format!("--device=blk,path={}{options}", self.file("disk.raw").display()))
            .args(arguments)
            .current_dir(self.0.path());
        Running::start(command)
    }
}

/// The time since some moment, in nanoseconds, the same for all processes of a host.
pub fn monotonic() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_err(|errno| Error::Unexpected(format!("cannot read the clock: {errno}")))?;
    let part = |value: i64| u64::try_from(value).unwrap_or_default();
    Ok(part(now.tv_sec()).saturating_mul(1_000_000_000).saturating_add(part(now.tv_nsec())))
}
