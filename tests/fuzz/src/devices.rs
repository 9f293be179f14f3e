//! Requests of a hostile driver, on the ring that the device programs serve: each target is one device. Those that stand
//! between the guest and others have them in the input as well, in turns.
//!
//! The input lays the ring out in a small guest memory: which queue and features, how many descriptors and which, what is
//! available, then bytes for the buffers. Addresses are by blocks of 256 bytes, so that a chain usually finds memory, or
//! raw, so that it need not. What the device says of a request afterwards is held against its chain: never more bytes
//! written than the driver gave it to write.

mod console;
mod exchange;
mod fs;
mod net;
mod ring;
mod stream;
mod vsock;

pub use console::console;
pub use fs::fs;
pub use net::net;
pub use stream::net_stream;
pub use vsock::vsock;

use crate::{Input, memory};
use device_backend::Device;
use device_backend::direct::{self, DirectMemory};
use device_balloon::Balloon;
use device_blk::{Blk, Disk};
use device_mem::Mem;
use device_pmem::Pmem;
use device_rng::Rng;
use protocol::{BalloonOptions, BlkOptions, DiskFormat, MemOptions, MemoryRegion, PmemOptions, limits};
use ring::{Driver, MEMORY};
use std::fs::File;
use std::sync::{Arc, OnceLock};

/// Bytes of the disk.
const DISK: u64 = 1 << 20;

/// A device and the guest memory that it serves. Both stay: what a request changes, the next input finds.
pub(crate) struct Bench<D> {
    device: Arc<D>,
    file: File,
    memory: DirectMemory,
}

impl<D: Device> Bench<D> {
    pub(crate) fn of(device: Option<D>) -> Option<Self> {
        let file = memory::sealed(MEMORY)?;
        let memory = DirectMemory::map(file.try_clone().ok()?.into(), MEMORY).ok()?;
        Some(Self { device: Arc::new(device?), file, memory })
    }

    pub(crate) fn device(&self) -> &D {
        &self.device
    }

    pub(crate) fn feed(&self, data: &[u8]) {
        let Some(driver) = Driver::lay_out(data, self.device.queues(), &self.file) else { return };
        let served = direct::serve(&self.device, driver.queue, &self.memory, driver.ring, driver.features);
        driver.judge(&self.file, served.is_ok());
    }

    /// The same for what the input says next.
    fn feed_next(&self, input: &mut Input<'_>) {
        let length = input.u16() % 1024;
        self.feed(input.bytes(length.into()));
    }
}

/// Of a disk.
pub(crate) fn disk_options(readonly: bool, queues: u16, backing: Vec<DiskFormat>) -> BlkOptions {
    let (serial, queue_size) = ("fuzz".to_owned(), 64);
    BlkOptions { readonly, direct: false, serial, queues, queue_size, discard: true, backing }
}

/// virtio-blk, on a disk in memory.
pub fn blk(data: &[u8]) {
    static BENCH: OnceLock<Option<Bench<Blk>>> = OnceLock::new();
    let bench = BENCH.get_or_init(|| {
        let file = memory::file()?;
        file.set_len(DISK).ok()?;
        let options = disk_options(false, 1, Vec::new());
        Bench::of(Blk::new(&options, Disk::new(file.into(), false).ok()?).ok())
    });
    bench.iter().for_each(|bench| bench.feed(data));
}

/// virtio-balloon, which gives the guest's memory back.
pub fn balloon(data: &[u8]) {
    static BENCH: OnceLock<Option<Bench<Balloon>>> = OnceLock::new();
    let bench = BENCH.get_or_init(|| {
        let options = BalloonOptions { size: 1 << 16, deflate_on_oom: true, free_page_reporting: true };
        Bench::of(Balloon::new(options).ok())
    });
    bench.iter().for_each(|bench| bench.feed(data));
}

/// virtio-mem, whose region is beyond the guest's memory: what is plugged stays so.
pub fn mem(data: &[u8]) {
    static BENCH: OnceLock<Option<Bench<Mem>>> = OnceLock::new();
    let bench = BENCH.get_or_init(|| {
        let region = MemoryRegion { guest_phys: limits::MAX_MEM_BLOCK, size: limits::MAX_MEM_BLOCK };
        let options = MemOptions { region, block: limits::MIN_MEM_BLOCK, requested: region.size / 2 };
        Bench::of(Mem::new(options, memory::sealed(4096)?.into()).ok())
    });
    bench.iter().for_each(|bench| bench.feed(data));
}

/// virtio-rng.
pub fn rng(data: &[u8]) {
    static BENCH: OnceLock<Option<Bench<Rng>>> = OnceLock::new();
    let bench = BENCH.get_or_init(|| Bench::of(Rng::new(File::open("/dev/urandom").ok()?).ok()));
    bench.iter().for_each(|bench| bench.feed(data));
}

/// virtio-pmem, on a file in memory.
pub fn pmem(data: &[u8]) {
    static BENCH: OnceLock<Option<Bench<Pmem>>> = OnceLock::new();
    let bench = BENCH.get_or_init(|| {
        let file = memory::file()?;
        file.set_len(DISK).ok()?;
        let region = MemoryRegion { guest_phys: 1 << 32, size: DISK };
        Bench::of(Pmem::new(file.into(), PmemOptions { region, readonly: false }).ok())
    });
    bench.iter().for_each(|bench| bench.feed(data));
}
