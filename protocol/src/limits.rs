//! Every limit of the hand-over in one place. A value beyond its limit ends the peer that sent it.

/// Bytes of a frame, header included.
pub const MAX_FRAME: usize = 16 * 1024;
/// File descriptors of one frame.
pub const MAX_FDS: usize = 16;
/// vCPUs of a VM.
pub const MAX_CPUS: u8 = 32;
/// Guest memory regions (below and above the hole; the rest is for later).
pub const MAX_REGIONS: usize = 4;
/// Devices of a VM: the device numbers 1 to 31 of PCI bus 0.
pub const MAX_DEVICES: usize = 31;
/// Bytes of the kernel command line, without the terminating zero (`COMMAND_LINE_SIZE` of x86 is 2048).
pub const MAX_COMMAND_LINE: usize = 2047;
/// Virtqueues of one device.
pub const MAX_QUEUES: u16 = 64;
/// Descriptors of one virtqueue (virtio allows 32768; stock drivers gain nothing beyond this).
pub const MAX_QUEUE_SIZE: u16 = 1024;
/// Bytes of a device's name, as in `blk0`.
pub const MAX_NAME: usize = 32;
/// Bytes of a line of text meant for a person.
pub const MAX_TEXT: usize = 1024;
/// Bytes of a virtio-blk serial (virtio 1.3, 5.2.6, `VIRTIO_BLK_T_GET_ID`).
pub const MAX_SERIAL: usize = 20;
/// Bytes of the largest disk.
pub const MAX_DISK: u64 = 1 << 62;
/// Backing files of a disk: a descriptor, and an image's tables in memory, each.
pub const MAX_BACKING: usize = 8;
/// Pairs of queues of a network: what a hand-over has descriptors for, and a third of the queues of a device.
pub const MAX_NET_PAIRS: u16 = 16;
/// The least MTU that IPv4 works with (virtio 1.2, 5.1.4.1).
pub const MIN_MTU: u16 = 68;
/// The largest: with its Ethernet header a frame has 65535 bytes.
pub const MAX_MTU: u16 = 65521;
/// What a packet has at most where nobody says otherwise.
pub const USUAL_MTU: u16 = 1500;
/// The largest where frames go over a stream: with its Ethernet header, a VLAN tag and its length in front such a frame has
/// 32 KiB, which a Unix socket takes as a whole or not at all.
pub const MAX_STREAM_MTU: u16 = 32746;
/// Columns, and rows, of a console.
pub const MAX_CONSOLE_SIZE: u16 = 9999;
/// Ports of a console: a descriptor and two queues each.
pub const MAX_CONSOLE_PORTS: usize = 8;
/// Bytes of a port's name.
pub const MAX_PORT_NAME: usize = 64;
/// Bytes that a console's file is let grow to if nobody says otherwise: a boot log has some 50 KiB.
pub const DEFAULT_CONSOLE_FILE: u64 = 64 << 20;
/// The least context identifier of a guest: 0 and 1 are reserved, 2 is the host (virtio 1.2, 5.10.4).
pub const MIN_CID: u32 = 3;
/// The largest: 2^32-1 is "any".
pub const MAX_CID: u32 = u32::MAX - 1;
/// Bytes of a vsock's path, and of its name: with a port behind it, as in `_4294967295`, it is a socket's path of at most
/// 107 bytes.
pub const MAX_VSOCK_PATH: usize = 96;
/// The same of the name alone, which has a slash in front.
pub const MAX_VSOCK_NAME: usize = MAX_VSOCK_PATH - 1;
/// What address and size of persistent memory are multiples of: a large page of x86, and what Linux can take in as memory
/// with descriptors of its pages (`memremap_compat_align`).
pub const PMEM_ALIGNMENT: u64 = 2 << 20;
/// The least size of a block of memory that is plugged in: a large page of x86, below which Linux does not go either.
pub const MIN_MEM_BLOCK: u64 = 2 << 20;
/// The largest: such memory lies at a whole GiB.
pub const MAX_MEM_BLOCK: u64 = 1 << 30;
/// The most such blocks of a device: with a bit for each its state fits into its keep.
pub const MAX_MEM_BLOCKS: u64 = 15_872;
/// Bytes of a file system's tag (virtio 1.2, 5.11.4).
pub const MAX_FS_TAG: usize = 36;
/// Entries of a list of counters or of lacking layers.
pub const MAX_ENTRIES: usize = 64;
/// Processes of a machine that are told of at once: each device's own, one beside it, and such as are on their way out.
pub const MAX_PROCESSES: usize = 128;
/// Bytes of a device's keep: what of its state outlives its process ([`crate::ToDevice::Keep`]).
pub const KEEP_SIZE: usize = 4096;
/// The smallest guest memory, in bytes.
pub const MIN_MEMORY: u64 = 128 << 20;
/// The largest guest memory, in bytes: with the devices' window it stays inside 39 address bits, which
/// every x86-64 processor with nested paging has.
pub const MAX_MEMORY: u64 = 384 << 30;
/// The longest that the core may wait for one reply of a back end, in milliseconds.
pub const MAX_DEADLINE_MS: u32 = 60_000;
/// The default of the same.
pub const DEFAULT_DEADLINE_MS: u32 = 5_000;
