//! The real `device-vsock`, confined as always, between programs of the host and a driver written by hand.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test says what it expects by failing"
)]

#[path = "../../../backend/tests/front_end/mod.rs"]
#[expect(dead_code, reason = "a device needs a part of it")]
mod front_end;
mod guest;
mod hostile;
#[path = "../../../backend/tests/hostile_front_end/mod.rs"]
mod hostile_front_end;
#[path = "../../src/wire.rs"]
#[expect(dead_code, reason = "a driver needs a part of it")]
mod wire;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use front_end::driver::Driver;
use front_end::{Device, request, state};
use guest::{Guest, packet};
use wire::{Header, op};

const PROGRAM: &str = env!("CARGO_BIN_EXE_device-vsock");
const SIZE: u16 = 64;
const MANY: u32 = 200;

/// A directory with the socket of a vsock in it, and another one beside it that must never be reached.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sockets")).unwrap();
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("sockets/vm")
    }

    /// Somebody who listens at a port of the host.
    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.folder.path().join(format!("sockets/vm_{port}"))).unwrap()
    }

    /// A program that wants a port of the guest.
    fn ask(&self, port: u32) -> UnixStream {
        let mut stream = patient(UnixStream::connect(self.path()).unwrap());
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        stream
    }
}

/// What does not come fails instead of hanging.
fn patient(stream: UnixStream) -> UnixStream {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

fn started(place: &Place) -> Device {
    let path = format!("--path={}", place.path().display());
    let device = Device::spawn(PROGRAM, &[path.as_str(), "--cid=42"]);
    device.negotiate(0);
    device
}

fn ends_well(device: Device) {
    assert_eq!(device.end(), (Some(0), String::new()));
}

/// The answer to a greeting, as the host's port of the connection.
fn port(stream: &UnixStream) -> u32 {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") {
        (&mut &*stream).read_exact(&mut byte).unwrap();
        line.extend(byte);
    }
    let line = String::from_utf8(line).unwrap();
    line.trim_end().strip_prefix("OK ").expect(&line).parse().unwrap()
}

fn read(mut stream: &UnixStream, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// A connection that a program of the host asked for and the guest accepted.
fn accepted(place: &Place, guest: &mut Guest<'_>, room: u32) -> (UnixStream, u32) {
    let stream = place.ask(9);
    let asked = loop {
        // Another one may be told of its credit.
        match guest.next().0 {
            told if told.op == op::CREDIT_UPDATE => {}
            asked => break asked,
        }
    };
    assert_eq!((asked.op, asked.dst_port), (op::REQUEST, 9));
    let answer = Header { buf_alloc: room, ..packet(op::RESPONSE, asked.src_port, 9) };
    guest.send(answer, b"");
    assert_eq!(port(&stream), asked.src_port);
    (stream, asked.src_port)
}

fn text(number: u32) -> Vec<u8> {
    format!("{number} ").repeat(500 + number as usize).into_bytes()
}

/// A fresh program for each of what a hostile front end does.
fn under_attack(_test: &str, attack: fn(hostile_front_end::Start<'_>)) {
    let place = Place::new();
    let path = format!("--path={}", place.path().display());
    attack(&|| Device::spawn(PROGRAM, &[&path, "--cid=42"]));
}

hostile_front_end::attacks!(under_attack);

#[test]
fn many_programs_of_the_host_reach_ports_of_the_guest() {
    let place = Place::new();
    let device = started(&place);
    let mut guest = Guest::new(Driver::new(&device));
    let clients: Vec<UnixStream> = (0..MANY).map(|number| place.ask(1000 + number)).collect();
    for _ in 0..MANY {
        let asked = guest.expect(op::REQUEST);
        guest.send(packet(op::RESPONSE, asked.src_port, asked.dst_port), b"");
    }
    let ports: Vec<u32> = clients.iter().map(port).collect();
    for (number, mut client) in (0..).zip(&clients) {
        client.write_all(&text(number)).unwrap();
    }
    for (number, host) in (0..).zip(&ports) {
        let said = guest.expect_data(*host, 1000 + number, text(number).len());
        assert_eq!(said, text(number));
        guest.send(packet(op::RW, *host, 1000 + number), &said);
    }
    for (number, client) in (0..).zip(&clients) {
        assert_eq!(read(client, text(number).len()), text(number));
    }
    drop(clients);
    for _ in 0..MANY {
        let (ended, _) = guest.next();
        assert_eq!((ended.op, ended.flags), (op::SHUTDOWN, 3));
        guest.send(packet(op::RST, ended.src_port, ended.dst_port), b"");
    }
    assert!(guest.hears_nothing());
    assert_eq!(guest.stop(), 0, "no event without a predecessor");
    ends_well(device);
}

#[test]
fn a_guest_reaches_many_sockets_beside_its_own_and_no_other() {
    let place = Place::new();
    let listener = place.listen(1024);
    let outside = place.folder.path().join("outside");
    let _outside = UnixListener::bind(&outside).unwrap();
    for (port, to) in [(1, outside.clone()), (2, PathBuf::from("../outside"))] {
        std::os::unix::fs::symlink(to, place.folder.path().join(format!("sockets/vm_{port}"))).unwrap();
    }
    std::fs::write(place.folder.path().join("sockets/vm_3"), "a file").unwrap();
    drop(place.listen(4));
    let device = started(&place);
    let mut guest = Guest::new(Driver::new(&device));
    for refused in [0, 1, 2, 3, 4, 1025, u32::MAX] {
        assert!(!guest.connect(refused, 7), "{refused}");
    }
    let mut servers = BTreeMap::new();
    for number in 0..MANY {
        assert!(guest.connect(1024, number));
        servers.insert(number, patient(listener.accept().unwrap().0));
    }
    for number in 0..MANY {
        guest.send(packet(op::RW, 1024, number), &text(number));
    }
    for (number, mut server) in &servers {
        let heard = read(server, text(*number).len());
        assert_eq!(heard, text(*number));
        server.write_all(&heard).unwrap();
    }
    for number in 0..MANY {
        assert_eq!(guest.expect_data(1024, number, text(number).len()), text(number));
    }
    for (number, server) in servers {
        guest.send(Header { flags: 3, ..packet(op::SHUTDOWN, 1024, number) }, b"");
        assert_eq!(guest.next_of(1024, number).0.op, op::RST);
        assert_eq!((&server).read(&mut [0]).unwrap(), 0, "its end");
    }
    assert!(guest.hears_nothing());
    ends_well(device);
}

#[test]
fn each_half_ends_by_itself_and_after_what_was_sent() {
    let place = Place::new();
    let device = started(&place);
    let mut guest = Guest::new(Driver::new(&device));
    let (mut client, host) = accepted(&place, &mut guest, 1 << 20);
    client.write_all(b"the last words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.expect_data(host, 9, 14), b"the last words");
    let ended = guest.expect(op::SHUTDOWN);
    assert_eq!(ended.flags, 2, "it sends nothing any more, and receives");
    guest.send(packet(op::RW, host, 9), b"an answer");
    assert_eq!(read(&client, 9), b"an answer");
    guest.send(Header { flags: 2, ..packet(op::SHUTDOWN, host, 9) }, b"");
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    // Nothing is left of it, whoever of the program's side says so.
    assert_eq!(guest.expect(op::SHUTDOWN).flags, 3);
    guest.send(Header { flags: 1, ..packet(op::SHUTDOWN, host, 9) }, b"");
    assert_eq!(guest.expect(op::RST).src_port, host);
    // The guest first, and with nothing to say: what the program says still arrives.
    let (mut client, host) = accepted(&place, &mut guest, 1 << 20);
    guest.send(Header { flags: 2, ..packet(op::SHUTDOWN, host, 9) }, b"");
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    client.write_all(b"still heard").unwrap();
    assert_eq!(guest.expect_data(host, 9, 11), b"still heard");
    // Who will not receive is not written to.
    guest.send(Header { flags: 1, ..packet(op::SHUTDOWN, host, 9) }, b"");
    assert_eq!(guest.expect(op::RST).src_port, host);
    let error = client.write_all(b"to nobody").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    // Data after the end breaks the rules.
    let (_client, host) = accepted(&place, &mut guest, 1 << 20);
    guest.send(Header { flags: 2, ..packet(op::SHUTDOWN, host, 9) }, b"");
    guest.send(packet(op::RW, host, 9), b"x");
    assert_eq!(guest.expect(op::RST).src_port, host);
    assert!(guest.hears_nothing());
    ends_well(device);
}

#[test]
fn a_program_that_does_not_read_costs_its_own_connection_only() {
    let place = Place::new();
    let device = started(&place);
    let mut guest = Guest::new(Driver::new(&device));
    let (client, host) = accepted(&place, &mut guest, 1 << 20);
    let part: Vec<u8> = (0..4096u32).map(|at| (at % 251) as u8).collect();
    let (mut sent, mut forwarded) = (0u32, 0u32);
    // As much as the guest has credit for, until it gets no more.
    loop {
        while sent - forwarded + 4096 <= 65536 {
            guest.send(packet(op::RW, host, 9), &part);
            sent += 4096;
        }
        guest.send(packet(op::CREDIT_REQUEST, host, 9), b"");
        // Perhaps one that was not asked for, and is older.
        let (told, _) = guest.next_of(host, 9);
        assert_eq!((told.op, told.buf_alloc), (op::CREDIT_UPDATE, 65536));
        if told.fwd_cnt == forwarded {
            break;
        }
        forwarded = told.fwd_cnt;
    }
    assert!(sent > 65536, "what the socket takes, and what waits");
    // Others go on.
    let (mut other, port) = accepted(&place, &mut guest, 1 << 20);
    other.write_all(b"hello").unwrap();
    assert_eq!(guest.expect_data(port, 9, 5), b"hello");
    // It reads at last, all of it in order.
    let heard = read(&client, sent as usize);
    assert!(heard.chunks(4096).all(|chunk| chunk == part));
    while forwarded != sent {
        guest.send(packet(op::CREDIT_REQUEST, host, 9), b"");
        forwarded = guest.next_of(host, 9).0.fwd_cnt;
    }
    guest.send(packet(op::RW, host, 9), b"and on");
    assert_eq!(read(&client, 6), b"and on");
    ends_well(device);
}

#[test]
fn what_the_guest_sent_before_it_went_arrives() {
    let place = Place::new();
    let device = started(&place);
    let mut guest = Guest::new(Driver::new(&device));
    let (client, host) = accepted(&place, &mut guest, 1 << 20);
    let mut sent = 0;
    // More than a socket takes at once.
    loop {
        guest.send(packet(op::RW, host, 9), &[7; 4096]);
        sent += 4096;
        guest.send(packet(op::CREDIT_REQUEST, host, 9), b"");
        let (told, _) = guest.next_of(host, 9);
        if told.fwd_cnt < sent {
            break;
        }
    }
    guest.send(Header { flags: 3, ..packet(op::SHUTDOWN, host, 9) }, b"");
    guest.send(packet(op::RST, host, 9), b"");
    assert!(guest.hears_nothing(), "it is over for the guest");
    let mut heard = Vec::new();
    (&client).read_to_end(&mut heard).unwrap();
    assert_eq!(heard.len(), sent as usize);
    ends_well(device);
}

#[test]
fn a_guest_is_sent_no_more_than_it_has_room_for() {
    let place = Place::new();
    let device = started(&place);
    let mut guest = Guest::new(Driver::new(&device));
    let (mut client, host) = accepted(&place, &mut guest, 100);
    client.write_all(&[5; 250]).unwrap();
    assert_eq!(guest.expect_data(host, 9, 100), [5; 100]);
    guest.expect(op::CREDIT_REQUEST);
    assert!(guest.hears_nothing());
    let update =
        |forwarded| Header { buf_alloc: 100, fwd_cnt: forwarded, ..packet(op::CREDIT_UPDATE, host, 9) };
    guest.send(update(30), b"");
    assert_eq!(guest.expect_data(host, 9, 30), [5; 30]);
    guest.expect(op::CREDIT_REQUEST);
    // It takes room back, and lies.
    guest.send(Header { buf_alloc: 10, ..update(60) }, b"");
    guest.send(update(131), b"");
    guest.send(update(u32::MAX), b"");
    assert!(guest.hears_nothing());
    guest.send(update(130), b"");
    assert_eq!(guest.expect_data(host, 9, 100), [5; 100]);
    guest.expect(op::CREDIT_REQUEST);
    guest.send(update(230), b"");
    assert_eq!(guest.expect_data(host, 9, 20), [5; 20]);
    assert!(guest.hears_nothing());
    ends_well(device);
}

#[test]
fn there_are_three_queues_and_the_guests_identifier() {
    let place = Place::new();
    let device = started(&place);
    assert_eq!(device.get(request::GET_FEATURES) & 0xff_ffff, 1);
    assert_eq!(device.get(request::GET_QUEUE_NUM), 3);
    assert!(!device.ask(request::SET_VRING_NUM, &state(3, 4), &[]), "a fourth ring");
    let asked = [0u32, 8, 0].iter().flat_map(|word| word.to_ne_bytes()).chain([0; 8]).collect::<Vec<_>>();
    device.send(request::GET_CONFIG, 1, &asked, &[]);
    assert_eq!(device.reply(request::GET_CONFIG).unwrap()[12..], [42, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(device.end().0, Some(0));
}

#[test]
fn what_cannot_be_used_is_one_line_and_a_code() {
    let place = Place::new();
    let run = |arguments: &[&str]| {
        let output = Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let to = "--socket-path=/nowhere/at/all";
    let path = format!("--path={}", place.path().display());
    let long = format!("--path=/{}", "x".repeat(96));
    let cases: [(&[&str], i32, &str); 8] = [
        (&[to, "--cid=3"], 2, "--path=PATH"),
        (&[to, &path], 2, "--cid=N"),
        (&[to, &path, "--cid=2"], 2, "3 to 4294967294"),
        (&[to, &path, "--cid=4294967295"], 2, "3 to 4294967294"),
        (&[to, &path, "--cid=x"], 2, "x"),
        (&[to, "--cid=3", &long], 2, "longer than 96 bytes"),
        (&[to, "--cid=3", "--path=/nowhere/at/all"], 3, "No such file"),
        (&[to, "--cid=3", "--path=/"], 2, "does not end with a name"),
    ];
    for (arguments, code, part) in cases {
        let (ended, said) = run(arguments);
        assert_eq!((ended, said.lines().count()), (Some(code), 1), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
    assert_eq!(
        run(&["--print-capabilities"]),
        (Some(0), "{\"type\":\"vsock\",\"features\":[]}\n".to_owned())
    );
    assert!(run(&["--help"]).1.contains("--cid"));
}
