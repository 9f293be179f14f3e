//! What can go wrong before and while a machine runs, each with its exit code.
//!
//! A message is one line: what was tried, what was wrong, what to do about it.

use std::path::PathBuf;

use nix::errno::Errno;
use protocol::FailureKind;
use sandbox_policies::Program;

use crate::exit_code::Code;
use crate::size::Size;

/// Why `vmm` ends other than by the guest's will.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The arguments are not of the form.
    #[error("{0}")]
    Usage(String),
    /// The settings file is not of the form.
    #[error("cannot use settings file {path:?}, line {line}: {text}")]
    ConfigFile { path: PathBuf, line: usize, text: String },
    /// The settings file has a name that nobody knows.
    #[error("cannot use settings file {path:?}: unknown option '{name}'{hint}; vmm --help lists all")]
    ConfigName { path: PathBuf, name: String, hint: String },
    /// No kernel was named.
    #[error("no kernel to boot: name one with --kernel FILE")]
    NoKernel,
    /// Not a possible number of vCPUs.
    #[error("cannot give the guest {wanted} vCPUs: --cpus takes 1 to {most}")]
    Cpus { wanted: u64, most: u8 },
    /// Not a possible amount of memory.
    #[error("cannot give the guest {wanted} of memory: --memory takes {least} to {most}")]
    Memory { wanted: Size, least: Size, most: Size },
    /// Not a whole number of pages.
    #[error("cannot give the guest {wanted} of memory: it is not a multiple of the page size {page}")]
    MemoryPages { wanted: Size, page: Size },
    /// The command line does not fit, or cannot end where it ends.
    #[error("cannot use a kernel command line of {length} bytes: Linux takes at most {most}")]
    CommandLineLength { length: usize, most: usize },
    /// A zero byte would cut it short.
    #[error("cannot use the kernel command line: it holds a zero byte at offset {offset}")]
    CommandLineZero { offset: usize },
    /// More than the PCI bus has places.
    #[error("cannot attach {wanted} devices: the PCI bus takes {most}")]
    Devices { wanted: usize, most: usize },
    /// The program that makes a device's network has ended before the guest ran.
    #[error(
        "cannot use device {device}: its network, passt, ended before the guest ran, {how}: see what it said above, or try \
         passt --foreground by hand"
    )]
    NoUserNetwork { device: String, how: String },
    /// A device's words make no device.
    #[error("cannot use device {name}: {text}")]
    Device { name: String, text: String },
    /// A path leads to nothing that can be used.
    #[error("cannot {what} {path:?}: {text}")]
    Path { what: &'static str, path: PathBuf, text: String, code: Code },
    /// Guest memory could not be made.
    #[error("cannot make {size} of guest memory: {call}: {errno}; {advice}")]
    GuestMemory { size: Size, call: &'static str, errno: Errno, advice: &'static str },
    /// A program of ours is not where it belongs.
    #[error(
        "cannot find the program {name}: it is neither beside vmm nor in its libexec directory ({tried}); build or install the whole of vmm"
    )]
    NoProgram { name: &'static str, tried: String },
    /// A call that should not fail on any host.
    #[error("cannot {what}: {errno}")]
    System { what: &'static str, errno: Errno },
    /// The control channel of a program.
    #[error("cannot hand over to {name}: {error}")]
    HandOver { name: String, error: protocol::Error },
    /// A machine that runs will not do what it was asked.
    #[error("{0}")]
    Control(String),
    /// A process could not be spawned, confined or ended.
    #[error("{0}")]
    Confinement(#[from] sandbox_policies::Error),
}

impl Error {
    /// The call `what` failed.
    pub fn system(what: &'static str) -> impl Fn(Errno) -> Error {
        move |errno| Error::System { what, errno }
    }

    /// What the shell gets to see.
    pub fn code(&self) -> Code {
        match self {
            Error::Usage(_)
            | Error::ConfigFile { .. }
            | Error::ConfigName { .. }
            | Error::NoKernel
            | Error::Cpus { .. }
            | Error::Memory { .. }
            | Error::MemoryPages { .. }
            | Error::CommandLineLength { .. }
            | Error::CommandLineZero { .. }
            | Error::Devices { .. }
            | Error::Device { .. } => Code::Usage,
            Error::Path { code, .. } => *code,
            Error::Control(_) => Code::Device,
            Error::GuestMemory { .. } | Error::NoProgram { .. } | Error::NoUserNetwork { .. } => {
                Code::Resource
            }
            Error::System { .. } | Error::HandOver { .. } => Code::Internal,
            // The program itself is at fault, not a layer: not executable, not static.
            Error::Confinement(sandbox_policies::Error::Child { step: "exec", .. }) => Code::Resource,
            Error::Confinement(sandbox_policies::Error::Process { .. }) => Code::Internal,
            // The host has enough of its kind, just not now: no layer is missing.
            Error::Confinement(error) if error.is_exhaustion() => Code::Resource,
            // Killed by somebody: no layer is missing.
            Error::Confinement(sandbox_policies::Error::DiedBeforeExec { name }) => {
                if name == Program::Core.name() { Code::Core } else { Code::Device }
            }
            Error::Confinement(_) => Code::Sandbox,
        }
    }
}

/// The exit code for what a spawned program says of its own failure.
pub fn code_of_failure(kind: FailureKind) -> Code {
    match kind {
        FailureKind::Internal | FailureKind::HandOver => Code::Internal,
        FailureKind::Kernel | FailureKind::Initrd => Code::Kernel,
        FailureKind::Memory | FailureKind::Resource => Code::Resource,
        FailureKind::Kvm => Code::Kvm,
        FailureKind::Sandbox => Code::Sandbox,
        FailureKind::Device => Code::Device,
    }
}
