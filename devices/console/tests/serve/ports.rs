//! Several ports: what a driver is told of them, who speaks on which, and a driver that lies about them.

use std::os::fd::AsFd;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::front_end::driver::wait_for;
use super::*;

const CONTROL_IN: u64 = OUT + 0x10_0000;
const CONTROL_OUT: u64 = OUT + 0x18_0000;
const HEADS: u16 = 32;
const READY: u16 = 0;
const ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE: u16 = 4;
const RESIZE: u16 = 5;
const OPEN: u16 = 6;
const NAME: u16 = 7;

/// A driver's control queues.
struct Control<'a, 'd> {
    driver: &'a Driver<'d>,
    hearing: Queue,
    saying: Queue,
}

impl<'a, 'd> Control<'a, 'd> {
    fn new(driver: &'a Driver<'d>) -> Self {
        let (hearing, saying) = (driver.queue(2, SIZE, 0), driver.queue(3, SIZE, 0));
        let mut control = Self { driver, hearing, saying };
        (0..HEADS).for_each(|head| control.offer(head, 128));
        control
    }

    fn offer(&mut self, head: u16, size: u32) {
        let at = CONTROL_IN + u64::from(head) * 0x1000;
        self.driver.chain(self.hearing.table(), head, &[(at, size, WRITE)]);
        self.driver.offer(&mut self.hearing, &[head]);
    }

    /// Says `bytes` and waits until that was heard.
    fn says_bytes(&mut self, bytes: &[u8]) {
        self.driver.put(CONTROL_OUT, bytes);
        let size = u32::try_from(bytes.len()).unwrap();
        self.driver.chain(self.saying.table(), 0, &[(CONTROL_OUT, size, 0)]);
        self.driver.offer(&mut self.saying, &[0]);
        assert_eq!(self.driver.used(&mut self.saying), (0, 0));
    }

    fn says(&mut self, id: u32, event: u16, value: u16) {
        self.says_bytes(&message(id, event, value, b""));
    }

    /// The next message, whose buffer is offered again.
    fn hears(&mut self) -> Vec<u8> {
        let (head, size) = self.driver.used(&mut self.hearing);
        let head = u16::try_from(head).unwrap();
        let bytes = self.driver.look(CONTROL_IN + u64::from(head) * 0x1000, size as usize);
        self.offer(head, 128);
        bytes
    }

    fn hears_all(&mut self, messages: &[(u32, u16, u16, &[u8])]) {
        for (id, event, value, rest) in messages {
            assert_eq!(self.hears(), message(*id, *event, *value, rest));
        }
    }
}

fn message(id: u32, event: u16, value: u16, rest: &[u8]) -> Vec<u8> {
    [&id.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes(), rest].concat()
}

#[test]
fn a_named_port_is_heard_when_it_is_open_and_told_who_comes_and_goes() {
    let (log, place) = (Place::new(), Place::new());
    let port = format!("--port=agent.0=listen:{}", place.path.display());
    let device = Device::spawn(PROGRAM, &[&log.option("path"), &port, "--size=132x43"]);
    assert_eq!(device.negotiate(0) & 0xff_ffff, 3, "feature bits of the device type");
    assert_eq!(device.get(request::GET_QUEUE_NUM), 6);
    let driver = Driver::new(&device);
    let mut control = Control::new(&driver);
    let (mut receive, mut transmit) = (driver.queue(4, SIZE, 0), driver.queue(5, SIZE, 0));
    let mut console = driver.queue(1, SIZE, 0);
    control.says(u32::MAX, READY, 1);
    control.hears_all(&[(0, ADD, 1, b""), (1, ADD, 1, b"")]);
    control.says(0, PORT_READY, 1);
    control.hears_all(&[(0, CONSOLE, 1, b""), (0, RESIZE, 1, &[132, 0, 43, 0]), (0, OPEN, 1, b"")]);
    control.says(1, PORT_READY, 1);
    control.hears_all(&[(1, NAME, 1, b"agent.0")]);
    offer(&driver, &mut receive, 0..4, 16);
    for _ in 0..3 {
        let mut client = UnixStream::connect(&place.path).unwrap();
        control.hears_all(&[(1, OPEN, 1, b"")]);
        // What is said before the driver has opened the port waits for that.
        client.write_all(b"early").unwrap();
        control.says(9, 9, 9);
        assert!(driver.take_used(&mut receive).is_none());
        control.says(1, OPEN, 1);
        expect_input(&driver, &mut receive, b"early");
        offer(&driver, &mut receive, 0..1, 16);
        write(&driver, &mut transmit, b"to the client");
        assert_eq!(read_exactly(&client, 13), b"to the client");
        drop(client);
        control.hears_all(&[(1, OPEN, 0, b"")]);
        control.says(1, OPEN, 0);
    }
    write(&driver, &mut console, b"to the log");
    assert_eq!(std::fs::read(&log.path).unwrap(), b"to the log");
    ends_well(device);
}

#[test]
fn a_port_that_nobody_reads_keeps_its_output_to_itself() {
    let (log, place) = (Place::new(), Place::new());
    let _reader = place.pipe();
    let device = started(&[&log.option("path"), &format!("--port=full=path:{}", place.path.display())]);
    let driver = Driver::new(&device);
    let (mut console, mut full) = (driver.queue(1, SIZE, 0), driver.queue(5, SIZE, 0));
    let at = OUT + 0x1000;
    for head in 0..SIZE {
        driver.chain(full.table(), head, &[(at, 0x8_0000, 0)]);
    }
    driver.offer(&mut full, &(0..SIZE).collect::<Vec<_>>());
    for line in 0..100 {
        write(&driver, &mut console, format!("line {line:02}\n").as_bytes());
    }
    assert_eq!(std::fs::read(&log.path).unwrap().len(), 800);
    for head in 0..SIZE {
        assert_eq!(driver.used(&mut full), (head.into(), 0));
    }
    let (code, said) = device.end();
    assert_eq!((code, said.lines().count()), (Some(0), 1), "{said}");
}

#[test]
fn control_messages_of_all_kinds_are_harmless_and_what_they_cause_is_bounded() {
    let (log, place) = (Place::new(), Place::new());
    let port = format!("--port=a=path:{}", place.path.display());
    let device = started(&[&log.option("path"), &port]);
    let driver = Driver::new(&device);
    let mut control = Control::new(&driver);
    // Before all else, short, empty but for a byte, long, of ports and events that are none.
    control.says(1, OPEN, 0);
    for size in [1, 7, 9, 4096] {
        control.says_bytes(&vec![0xff; size]);
    }
    for id in [0, 1, 2, 31, u32::MAX] {
        for event in [0, 1, 2, 4, 5, 7, 8, 0x100, u16::MAX] {
            control.says(id, event, 0);
            control.says(id, event, 2);
        }
    }
    // Nothing was to be told; a flood is answered as far as there are buffers for it.
    (0..200).for_each(|id| control.says(id, READY, 1));
    driver.stop(&control.hearing);
    let told = driver.used_index(&control.hearing);
    assert!((2..=HEADS).contains(&told), "{told}");
    // A buffer that holds no message breaks its ring and no other.
    let broken = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
    assert!(device.ask(request::SET_VRING_ERR, &2u64.to_ne_bytes(), &[broken.as_fd()]));
    driver.put(control.hearing.available_ring() + 2, &[0; 2]);
    driver.put(control.hearing.used_ring() + 2, &[0; 2]);
    control.hearing = driver.queue(2, SIZE, 0);
    control.offer(0, 7);
    control.says(u32::MAX, READY, 1);
    assert_eq!(wait_for(&broken), 1);
    let mut console = driver.queue(1, SIZE, 0);
    write(&driver, &mut console, b"an honest one");
    assert_eq!(std::fs::read(&log.path).unwrap(), b"an honest one");
    let (code, said) = device.end();
    assert_eq!((code, said.lines().count()), (Some(0), 1), "{said}");
    assert!(said.contains("too small for a control message"), "{said}");
}
