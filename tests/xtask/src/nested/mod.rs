//! Where real guests run: on this host's KVM, or, where that cannot run stock Linux, inside a QEMU
//! guest under software emulation whose (emulated) processor offers AMD's virtualization to a KVM of
//! the real kind. The same programs run in both.

mod outer;
mod qemu;

use std::fmt;
use std::fs;
use std::path::Path;

use crate::artifacts::Artifacts;
use crate::failure::{Failure, Outcome, Tried};
use crate::workspace::Workspace;
use qemu::Ended;

/// Where guests run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rig {
    /// On this host's KVM.
    Direct,
    /// On the KVM of an outer guest under software emulation.
    Nested,
}

impl fmt::Display for Rig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "on this host's KVM",
            Self::Nested => "nested: on KVM in an outer guest under software emulation",
        })
    }
}

impl Rig {
    /// Decides: `VMM_RIG=direct|nested` if set, else by what the host's processor and `/dev/kvm` say.
    pub fn detect() -> Outcome<Self> {
        match std::env::var("VMM_RIG").as_deref() {
            Ok("direct") => return Ok(Self::Direct),
            Ok("nested") => return Ok(Self::Nested),
            Ok(other) => return Err(Failure::new(format!("VMM_RIG={other}: it is `direct` or `nested`"))),
            Err(_) => {}
        }
        // /dev/kvm alone proves nothing: there are hosts whose KVM has no virtualization behind it
        // and emulates instruction after instruction, too slow for a stock kernel.
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kvm = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
        Ok(if kvm && has_virtualization(&processor) { Self::Direct } else { Self::Nested })
    }
}

fn has_virtualization(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_whitespace)
        .any(|flag| flag == "svm" || flag == "vmx")
}

/// What is to run in the outer guest.
pub struct Job<'a> {
    /// The folder that holds `vmm`, `vmm-core` and the devices.
    pub programs: &'a Path,
    /// Statically linked programs to run there one after the other: name and file.
    pub runs: Vec<(&'a str, &'a Path)>,
    /// Arguments of each of them.
    pub arguments: &'a [String],
    /// More of their environment: `NAME=VALUE`.
    pub settings: &'a [String],
}

/// How a job went.
#[derive(Debug)]
pub struct Run {
    /// The programs that ended, in order.
    pub programs: Vec<ProgramRun>,
    /// All output.
    pub output: String,
    /// Why there is not more: the emulator itself had stopped (see [`qemu::Ended::Stuck`]).
    pub stuck: Option<String>,
}

/// One program's end.
#[derive(Debug, PartialEq, Eq)]
pub struct ProgramRun {
    /// Its name in the job.
    pub name: String,
    /// What it wrote.
    pub output: String,
    /// Whether its exit status was 0.
    pub succeeded: bool,
}

/// Installs QEMU, or says what to install.
pub fn need_qemu() -> Outcome<()> {
    crate::host::need_programs(&[("qemu-system-x86_64", "qemu-system-x86")])
}

/// Runs `job` in an outer guest.
pub fn run(workspace: &Workspace, artifacts: &Artifacts, job: &Job<'_>) -> Outcome<Run> {
    need_qemu()?;
    crate::host::need_programs(&[("setpriv", "util-linux"), ("strip", "binutils")])?;
    let folder = workspace.rig_folder().join("outer");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).tried(|| format!("cannot make {}", folder.display()))?;
    crate::progress::step("packing the outer guest");
    let initramfs = outer::initramfs(workspace, artifacts, job, &folder)?;
    let machine = qemu::Machine { kernel: &artifacts.vmlinux(), initramfs: &initramfs, folder: &folder };
    let stuck = match machine.run()? {
        Ended::PoweredOff => None,
        Ended::Stuck(signature) => Some(signature),
        Ended::Silent(why) => {
            return Err(Failure::new(format!("{why}\n{}", machine.last_words())));
        }
    };
    let output = machine.output();
    let (programs, done) = parse(&output);
    if !done && stuck.is_none() {
        return Err(Failure::new(format!(
            "the outer guest ended before its job did\n{}",
            machine.last_words()
        )));
    }
    Ok(Run { programs, output, stuck })
}

/// Takes apart what the outer guest's script wrote: `@@begin NAME`, the output, `@@end NAME STATUS`, and
/// `@@done` when all is done.
fn parse(output: &str) -> (Vec<ProgramRun>, bool) {
    let mut programs: Vec<ProgramRun> = Vec::new();
    for line in output.lines() {
        if line == "@@done" {
            return (programs, true);
        }
        if let Some(name) = line.strip_prefix("@@begin ") {
            programs.push(ProgramRun { name: name.to_owned(), output: String::new(), succeeded: false });
        } else if let Some(program) = programs.last_mut() {
            if line.strip_prefix("@@end ").is_some_and(|end| end == format!("{} 0", program.name)) {
                program.succeeded = true;
            }
            program.output.push_str(line);
            program.output.push('\n');
        }
    }
    (programs, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtualization_is_a_flag_and_not_a_part_of_one() {
        assert!(has_virtualization("flags\t\t: fpu vmx sse\n"));
        assert!(!has_virtualization("flags\t\t: fpu vmxfoo svme\nbugs\t\t: svm\n"));
    }

    #[test]
    fn the_programs_of_a_job_are_told_apart() {
        let (programs, done) =
            parse("@@begin one\nhello\n@@end one 0\n@@begin two\nbad\n@@end two 101\n@@done\n");
        assert!(done);
        assert_eq!(programs.len(), 2);
        assert!(programs[0].succeeded && !programs[1].succeeded);
        assert!(programs[0].output.starts_with("hello\n"));
    }

    #[test]
    fn a_guest_that_stops_half_way_is_not_done() {
        let (programs, done) = parse("@@begin one\nhello\n");
        assert!(!done && !programs[0].succeeded);
    }
}
