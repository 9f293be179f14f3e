//! A device on its bus, its VM, its thread and a back end: from the driver's first access to the last.

use super::peer::{Request, back_end, behave};
use crate::GuestMemory;
use crate::frontend::{Connection, MemoryTable, Succession, USER_ADDRESS_OFFSET, attach};
use crate::guest_memory::tests::guest;
use crate::interrupts::Interrupts;
use crate::pci::{PciHost, Touched, Windows};
use crate::pluggable_memory::PluggedSize;
use kvm_ioctls::Kvm;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::{AttachDevice, DeviceLost, FromCore, MemoryRegion};
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use vhost::vhost_user::message::FrontendReq;

pub const BAR: u64 = 0x40_0000_8000;

pub struct Bench {
    pub host: PciHost,
    pub told: Receiver<FromCore>,
    pub requests: Receiver<Request>,
    pub memory: GuestMemory,
    /// Connections that are to be closed when the launcher has been told something, if a test keeps them.
    pub closed_then: Arc<Mutex<Option<Vec<Connection>>>>,
    /// What all its back ends have to say that their configuration has changed.
    pub channel: UnixStream,
    threads: Vec<JoinHandle<()>>,
    tell: Sender<Request>,
}

/// A machine with one blk device in slot 1, decoded; `special` may answer instead of a back end that behaves.
pub fn bench(
    special: impl FnMut(&mut UnixStream, &Request) -> Option<ControlFlow<()>> + Send + 'static,
) -> Bench {
    bench_of(2, special)
}

/// The same with a device of another type, which must have a configuration.
pub fn bench_of(
    virtio_type: u16,
    special: impl FnMut(&mut UnixStream, &Request) -> Option<ControlFlow<()>> + Send + 'static,
) -> Bench {
    bench_with(virtio_type, None, special)
}

/// The same with memory to be plugged in, which lies there, and how much of it is.
pub fn bench_with(
    virtio_type: u16,
    pluggable: Option<(MemoryRegion, PluggedSize)>,
    special: impl FnMut(&mut UnixStream, &Request) -> Option<ControlFlow<()>> + Send + 'static,
) -> Bench {
    let (mem, plugged) = pluggable.unzip();
    let vm = Kvm::new().unwrap().create_vm().unwrap();
    vm.create_irq_chip().unwrap();
    let vm = Arc::new(vm);
    let interrupts = Arc::new(Interrupts::new(Arc::clone(&vm)).unwrap());
    let (tell, requests) = channel();
    let (socket, back) = watched(tell.clone(), special);
    let memory = guest(1 << 20);
    let table = Arc::new(MemoryTable::of(&memory).unwrap());
    let device = AttachDevice {
        slot: 1,
        name: "blk0".into(),
        virtio_type,
        queues: 0,
        queue_size: 128,
        deadline_ms: 60_000,
        pmem: None,
        mem,
    };
    let device = attach(device, socket, plugged, table, Arc::clone(&interrupts), vm).unwrap();
    let windows = Windows { mmio32: 0xC000_0000..0xE000_0000, mmio64: 0x40_0000_0000..0x44_0000_0000 };
    let mut host = PciHost::new(windows, interrupts);
    host.add(1, device).unwrap();
    let (report, told) = channel();
    let worker = host.workers().pop().unwrap();
    let channel = worker.channel.as_ref().unwrap().theirs.try_clone().unwrap().into();
    let closed_then: Arc<Mutex<Option<Vec<Connection>>>> = Arc::default();
    let held = Arc::clone(&closed_then);
    let front = std::thread::spawn(move || {
        worker.run(&|message, closed_then| {
            if let Some(held) = held.lock().unwrap().as_mut() {
                held.extend(closed_then);
            }
            // A test that has seen enough does not listen to the end.
            let _nobody = report.send(message);
        });
    });
    host.ecam_write((1 << 15) + 4, &[6, 0]);
    Bench { host, told, requests, memory, closed_then, channel, threads: vec![back, front], tell }
}

/// Whether the other end is closed.
pub fn hung_up(end: &UnixStream) -> bool {
    let mut fds = [PollFd::new(end.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).unwrap() > 0
}

/// A back end each of whose requests is told, and that behaves where `special` has no answer of its own.
fn watched(
    tell: Sender<Request>,
    mut special: impl FnMut(&mut UnixStream, &Request) -> Option<ControlFlow<()>> + Send + 'static,
) -> (OwnedFd, JoinHandle<()>) {
    back_end(move |stream, request| {
        let _nobody = tell.send(request.clone());
        special(stream, request).unwrap_or_else(|| {
            behave(stream, request);
            ControlFlow::Continue(())
        })
    })
}

impl Bench {
    /// Another back end takes the place of one that was lost.
    pub fn succeed(
        &mut self,
        special: impl FnMut(&mut UnixStream, &Request) -> Option<ControlFlow<()>> + Send + 'static,
    ) {
        let (socket, back) = watched(self.tell.clone(), special);
        self.threads.push(back);
        assert!(self.host.succeed(1, Succession::Successor(socket)));
    }

    /// Another back end takes the place of one that serves.
    pub fn replace(
        &mut self,
        special: impl FnMut(&mut UnixStream, &Request) -> Option<ControlFlow<()>> + Send + 'static,
    ) {
        let (socket, back) = watched(self.tell.clone(), special);
        self.threads.push(back);
        assert!(self.host.succeed(1, Succession::Replacement(socket)));
    }

    /// Waits for the loss of the back end, and gives why.
    pub fn lost(&self) -> String {
        match self.told.recv().unwrap() {
            FromCore::DeviceLost(DeviceLost { slot: 1, text, hung: false }) => text,
            other => panic!("{other:?}"),
        }
    }

    pub fn write(&self, offset: u64, value: u64, width: usize) -> Option<Touched> {
        self.host.mmio_write(BAR + offset, &value.to_le_bytes()[..width])
    }

    pub fn status(&self) -> u8 {
        let mut status = [0];
        self.host.mmio_read(BAR + 0x14, &mut status);
        status[0]
    }

    /// The driver of 3.1.1, with queue 1 of two.
    pub fn set_up(&self) {
        for (offset, value, width) in [
            (0x14, 1, 1),
            (0x14, 3, 1),
            (0x08, 1, 4),
            (0x0C, 1, 4),
            (0x14, 11, 1),
            (0x16, 1, 2),
            (0x20, 0x1000, 4),
            (0x28, 0x2000, 4),
            (0x30, 0x3000, 4),
            (0x1C, 1, 2),
            (0x14, 15, 1),
        ] {
            assert_eq!(self.write(offset, value, width), Some(Touched::Common));
        }
    }

    /// Waits for the status that another thread is about to set.
    pub fn await_status(&self, wanted: u8) {
        while self.status() != wanted {
            std::thread::yield_now();
        }
    }

    /// Waits for a request, and gives those up to it.
    pub fn until(&self, request: FrontendReq) -> Vec<Request> {
        let mut seen = Vec::new();
        while !seen.last().is_some_and(|last: &Request| last.is(request)) {
            seen.push(self.requests.recv().unwrap());
        }
        seen
    }

    pub fn end(self) {
        drop(self.host);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

#[test]
fn a_device_is_started_written_to_stopped_and_started_again() {
    let bench = bench(|_, _| None);
    for _ in 0..2 {
        bench.set_up();
        let seen = bench.until(FrontendReq::SET_VRING_ENABLE);
        let of = |request| seen.iter().find(|seen| seen.is(request)).unwrap();
        let table = of(FrontendReq::SET_MEM_TABLE);
        assert_eq!((table.fds, table.word(0)), (1, 1));
        assert_eq!(table.body[24..32], USER_ADDRESS_OFFSET.to_ne_bytes());
        let address = of(FrontendReq::SET_VRING_ADDR);
        assert_eq!(address.word(0), 1, "the queue that is enabled, and no other");
        assert_eq!(address.body[8..16], (USER_ADDRESS_OFFSET + 0x1000).to_ne_bytes());
        assert_eq!(address.body[16..24], (USER_ADDRESS_OFFSET + 0x3000).to_ne_bytes());
        assert_eq!(of(FrontendReq::SET_VRING_NUM).word(4), 128);
        assert_eq!((of(FrontendReq::SET_VRING_KICK).fds, of(FrontendReq::SET_VRING_CALL).fds), (1, 1));

        assert_eq!(bench.write(0x2000 + 32, 1, 1), Some(Touched::DeviceConfig));
        let seen = bench.until(FrontendReq::GET_CONFIG);
        let write = seen.iter().find(|seen| seen.is(FrontendReq::SET_CONFIG)).unwrap();
        assert_eq!((write.word(0), write.word(4), write.body.last()), (32, 1, Some(&1)));

        bench.write(0x14, 0, 1);
        let seen = bench.until(FrontendReq::GET_VRING_BASE);
        assert_eq!(seen.last().unwrap().word(0), 1);
        bench.await_status(0);
    }
    assert!(bench.told.try_recv().is_err());
    bench.end();
}

#[test]
fn a_reset_is_not_confirmed_before_the_rings_stop() {
    let (release, released) = channel::<()>();
    let bench = bench(move |_, request| {
        if request.is(FrontendReq::GET_VRING_BASE) {
            released.recv().unwrap();
        }
        None
    });
    bench.set_up();
    bench.until(FrontendReq::SET_VRING_ENABLE);
    bench.write(0x14, 0, 1);
    bench.until(FrontendReq::GET_VRING_BASE);
    assert_ne!(bench.status(), 0);
    release.send(()).unwrap();
    bench.await_status(0);
    bench.end();
}

#[test]
fn a_message_that_nobody_asked_for_loses_the_back_end() {
    let bench = bench(|stream, request| {
        let enable = request.is(FrontendReq::SET_VRING_ENABLE);
        enable.then(|| {
            behave(stream, request);
            stream.write_all(&[0]).unwrap();
            ControlFlow::Continue(())
        })
    });
    bench.set_up();
    assert!(bench.lost().contains("nobody asked for"));
    assert_eq!(bench.status(), 15, "what becomes of the device is not decided yet");
    bench.end();
}

#[test]
fn the_bus_finds_the_device_and_nothing_else() {
    let bench = bench(|_, _| None);
    let host = &bench.host;
    let by_port = |address: u32, port: u16| {
        host.port_write(0xCF8, &address.to_le_bytes());
        let mut data = [0; 4];
        host.port_read(port, &mut data);
        u32::from_le_bytes(data)
    };
    assert_eq!(by_port(0x8000_0000, 0xCF8), 0x8000_0000);
    assert_eq!(by_port(0x8000_0000, 0xCFC), 0x0008_1B36);
    assert_eq!(by_port(0x8000_0800, 0xCFC), 0x1042_1AF4);
    assert_eq!(by_port(0x8000_0808, 0xCFC), 0x0180_0001);
    for nobody in [0x0000_0800, 0x8000_0900, 0x8001_0800, 0x8000_1000, 0x8000_F800] {
        assert_eq!(by_port(nobody, 0xCFC), u32::MAX, "{nobody:#x}");
    }
    assert_eq!(by_port(0x8000_0800, 0xCFD), u32::MAX, "not across the data port's end");
    let mut half = [0; 2];
    host.port_read(0xCFE, &mut half);
    assert_eq!(u16::from_le_bytes(half), 0x1042);
    host.port_write(0xCF8, &[0; 2]);
    host.port_read(0xCFC, &mut half);
    assert_eq!(u16::from_le_bytes(half), 0x1AF4, "the address port takes four bytes or nothing");

    let ecam = |offset: u64| {
        let mut data = [0; 4];
        host.ecam_read(offset, &mut data);
        u32::from_le_bytes(data)
    };
    assert_eq!((ecam(0), ecam(0x8000)), (0x0008_1B36, 0x1042_1AF4));
    for nobody in [0x1000, 0x8100, 0x9000, 0x1_0000, 0xF_8000, 0x10_0000, 0x8002, u64::MAX - 3] {
        assert_eq!(ecam(nobody), u32::MAX, "{nobody:#x}");
    }
    bench.end();
}

#[test]
fn a_bar_answers_where_it_is_decoded() {
    let bench = bench(|_, _| None);
    let host = &bench.host;
    let touched = |address| host.mmio_read(address, &mut [0; 4]);
    let places = [
        (0, Touched::Common),
        (0x1000, Touched::Isr),
        (0x2000, Touched::DeviceConfig),
        (0x3000, Touched::Notify),
        (0x4000, Touched::Msix),
        (0x5000, Touched::Msix),
        (0x6000, Touched::Gap),
    ];
    for (offset, area) in places {
        assert_eq!(touched(BAR + offset), Some(area));
    }
    assert_eq!((touched(BAR - 4), touched(BAR + 0x8000)), (None, None));
    host.ecam_write((1 << 15) + 4, &[4, 0]);
    assert_eq!(touched(BAR), None, "decoding is off");
    host.ecam_write((1 << 15) + 0x10, &0xC000_0000_u32.to_le_bytes());
    host.ecam_write((1 << 15) + 0x14, &0_u32.to_le_bytes());
    host.ecam_write((1 << 15) + 4, &[6, 0]);
    assert_eq!((touched(BAR), touched(0xC000_0000)), (None, Some(Touched::Common)));
    bench.end();
}
