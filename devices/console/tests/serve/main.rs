//! The real `device-console`, confined as always, between the host's descriptors and a driver written by hand.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test says what it expects by failing"
)]

#[path = "../../../backend/tests/front_end/mod.rs"]
#[expect(dead_code, reason = "a device needs a part of it")]
#[expect(clippy::panic, reason = "as above")]
mod front_end;
mod hostile;
#[path = "../../../backend/tests/hostile_front_end/mod.rs"]
#[expect(clippy::panic, reason = "as above")]
mod hostile_front_end;
mod ports;
mod restarts;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use front_end::driver::{BUFFERS, Driver, Queue, WRITE};
use front_end::{Device, request, state};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

const PROGRAM: &str = env!("CARGO_BIN_EXE_device-console");
/// Buffers of the transmit queue; those of the receive queue come before.
const OUT: u64 = BUFFERS + 0x20_0000;
const SIZE: u16 = 64;

/// A folder with a place for a console in it.
struct Place {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { path: folder.path().join("console"), _folder: folder }
    }

    fn option(&self, name: &str) -> String {
        format!("--{name}={}", self.path.display())
    }

    /// A pipe there, and its end for reading.
    fn pipe(&self) -> File {
        nix::unistd::mkfifo(&self.path, Mode::S_IRWXU).unwrap();
        let flags = OFlag::O_NONBLOCK.bits();
        File::options().read(true).custom_flags(flags).open(&self.path).unwrap()
    }
}

fn started(arguments: &[&str]) -> Device {
    let device = Device::spawn(PROGRAM, arguments);
    device.negotiate(0);
    device
}

/// Writes `text` as the driver and waits until it comes back.
fn write(driver: &Driver<'_>, transmit: &mut Queue, text: &[u8]) {
    driver.put(OUT, text);
    let size = u32::try_from(text.len()).unwrap();
    // In two pieces, one of them of one byte.
    driver.chain(transmit.table(), 0, &[(OUT, 1, 0), (OUT + 1, size - 1, 0)]);
    driver.offer(transmit, &[0]);
    assert_eq!(driver.used(transmit), (0, 0));
}

/// Where receive buffer `head` is.
fn buffer(head: u16) -> u64 {
    BUFFERS + u64::from(head) * 0x1000
}

fn offer(driver: &Driver<'_>, receive: &mut Queue, heads: std::ops::Range<u16>, bytes: u32) {
    for head in heads.clone() {
        driver.chain(receive.table(), head, &[(buffer(head), bytes, WRITE)]);
    }
    driver.offer(receive, &heads.collect::<Vec<_>>());
}

/// As many bytes as `text` has, as they come.
fn expect_input(driver: &Driver<'_>, receive: &mut Queue, text: &[u8]) {
    let mut got = Vec::new();
    while got.len() < text.len() {
        let (head, size) = driver.used(receive);
        got.extend(driver.look(buffer(u16::try_from(head).unwrap()), size as usize));
    }
    assert_eq!(got, text);
}

fn read_exactly(mut stream: impl Read + AsFd, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let mut at = 0;
    while at < size {
        let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(20_000u16)), Ok(1), "{at} of {size} bytes within 20 s");
        let count = stream.read(&mut bytes[at..]).unwrap();
        assert_ne!(count, 0, "it ended after {at} of {size} bytes");
        at += count;
    }
    bytes
}

fn ends_well(device: Device) {
    assert_eq!(device.end(), (Some(0), String::new()));
}

/// Bytes go both ways between the driver and `host`.
fn converse(device: &Device, host: impl Read + Write + AsFd + Copy) {
    let driver = Driver::new(device);
    let (mut receive, mut transmit) = (driver.queue(0, SIZE, 0), driver.queue(1, SIZE, 0));
    speak(&driver, &mut receive, &mut transmit, host);
    assert_eq!((driver.stop(&receive), driver.stop(&transmit)), (receive.used.into(), transmit.used.into()));
}

fn speak(
    driver: &Driver<'_>,
    receive: &mut Queue,
    transmit: &mut Queue,
    mut host: impl Read + Write + AsFd + Copy,
) {
    for round in 0..100u32 {
        let text = format!("line {round} of the guest\r\n");
        write(driver, transmit, text.as_bytes());
        assert_eq!(read_exactly(host, text.len()), text.as_bytes());
        offer(driver, receive, 0..4, 16);
        let typed = format!("typed {round}\0\u{3}");
        host.write_all(typed.as_bytes()).unwrap();
        expect_input(driver, receive, typed.as_bytes());
        // What was not filled is the device's still: take it back by filling it.
        let unused = receive.available.wrapping_sub(receive.used);
        for _ in 0..unused {
            host.write_all(b"x").unwrap();
            expect_input(driver, receive, b"x");
        }
    }
}

/// A fresh program for each of what a hostile front end does.
fn under_attack(_test: &str, attack: fn(hostile_front_end::Start<'_>)) {
    let place = Place::new();
    attack(&|| Device::spawn(PROGRAM, &[&place.option("path")]));
}

hostile_front_end::attacks!(under_attack);

#[test]
fn a_connected_socket_is_a_console() {
    let place = Place::new();
    let listener = UnixListener::bind(&place.path).unwrap();
    let device = started(&[&place.option("connect")]);
    let (host, _) = listener.accept().unwrap();
    converse(&device, &host);
    // Whoever ends his side leaves the guest without input, not without output.
    let driver = Driver::new(&device);
    let (mut receive, mut transmit) = (driver.queue(0, SIZE, 0), driver.queue(1, SIZE, 0));
    offer(&driver, &mut receive, 0..4, 16);
    host.shutdown(std::net::Shutdown::Write).unwrap();
    // Another thread than that of the output sees it, and may be late.
    assert_eq!(device.line(), "no more input for the guest: its end");
    write(&driver, &mut transmit, b"still heard");
    assert_eq!(read_exactly(&host, 11), b"still heard");
    drop(host);
    write(&driver, &mut transmit, b"by nobody");
    driver.stop(&receive);
    let (code, log) = device.end();
    assert_eq!((code, log.lines().count()), (Some(0), 1), "{log}");
    assert!(log.contains("is dropped"), "{log}");
}

#[test]
fn clients_come_and_go() {
    let place = Place::new();
    let device = started(&[&place.option("listen")]);
    let driver = Driver::new(&device);
    let (mut receive, mut transmit) = (driver.queue(0, SIZE, 0), driver.queue(1, SIZE, 0));
    write(&driver, &mut transmit, b"to nobody");
    for _ in 0..3 {
        let mut client = UnixStream::connect(&place.path).unwrap();
        // Accepted when there is a buffer for what it says, which is seen by its being heard.
        offer(&driver, &mut receive, 0..1, 16);
        client.write_all(b"hello").unwrap();
        expect_input(&driver, &mut receive, b"hello");
        speak(&driver, &mut receive, &mut transmit, &client);
        drop(client);
    }
    let (code, log) = device.end();
    assert_eq!(
        (code, log.lines().next()),
        (Some(0), Some("output of the guest is dropped: nobody is connected"))
    );
}

#[test]
fn a_pseudoterminal_is_a_console_that_nobody_needs_to_have_open() {
    let mut device = Device::spawn(PROGRAM, &["--pty"]);
    let mut log = BufReader::new(device.child.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    let path = line.trim().strip_prefix("the console is at ").expect("where it is").to_owned();
    device.child.stderr = Some(log.into_inner());
    device.negotiate(0);
    let driver = Driver::new(&device);
    let (mut receive, mut transmit) = (driver.queue(0, SIZE, 0), driver.queue(1, SIZE, 0));
    write(&driver, &mut transmit, b"before anybody looks\n");
    offer(&driver, &mut receive, 0..1, 16);
    for round in 0..2 {
        let flags = OFlag::O_NOCTTY.bits();
        let terminal = File::options().read(true).write(true).custom_flags(flags).open(&path).unwrap();
        if round == 0 {
            assert_eq!(read_exactly(&terminal, 21), b"before anybody looks\n");
        }
        (&terminal).write_all(b"typed").unwrap();
        expect_input(&driver, &mut receive, b"typed");
        speak(&driver, &mut receive, &mut transmit, &terminal);
        offer(&driver, &mut receive, 0..1, 16);
    }
    ends_well(device);
}

#[test]
fn a_file_gets_the_output_at_its_end_and_never_speaks() {
    let place = Place::new();
    std::fs::write(&place.path, b"before\n").unwrap();
    let device = started(&[&place.option("path"), "--file-limit=20"]);
    let driver = Driver::new(&device);
    let (mut receive, mut transmit) = (driver.queue(0, SIZE, 0), driver.queue(1, SIZE, 0));
    offer(&driver, &mut receive, 0..4, 16);
    write(&driver, &mut transmit, b"boot log\n");
    assert_eq!(std::fs::read(&place.path).unwrap(), b"before\nboot log\n", "as soon as it is acknowledged");
    write(&driver, &mut transmit, b"too much of it\n");
    assert_eq!(driver.stop(&receive), 0, "nothing was taken");
    assert_eq!(std::fs::read(&place.path).unwrap(), b"before\nboot log\ntoo ");
    let (code, log) = device.end();
    let said = "output of the guest is dropped: its file has reached its limit of 20 bytes\n";
    assert_eq!((code, log.as_str()), (Some(0), said));
}

#[test]
fn there_are_two_queues_and_a_size_if_one_is_given() {
    let place = Place::new();
    for (arguments, feature, config) in [(&["--size=132x43"][..], 1, [132, 0, 43, 0]), (&[], 1, [0; 4])] {
        let device = Device::spawn(PROGRAM, &[&[place.option("path").as_str()], arguments].concat());
        assert_eq!(device.negotiate(0) & 0xff_ffff, feature, "feature bits of the device type");
        assert_eq!(device.get(request::GET_QUEUE_NUM), 2);
        assert!(!device.ask(request::SET_VRING_NUM, &state(2, 4), &[]), "a third ring");
        let read =
            [0u32, 12, 0].iter().flat_map(|word| word.to_ne_bytes()).chain([0; 12]).collect::<Vec<_>>();
        device.send(request::GET_CONFIG, 1, &read, &[]);
        let got = device.reply(request::GET_CONFIG).unwrap();
        assert_eq!(got[12..], [&config[..], &[1, 0, 0, 0, 0, 0, 0, 0]].concat());
        assert_eq!(device.end().0, Some(0));
    }
}

#[test]
fn places_that_cannot_be_used_are_one_line_and_a_code() {
    let place = Place::new();
    let run = |arguments: &[&str]| {
        let output = Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let to = "--socket-path=/nowhere/at/all";
    let (connect, path) = (place.option("connect"), place.option("path"));
    let cases: [(&[&str], i32, &str); 9] = [
        (&[to], 2, "--listen=PATH"),
        (&[to, &path, "--pty"], 2, "one of"),
        (&[to, &path, "--size=80"], 2, "80x24"),
        (&[to, &path, "--file-limit=x"], 2, "x"),
        (&[to, &path, "--serial=x"], 2, "serial"),
        (&[to, &connect], 3, "No such file"),
        (&[to, "--path=/"], 3, "neither a file"),
        (&[to, "--path=/nowhere/at/all"], 3, "No such file"),
        (&[to, "--listen=/nowhere/at/all"], 3, "cannot listen"),
    ];
    for (arguments, code, part) in cases {
        let (ended, said) = run(arguments);
        assert_eq!((ended, said.lines().count()), (Some(code), 1), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
    assert_eq!(
        run(&["--print-capabilities"]),
        (Some(0), "{\"type\":\"console\",\"features\":[]}\n".to_owned())
    );
    assert!(run(&["--help"]).1.contains("--file-limit"));
}
