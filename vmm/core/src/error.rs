//! What can go wrong in the core: one enum, each variant with the numbers that a person needs.
//!
//! A text is one line: what was tried, what was wrong and, where there is one, the way out. The launcher
//! turns [`Error::kind`] into its exit code.

use nix::errno::Errno;
use protocol::FailureKind;

/// A failure of the core.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line given by the launcher is not the one of the hand-over.
    #[error("{0}; vmm-core is started by vmm and not by hand")]
    Arguments(String),
    /// A frame on the control channel was refused.
    #[error("hand-over: {0}")]
    Protocol(#[from] protocol::Error),
    /// The messages of the hand-over came in the wrong order.
    #[error("hand-over: {0}")]
    HandOver(&'static str),
    /// A descriptor is not what the hand-over says it is.
    #[error("hand-over: the descriptor for {what} {problem}")]
    Descriptor {
        /// What it should have been.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A layer of the confinement could not be put in force.
    #[error(transparent)]
    Sandbox(#[from] sandbox_policies::Error),
    /// A system call failed that should not.
    #[error("{call}: {errno}")]
    System {
        /// The call.
        call: &'static str,
        /// Why.
        errno: Errno,
    },

    /// The regions of the hand-over are not those of the guest-physical layout.
    #[error("guest memory: {0}")]
    Layout(String),
    /// A memfd could not be mapped.
    #[error("mapping {size} bytes of guest memory at guest address {guest_phys:#x}: {problem}")]
    Map {
        /// Where the region is in the guest.
        guest_phys: u64,
        /// Its size in bytes.
        size: u64,
        /// Why not.
        problem: String,
    },
    /// Something of ours does not lie in guest memory.
    #[error("writing the {what} to guest memory at {address:#x}: {problem}")]
    GuestWrite {
        /// What was to be written.
        what: &'static str,
        /// Where.
        address: u64,
        /// Why not.
        problem: String,
    },
    /// The processor cannot address the guest's memory and the devices' window.
    #[error(
        "the guest's addresses end at {end:#x}, but the processor has {bits} address bits: give it less memory, or less \
         of a pmem"
    )]
    AddressWidth {
        /// The end of the last window.
        end: u64,
        /// The processor's physical address width.
        bits: u8,
    },

    /// The descriptor is no KVM, or a KVM of another age.
    #[error("KVM speaks API version {found}, 12 is needed")]
    KvmVersion {
        /// What it answered.
        found: i32,
    },
    /// KVM lacks something that the core cannot do without.
    #[error("KVM lacks {names}: a newer host kernel, or one with hardware virtualization, is needed")]
    KvmCapabilities {
        /// What it lacks, as the kernel's documentation names it.
        names: String,
    },
    /// More vCPUs than the host's KVM allows.
    #[error("KVM allows {most} vCPUs, {wanted} were asked for")]
    KvmCpus {
        /// Its limit.
        most: usize,
        /// What was asked for.
        wanted: u8,
    },
    /// A KVM call failed.
    #[error("{ioctl}: {errno}")]
    Kvm {
        /// The ioctl.
        ioctl: &'static str,
        /// Why.
        errno: Errno,
    },
    /// KVM took only some of the MSRs.
    #[error("KVM_SET_MSRS: MSR {index:#x} was refused")]
    Msr {
        /// The first that it did not take.
        index: u32,
    },

    /// The kernel image cannot be read.
    #[error("reading the kernel image: {0}")]
    KernelRead(String),
    /// The file is no kernel.
    #[error("the kernel image is neither a bzImage nor an x86-64 ELF vmlinux: {0}")]
    NoKernel(String),
    /// The file ends too early.
    #[error("the kernel image is truncated: it has {found} bytes, its header promises {promised}")]
    KernelTruncated {
        /// Bytes in the file.
        found: u64,
        /// Bytes according to its header.
        promised: u64,
    },
    /// The kernel is one that cannot be started.
    #[error("the kernel image cannot be started: {0}")]
    KernelUnusable(String),
    /// The kernel does not fit.
    #[error(
        "the kernel needs guest memory up to {end:#x}, but it ends at {available:#x}: give it more memory"
    )]
    KernelTooBig {
        /// End of what the kernel needs.
        end: u64,
        /// End of guest memory below the hole.
        available: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("the kernel command line has {length} bytes, this kernel takes {most}")]
    CommandLineTooLong {
        /// Its length.
        length: usize,
        /// The kernel's limit.
        most: usize,
    },
    /// The command line holds what no command line may.
    #[error("the kernel command line has a zero byte at {at}")]
    CommandLineZero {
        /// Where.
        at: usize,
    },
    /// The initrd cannot be read.
    #[error("reading the initrd: {0}")]
    InitrdRead(String),
    /// The initrd does not fit.
    #[error(
        "the initrd has {size} bytes, but between the kernel's end at {from:#x} and {to:#x} there are only {room}: give the guest more memory"
    )]
    InitrdTooBig {
        /// Its size.
        size: u64,
        /// Bytes that there are.
        room: u64,
        /// The kernel's end.
        from: u64,
        /// The end of memory in which an initrd may lie.
        to: u64,
    },
    /// The ACPI tables outgrew their place.
    #[error("the ACPI tables have {size} bytes, there is room for {room}")]
    AcpiTooBig {
        /// Their size.
        size: u64,
        /// Their room.
        room: u64,
    },

    /// What should be memory of the guest's is not there.
    #[error(
        "{names}: the guest touched what is not there{at}: the file was shortened, cannot be read, or its file system \
         has no room for what the guest wrote; leave its size alone, and reserve its space with fallocate"
    )]
    Lost {
        /// The device, or those of which it is one.
        names: String,
        /// Where, if that is known.
        at: String,
    },
    /// A back end or a device of the guest failed.
    #[error("{name}: {problem}")]
    Device {
        /// The device's name, as in `blk0`.
        name: String,
        /// What it did.
        problem: String,
    },
}

impl Error {
    /// What the launcher makes its exit code of.
    #[must_use]
    pub const fn kind(&self) -> FailureKind {
        match self {
            Self::Arguments(_) | Self::Protocol(_) | Self::HandOver(_) | Self::Descriptor { .. } => {
                FailureKind::HandOver
            }
            Self::Sandbox(_) => FailureKind::Sandbox,
            Self::System { .. } => FailureKind::Internal,
            Self::Layout(_) | Self::Map { .. } | Self::GuestWrite { .. } | Self::AddressWidth { .. } => {
                FailureKind::Memory
            }
            Self::KvmVersion { .. }
            | Self::KvmCapabilities { .. }
            | Self::KvmCpus { .. }
            | Self::Kvm { .. }
            | Self::Msr { .. } => FailureKind::Kvm,
            Self::KernelRead(_)
            | Self::NoKernel(_)
            | Self::KernelTruncated { .. }
            | Self::KernelUnusable(_)
            | Self::KernelTooBig { .. }
            | Self::CommandLineTooLong { .. }
            | Self::CommandLineZero { .. }
            | Self::AcpiTooBig { .. } => FailureKind::Kernel,
            Self::InitrdRead(_) | Self::InitrdTooBig { .. } => FailureKind::Initrd,
            Self::Lost { .. } => FailureKind::Resource,
            Self::Device { .. } => FailureKind::Device,
        }
    }

    /// A failed KVM call, as `map_err` wants it.
    pub(crate) fn kvm(ioctl: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |error| Self::Kvm { ioctl, errno: Errno::from_raw(error.errno()) }
    }

    /// A failed system call, as `map_err` wants it.
    pub(crate) fn system(call: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::System { call, errno }
    }

    /// A failed call of the standard library, as `map_err` wants it.
    pub(crate) fn io(call: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |error| Self::System { call, errno: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)) }
    }
}
