//! Whether a limited disk and a limited link do what was asked for and no more: bytes and requests that come back in ten
//! seconds from a device program on its own, under a driver that always has requests in flight; and, in turn with each, the
//! same without a limit, which says what the limit took away.
//!
//! The network is one of its own: the bench runs once more in namespaces of its own.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "the front end of tests says what it expects by failing"
)]

#[path = "../../devices/backend/tests/front_end/mod.rs"]
#[expect(dead_code, reason = "a bench needs a part of it")]
#[expect(clippy::panic, reason = "as above")]
mod front_end;

use std::net::UdpSocket;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use system_tests::network::{ip, is_inside};
use system_tests::{Error, Result, program};

use front_end::Device;
use front_end::driver::{BUFFERS, Driver, Queue, WRITE};

/// How long each is measured.
const MEASURED: Duration = Duration::from_secs(10);
/// Entries of each ring.
const SIZE: u16 = 64;
/// Requests in flight; each takes three entries of a ring.
const DEPTH: u16 = 16;
/// The virtio-net header.
const HEADER: u32 = 12;
/// A frame without it.
const FRAME: u32 = 1514;
/// The 64 KiB at the end of guest memory, where headers and statuses are.
const SMALL: u64 = front_end::driver::MEMORY - 0x1_0000;
/// CSUM, GUEST_CSUM, all segmentation, and merged buffers: a frame here is a frame on the wire.
const OFFLOADS: u64 = 0x7f << 7 | 1 << 15 | 0b11 | 0b111 << 54;

/// What came back.
#[derive(Clone, Copy)]
struct Done {
    bytes: f64,
    requests: f64,
}

/// Measures all, in network namespaces of its own.
pub fn limits() -> Result<()> {
    if !is_inside() {
        return again();
    }
    ip("tuntap add tap0 mode tap")?;
    ip("link set tap0 address 52:54:00:00:00:01 mtu 1500 up")?;
    ip("address add 10.0.0.1/24 dev tap0")?;
    ip("neighbour add 10.0.0.2 lladdr 52:54:00:00:00:02 nud permanent dev tap0")?;
    println!("{:<44} {:>12} {:>12} {:>8} {:>14}", "", "asked for", "had", "off by", "without limit");
    let mib = f64::from(1 << 20);
    let bytes = |done: Done| done.bytes / mib;
    let requests = |done: Done| done.requests;
    row("disk, bandwidth=32M, 64 KiB reads, MiB/s", 32.0, "--bandwidth=33554432", disk(0x1_0000), bytes)?;
    row("disk, operations=500, 4 KiB reads, a second", 500.0, "--operations=500", disk(0x1000), requests)?;
    row("link, bandwidth=8M, to the host, MiB/s", 8.0, "--bandwidth=8388608", transmit, bytes)?;
    row("link, bandwidth=8M, to the guest, MiB/s", 8.0, "--bandwidth=8388608", receive, bytes)?;
    row("link, operations=2000, to the host, a second", 2000.0, "--operations=2000", transmit, requests)
}

fn again() -> Result<()> {
    let this = std::env::current_exe().map_err(|source| failed("cannot find this program", source))?;
    let mut command = Command::new("unshare");
    command.args(["-r", "-n"]).arg(this).arg("limits").env(system_tests::network::INSIDE, "1");
    match command.status().map_err(|source| failed("cannot run unshare", source))?.success() {
        true => Ok(()),
        false => Err(Error::Unexpected("it failed in a network of its own".to_owned())),
    }
}

fn failed(what: &str, source: std::io::Error) -> Error {
    Error::System { what: what.to_owned(), source }
}

fn row(
    name: &str,
    asked: f64,
    limit: &str,
    load: impl Fn(&[&str]) -> Result<Done>,
    unit: impl Fn(Done) -> f64,
) -> Result<()> {
    let unlimited = unit(load(&[])?);
    let had = unit(load(&[limit])?);
    let off = (had / asked - 1.0) * 100.0;
    println!("{name:<44} {asked:12.1} {had:12.1} {off:7.1}% {unlimited:14.1}");
    Ok(())
}

/// Keeps the requests that `again` makes in flight, and counts what comes back.
fn measure(driver: &Driver<'_>, queue: &mut Queue, each: impl Fn(u32) -> u64) -> Done {
    let heads: Vec<u16> = (0..DEPTH).map(|request| request * 3).collect();
    driver.offer(queue, &heads);
    // From a request that has come back on: what the start cost is not counted.
    driver.used(queue);
    driver.offer(queue, &[0]);
    let (started, mut bytes, mut requests) = (Instant::now(), 0, 0_u32);
    loop {
        let (head, size) = driver.used(queue);
        let took = started.elapsed();
        bytes += each(size);
        requests += 1;
        if took >= MEASURED {
            let seconds = took.as_secs_f64();
            let bytes = f64::from(u32::try_from(bytes >> 10).unwrap()) * 1024.0;
            return Done { bytes: bytes / seconds, requests: f64::from(requests) / seconds };
        }
        driver.offer(queue, &[u16::try_from(head).unwrap()]);
    }
}

/// Reads of so many bytes, one after the other through a disk of zeros.
fn disk(bytes: u32) -> impl Fn(&[&str]) -> Result<Done> {
    move |options| {
        let image = tempfile::NamedTempFile::new().map_err(|source| failed("a disk image", source))?;
        image.as_file().set_len(64 << 20).map_err(|source| failed("a disk image", source))?;
        let path = format!("--path={}", image.path().display());
        let device =
            Device::spawn(&program("device-blk")?.to_string_lossy(), &[&[path.as_str()], options].concat());
        device.negotiate(0);
        let driver = Driver::new(&device);
        let mut queue = driver.queue(0, SIZE, 0);
        for request in 0..DEPTH {
            let number = u64::from(request);
            // VIRTIO_BLK_T_IN, and a sector of its own for each.
            driver.put(SMALL + number * 32, &[[0; 8], (number << 7).to_le_bytes()].concat());
            let parts = [
                (SMALL + number * 32, 16, 0),
                (BUFFERS + number * u64::from(bytes), bytes, WRITE),
                (SMALL + 0x8000 + number, 1, WRITE),
            ];
            driver.chain(queue.table(), request * 3, &parts);
        }
        let done = measure(&driver, &mut queue, |_| bytes.into());
        assert_eq!(driver.look(SMALL + 0x8000, 1), [0], "VIRTIO_BLK_S_OK");
        drop(driver);
        ended(device, done)
    }
}

fn link(options: &[&str]) -> Result<Device> {
    let tap = ["--tap=tap0", "--mac=52:54:00:00:00:02"];
    let device = Device::spawn(&program("device-net")?.to_string_lossy(), &[&tap[..], options].concat());
    device.negotiate(OFFLOADS);
    Ok(device)
}

/// Frames of the guest's.
fn transmit(options: &[&str]) -> Result<Done> {
    let device = link(options)?;
    let driver = Driver::new(&device);
    let mut queue = driver.queue(1, SIZE, 0);
    // To nobody: an address that the host does not have, and an experimental type.
    let ethernet = [&[0x52, 0x54, 0, 0, 0, 9][..], &[0x52, 0x54, 0, 0, 0, 2], &[0x88, 0xb5]].concat();
    driver.put(BUFFERS + u64::from(HEADER), &ethernet);
    for request in 0..DEPTH {
        driver.chain(queue.table(), request * 3, &[(BUFFERS, HEADER + FRAME, 0)]);
    }
    let done = measure(&driver, &mut queue, |_| (HEADER + FRAME).into());
    drop(driver);
    ended(device, done)
}

/// Datagrams for the guest, of which there are always more than it gets.
fn receive(options: &[&str]) -> Result<Done> {
    let device = link(options)?;
    let driver = Driver::new(&device);
    let mut queue = driver.queue(0, SIZE, 0);
    for request in 0..DEPTH {
        driver.chain(queue.table(), request * 3, &[(BUFFERS + u64::from(request) * 2048, 2048, WRITE)]);
    }
    let socket = UdpSocket::bind("10.0.0.1:7000").map_err(|source| failed("a socket", source))?;
    socket.connect("10.0.0.2:7000").map_err(|source| failed("a socket", source))?;
    let over = AtomicBool::new(false);
    let done = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // What the tap has no room for is dropped there.
                let _ = socket.send(&[0; 1472]);
            }
        });
        let done = measure(&driver, &mut queue, u64::from);
        over.store(true, Ordering::Relaxed);
        done
    });
    drop(driver);
    ended(device, done)
}

fn ended(device: Device, done: Done) -> Result<Done> {
    match device.end() {
        (Some(0), _) => Ok(done),
        (code, log) => Err(Error::Unexpected(format!("the device ended with {code:?}: {log}"))),
    }
}
