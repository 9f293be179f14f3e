//! Guests and programs of the host that mean harm: packets that are none, forged names, more connections than there are
//! places, more data than was allowed.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::front_end::driver::{Driver, MEMORY};
use crate::guest::{CID, Guest, packet};
use crate::wire::{Header, op};
use crate::{Place, accepted, ends_well, patient, port, read, started};

/// Connections that there are places for.
const PLACES: usize = 512;

#[test]
fn packets_that_are_none_change_nothing() {
    let place = Place::new();
    let device = started(&place);
    let mut guest = Guest::new(Driver::new(&device));
    let (mut client, host) = accepted(&place, &mut guest, 1 << 20);
    // Shorter than a header.
    for size in 2..Header::SIZE {
        guest.send_bytes(&packet(op::REQUEST, 1, 2).bytes()[..size]);
    }
    // In another's name, and resets of nobody, are not answered.
    for header in [
        Header { src_cid: 2, ..packet(op::RW, host, 9) },
        Header { src_cid: u64::from(CID) | 1 << 32, ..packet(op::RST, host, 9) },
        Header { src_cid: 0, ..packet(op::REQUEST, 1, 2) },
        packet(op::RST, 1, 2),
        Header { dst_cid: 3, ..packet(op::RST, host, 9) },
        Header { kind: 2, ..packet(op::RST, host, 9) },
    ] {
        guest.send(header, b"");
    }
    assert!(guest.hears_nothing());
    // Of no connection, of another type, and what is no operation, is.
    for header in [
        packet(op::RESPONSE, 1, 2),
        packet(op::RW, 1, 2),
        packet(op::CREDIT_REQUEST, 1, 2),
        packet(op::SHUTDOWN, 1, 2),
        packet(0, 1, 2),
        packet(8, 1, 2),
        packet(u16::MAX, 1, 2),
    ] {
        guest.send(header, b"");
        assert_eq!(guest.expect(op::RST).src_port, 1);
    }
    // A length beyond its buffer.
    for len in [1, 5, u32::MAX] {
        guest.send_as(Header { len, ..packet(op::RW, 1, 2) }, b"");
        assert_eq!(guest.expect(op::RST).src_port, 1);
    }
    // All the while one that keeps to the rules goes on.
    client.write_all(b"unmoved").unwrap();
    assert_eq!(guest.expect_data(host, 9, 7), b"unmoved");
    // A second request for a connection that there is, and an answer that was not asked for, end it.
    for op in [op::REQUEST, op::RESPONSE] {
        let (mut client, host) = accepted(&place, &mut guest, 1 << 20);
        guest.send(packet(op, host, 9), b"");
        assert_eq!(guest.expect(op::RST).src_port, host);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
    ends_well(device);
}

/// What a guest's kernel makes of what is sent without a copy from persistent memory.
#[test]
fn data_in_memory_of_others_ends_its_connection_and_no_other() {
    let place = Place::new();
    let device = started(&place);
    let mut guest = Guest::new(Driver::new(&device));
    let (other, unmoved) = accepted(&place, &mut guest, 1 << 20);
    for beyond in [MEMORY, MEMORY - 8, 20 << 30, u64::MAX - 7] {
        let (client, host) = accepted(&place, &mut guest, 1 << 20);
        guest.send(packet(op::RW, host, 9), b"before");
        guest.send_from_memory_of_others(packet(op::RW, host, 9), beyond);
        while guest.next_of(host, 9).0.op != op::RST {}
        let mut heard = Vec::new();
        let _ = (&client).read_to_end(&mut heard);
        assert_eq!(heard, b"before", "and not what comes after a gap");
        // Of one that there is not, and of none at all.
        guest.send_from_memory_of_others(packet(op::RW, host, 9), beyond);
        assert_eq!(guest.next_of(host, 9).0.op, op::RST);
        guest.send_from_memory_of_others(packet(op::RST, host, 9), beyond);
        guest.send_from_memory_of_others(Header { src_cid: 7, ..packet(op::RW, host, 9) }, beyond);
    }
    guest.send(packet(op::RW, unmoved, 9), b"unmoved");
    assert_eq!(read(&other, 7), b"unmoved");
    ends_well(device);
}

#[test]
fn more_data_than_was_allowed_ends_the_connection() {
    let place = Place::new();
    let device = started(&place);
    let mut guest = Guest::new(Driver::new(&device));
    let (client, host) = accepted(&place, &mut guest, 1 << 20);
    let (other, unmoved) = accepted(&place, &mut guest, 1 << 20);
    let part = [1; 65536];
    // The socket takes the first ones; of a packet without credit nothing is kept.
    let reset = (0..100).any(|_| {
        guest.send(packet(op::RW, host, 9), &part);
        guest.send(packet(op::CREDIT_REQUEST, host, 9), b"");
        // One answer for each packet, of which some may be updates that were not asked for.
        guest.next_of(host, 9).0.op == op::RST
    });
    assert!(reset);
    let mut heard = Vec::new();
    let _ = (&client).read_to_end(&mut heard);
    assert!(heard.iter().all(|byte| *byte == 1));
    guest.send(packet(op::RW, unmoved, 9), b"unmoved");
    assert_eq!(read(&other, 7), b"unmoved");
    ends_well(device);
}

#[test]
fn resets_without_end_are_taken_and_not_answered() {
    let place = Place::new();
    let device = started(&place);
    let mut guest = Guest::new(Driver::new(&device));
    for number in 0..10_000 {
        guest.send(packet(op::RST, number, number), b"");
    }
    assert!(guest.hears_nothing());
    ends_well(device);
}

#[test]
fn a_guest_has_as_many_connections_as_there_are_places() {
    let place = Place::new();
    let listener = place.listen(5);
    let device = started(&place);
    let mut guest = Guest::new(Driver::new(&device));
    let mut servers = Vec::new();
    for number in 0..PLACES {
        assert!(guest.connect(5, u32::try_from(number).unwrap()), "{number}");
        servers.push(listener.accept().unwrap().0);
    }
    assert!(!guest.connect(5, 10_000), "one more");
    let before = device.descriptors();
    // A program of the host that comes now waits for a place.
    let waiting = place.ask(9);
    guest.send(Header { flags: 3, ..packet(op::SHUTDOWN, 5, 17) }, b"");
    assert_eq!(guest.next_of(5, 17).0.op, op::RST);
    let (asked, _) = guest.next();
    assert_eq!((asked.op, asked.dst_port), (op::REQUEST, 9));
    guest.send(packet(op::RST, asked.src_port, 9), b"");
    assert_eq!((&waiting).read(&mut [0]).unwrap(), 0, "the guest refused it");
    assert!(guest.connect(5, 17));
    assert!(!guest.connect(5, 10_000) && device.descriptors() <= before);
    drop(servers);
    for _ in 0..PLACES - 1 {
        let (ended, _) = guest.next();
        assert_eq!((ended.op, ended.flags), (op::SHUTDOWN, 3));
    }
    // They are over but for the guest's last word, which it may owe for ever: others have their places.
    let (mut client, host) = accepted(&place, &mut guest, 1 << 20);
    client.write_all(b"new").unwrap();
    assert_eq!(guest.expect_data(host, 9, 3), b"new");
    ends_well(device);
}

#[test]
fn programs_that_greet_badly_or_not_at_all_are_nobodys_trouble() {
    let place = Place::new();
    let device = started(&place);
    let mut guest = Guest::new(Driver::new(&device));
    let silent: Vec<UnixStream> = (0..100).map(|_| UnixStream::connect(place.path()).unwrap()).collect();
    for nonsense in
        ["GET / HTTP/1.1\r\n\r\n", "CONNECT -1\n", "CONNECT 99999999999\n", "\n\n\n\n\n\n\n\n\n\n"]
    {
        let mut client = patient(UnixStream::connect(place.path()).unwrap());
        client.write_all(nonsense.as_bytes()).unwrap();
        // Closed; with what was not read of it that is a reset.
        assert!(client.read(&mut [0]).map_or(true, |bytes| bytes == 0), "{nonsense}");
    }
    // A greeting in pieces, and the first data right behind it.
    let mut client = patient(UnixStream::connect(place.path()).unwrap());
    for piece in ["CONN", "ECT 9", "\r", "\nfirst"] {
        client.write_all(piece.as_bytes()).unwrap();
    }
    let asked = guest.expect(op::REQUEST);
    guest.send(packet(op::RESPONSE, asked.src_port, 9), b"");
    assert_eq!(guest.expect_data(asked.src_port, 9, 5), b"first");
    assert_eq!(port(&client), asked.src_port);
    drop(silent);
    assert!(guest.hears_nothing());
    ends_well(device);
}
