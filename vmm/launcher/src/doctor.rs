//! `vmm doctor`: what this host lacks of what a machine needs or can use, what that costs, and what to do about it.
//!
//! Nothing is guessed from version numbers. Each layer is tried the way a machine has it: the real `vmm-core` is spawned
//! into its confinement and told to boot an empty kernel, which it refuses only after it has made a VM; each device's
//! program is told to serve what is not its own; and at the end this process confines itself as a launcher does. The
//! processes are thrown away, and nothing is left of them.

mod host;
mod landlock;
mod shown;
mod trial;

use std::path::PathBuf;

use clap::Parser;
use sandbox_policies::{Program, Requirement, Root};

use crate::error::Error;
use crate::exit_code::Code;
use crate::memory;
use crate::open;
use crate::programs::{self, Executable};
use crate::size::Size;
use trial::{Subject, Trial};

const AFTER_HELP: &str = "\
A line that says STOPS is of something without which vmm does not run with --sandbox=required; one that says lacks, of
something without which it does. Below either stands what that costs, and what to do. What is held was tried; what is there was
only seen.

Exit codes:
      0  vmm would run here with --sandbox=required
      3  guest memory or a program of vmm could not be had
      5  KVM is missing, not permitted or lacks a capability
      6  a required layer of the sandbox is missing
      others as of vmm; of several, the one that it would meet first";

/// What the trial's guest would have.
const MEMORY: Size = Size(128 << 20);

/// Tries what a machine needs of this host, and says what is lacking and what that costs.
#[derive(Debug, Parser)]
#[command(bin_name = "vmm doctor", after_help = AFTER_HELP, max_term_width = 110)]
pub struct DoctorLine {
    /// The host's KVM.
    #[arg(long, value_name = "NODE", default_value = "/dev/kvm")]
    pub kvm: PathBuf,

    /// A cgroup v2 directory that would be given to vmm with --cgroup.
    #[arg(long, value_name = "DIRECTORY")]
    pub cgroup: Option<PathBuf>,

    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

/// One thing that was tried.
#[derive(Debug)]
struct Finding {
    what: String,
    /// What was found.
    found: String,
    /// Whether it was put to the test, and not only seen to be there.
    tried: bool,
    /// None: it is there.
    lack: Option<Lack>,
}

/// What it is not to have something.
#[derive(Debug)]
struct Lack {
    costs: String,
    /// What to do about it; empty if what was found says it.
    advice: String,
    /// What `vmm` would end with for it, if it would.
    stops: Option<Code>,
}

impl Finding {
    fn held(what: &str, found: impl Into<String>) -> Self {
        Self { what: what.to_owned(), found: found.into(), tried: true, lack: None }
    }

    /// Something of which it is only known that it exists.
    fn there(what: &str, found: impl Into<String>) -> Self {
        Self { tried: false, ..Self::held(what, found) }
    }

    /// Something that a machine can do without.
    fn lacks(what: &str, found: impl Into<String>, costs: &str, advice: &str) -> Self {
        let lack = Lack { costs: costs.to_owned(), advice: advice.to_owned(), stops: None };
        Self { what: what.to_owned(), found: found.into(), tried: true, lack: Some(lack) }
    }

    /// Something without which there is no machine, or none with --sandbox=required.
    fn stops(what: &str, found: impl Into<String>, costs: &str, code: Code) -> Self {
        let lack = Lack { costs: costs.to_owned(), advice: String::new(), stops: Some(code) };
        Self { what: what.to_owned(), found: found.into(), tried: true, lack: Some(lack) }
    }

    fn code(&self) -> Option<Code> {
        self.lack.as_ref().and_then(|lack| lack.stops)
    }
}

const NO_MACHINE: &str = "no machine can run";
const LESS_CONFINED: &str = "vmm refuses; with --sandbox=available a program that is taken over could reach what the layer keeps from it";

/// Tries everything: what is to be printed, and the exit code.
pub fn run(line: &DoctorLine) -> Result<(String, Code), Error> {
    let mut all = needed(line)?;
    all.extend([host::control_groups(line.cgroup.as_deref()), host::stray_descriptors()]);
    all.extend([host::tap(), host::user_network(), host::huge_pages(), host::speculation()]);
    // Last: what is confined cannot try anything any more, but print.
    all.extend(landlock::own_confinement());
    let code = all.iter().find_map(Finding::code).unwrap_or(Code::PoweredOff);
    Ok((if line.json { shown::json(&all, code) } else { shown::screen(&all, code) }, code))
}

/// What a machine needs, in the order in which a launcher meets it.
fn needed(line: &DoctorLine) -> Result<Vec<Finding>, Error> {
    let mut all = Vec::new();
    let kvm = open::kvm(&line.kvm);
    all.push(match &kvm {
        Ok(_) => Finding::held("KVM", format!("{:?} can be opened for reading and writing", line.kvm)),
        Err(error) => Finding::stops("KVM", error.to_string(), NO_MACHINE, error.code()),
    });
    let memory = memory::create(MEMORY, crate::config::HugePages::Off);
    all.push(match &memory {
        Ok(regions) => host::sealed(regions),
        Err(error) => Finding::stops("guest memory", error.to_string(), NO_MACHINE, error.code()),
    });
    let null = open::null()?;
    let core = programs::find(Program::Core);
    match (&core, &memory) {
        (Ok(core), Ok(memory)) => {
            let subject = Subject { executable: core, null: &null };
            all.extend(of_core(&subject, |requirement| {
                trial::core(&subject, requirement, kvm.as_ref().ok(), memory)
            })?);
        }
        (Err(error), _) => all.push(Finding::stops("vmm-core", error.to_string(), NO_MACHINE, error.code())),
        (Ok(_), Err(_)) => {}
    }
    // Where the core cannot be confined, no device can.
    let confined = all.iter().all(|finding| finding.code() != Some(Code::Sandbox));
    let devices =
        Program::ALL.into_iter().filter(|program| !matches!(program, Program::Launcher | Program::Core));
    for program in devices {
        all.push(match programs::find(program) {
            Ok(executable) if confined && program.root() == Root::Empty => of_device(&executable, &null)?,
            Ok(executable) => Finding::there(program.name(), format!("{:?}, not tried", executable.path)),
            Err(error) => without_device(program, error.to_string()),
        });
    }
    Ok(all)
}

/// What the core met: the namespaces that it was spawned into, its own layers, and KVM.
fn of_core(
    subject: &Subject<'_>,
    attempt: impl Fn(Requirement) -> Result<Trial, Error>,
) -> Result<Vec<Finding>, Error> {
    let name = subject.executable.program.name();
    let mut all = Vec::new();
    let mut tried = attempt(Requirement::Required)?;
    if let Some(error) = tried.not_spawned.take() {
        let what = if error.code() == Code::Sandbox { "namespaces" } else { name };
        // As much as there is: the rest may be fine.
        tried = attempt(Requirement::Available)?;
        let missing = tried.lacking.join(", ");
        let found =
            if missing.is_empty() { error.to_string() } else { format!("{error} (missing: {missing})") };
        all.push(Finding::stops(what, found, LESS_CONFINED, error.code()));
    } else {
        all.push(Finding::held(
            "namespaces",
            "user, mount, pid, net, ipc, uts and cgroup, and an empty root",
        ));
    }
    all.extend(tried.findings());
    Ok(all)
}

fn of_device(executable: &Executable, null: &std::os::fd::OwnedFd) -> Result<Finding, Error> {
    let tried = trial::device(&Subject { executable, null })?;
    Ok(match tried.trouble() {
        None => {
            Finding::held(executable.program.name(), format!("{:?}, {}", executable.path, tried.version()))
        }
        Some(trouble) => without_device(executable.program, trouble),
    })
}

fn without_device(program: Program, found: String) -> Finding {
    let name = program.name();
    let costs = match program {
        Program::DeviceBlkQcow2 => "--device blk,format=qcow2 is refused".to_owned(),
        _ => format!("--device {} is refused", name.strip_prefix("device-").unwrap_or(name)),
    };
    Finding::lacks(name, found, &costs, "install the whole of vmm, of one version")
}
