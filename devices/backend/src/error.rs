//! What can go wrong in a device program, with the numbers that say why.
//!
//! A front end or a guest causes most of these, and none is a bug of ours: they are answers, printed as one
//! line, after which the message is refused, the ring is stopped or the program ends.

use nix::errno::Errno;
use protocol::FailureKind;

/// Everything that this library reports.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's fields are named in its message")]
pub enum Error {
    #[error("cannot {action}: {errno}")]
    System { action: &'static str, errno: Errno },
    #[error("the vhost-user front end closed the connection in the middle of a message")]
    Truncated,
    #[error("the vhost-user front end sent more file descriptors than this process may have open")]
    DescriptorFlood,
    #[error("vhost-user message {request}: header flags {flags:#x} are not those of a version 1 request")]
    HeaderFlags { request: u32, flags: u32 },
    #[error("vhost-user message {request}: {size} bytes of payload, the limit is {limit}")]
    Oversized { request: u32, size: u32, limit: usize },
    #[error("vhost-user message {request} is not known or was not negotiated")]
    UnknownRequest { request: u32 },
    #[error("vhost-user message {request}: {size} bytes of payload do not fit its structure")]
    PayloadSize { request: u32, size: usize },
    #[error("vhost-user message {request}: a field of its payload is out of range")]
    PayloadField { request: u32 },
    #[error("vhost-user message {request}: {got} file descriptors, {expected} expected")]
    DescriptorCount { request: u32, got: usize, expected: usize },
    #[error("feature bits {0:#x} were never offered")]
    Features(u64),
    #[error("protocol feature bits {0:#x} were never offered")]
    ProtocolFeatures(u64),
    #[error("{message} while ring {index} is running")]
    Running { message: &'static str, index: u32 },
    #[error("{message} before {missing}")]
    Order { message: &'static str, missing: &'static str },
    #[error("ring {index} does not exist: this device has {queues}")]
    RingIndex { index: u32, queues: u16 },
    #[error("ring {index}: size {size} is not a power of two from 1 to {limit}")]
    RingSize { index: u32, size: u32, limit: u16 },
    #[error("ring {index}: base {base} does not fit 16 bits")]
    RingBase { index: u32, base: u32 },
    #[error("ring {index}: {part} at user address {address:#x} is not in guest memory or is misaligned")]
    RingAddress { index: u32, part: &'static str, address: u64 },
    #[error("ring {index}: value {value} is neither 0 nor 1")]
    RingEnable { index: u32, value: u32 },
    #[error("ring {index}: no kick descriptor, and polling is not offered")]
    NoKick { index: u32 },
    #[error("{count} memory regions: 1 to {limit} are possible")]
    RegionCount { count: usize, limit: usize },
    #[error("memory region at {guest:#x}, {size:#x} bytes: empty, or past the end of the address space")]
    RegionRange { guest: u64, size: u64 },
    #[error("memory regions overlap at {address:#x}")]
    RegionOverlap { address: u64 },
    #[error("memory region at {guest:#x} is not a file that can be read: {errno}")]
    RegionFile { guest: u64, errno: Errno },
    #[error("memory region at {guest:#x} ends at byte {end}, which is past the end of its file")]
    RegionPastEnd { guest: u64, end: u64 },
    #[error(
        "memory region at {guest:#x} is not sealed against shrinking (seals {seals:#x}): whoever truncates it \
         kills this device; let the front end seal it (QEMU: memory-backend-memfd,seal=on) or accept it with \
         --unsealed-memory"
    )]
    Unsealed { guest: u64, seals: i32 },
    #[error("memory region at {guest:#x} cannot be mapped: {reason}")]
    RegionMap { guest: u64, reason: String },
    #[error("the in-flight area of {size} bytes does not fit {queues} queues of {queue_size}")]
    InflightSize { size: u64, queues: u16, queue_size: u16 },
    #[error("the in-flight area of ring {index} is inconsistent: {what}")]
    Inflight { index: u16, what: &'static str },
    #[error("configuration space: offset {offset}, size {size} is outside its {limit} bytes")]
    ConfigRange { offset: u32, size: u32, limit: u32 },
    #[error("{size} bytes of device state do not fit into the keep, which has room for {limit}")]
    State { size: usize, limit: usize },
    #[error("queue {queue}: the ring is broken: {reason}")]
    Ring { queue: u16, reason: &'static str },
    #[error("queue {queue}: {source}")]
    Queue { queue: u16, source: virtio_queue::Error },
    #[error("{0}")]
    Handover(#[from] protocol::Error),
    #[error("{0}")]
    Sandbox(#[from] sandbox_policies::Error),
    #[error("the hand-over channel was closed before the setup arrived")]
    NoSetup,
    #[error("the hand-over sent a message that has no place before the setup")]
    UnexpectedMessage,
    #[error("the hand-over is for another type of device")]
    DeviceType,
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Resource(String),
}

impl Error {
    /// For `map_err` on a system call: says what was tried.
    pub(crate) fn system(action: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::System { action, errno }
    }
}

impl From<lexopt::Error> for Error {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

impl Error {
    /// The exit code of a program that ends with this error, as in the table that all programs share.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Resource(_) => 3,
            Self::Sandbox(_) => 6,
            Self::System { .. }
            | Self::Handover(_)
            | Self::NoSetup
            | Self::UnexpectedMessage
            | Self::DeviceType => 1,
            _ => 7,
        }
    }

    /// What the launcher is told.
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Usage(_)
            | Self::Handover(_)
            | Self::NoSetup
            | Self::UnexpectedMessage
            | Self::DeviceType => FailureKind::HandOver,
            Self::Resource(_) => FailureKind::Resource,
            Self::Sandbox(_) => FailureKind::Sandbox,
            Self::System { .. } => FailureKind::Internal,
            _ => FailureKind::Device,
        }
    }
}
