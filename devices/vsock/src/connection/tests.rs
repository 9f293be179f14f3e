//! What guests and hosts do to a connection, in the orders that matter.

use super::*;
use crate::credit::BUFFER;

const CID: u32 = 3;
const KEY: Key = Key { host: 1000, guest: 2000 };
const ROOM: Room = Room { allocated: 100, forwarded: 0 };

fn packet(request: Request) -> Packet {
    Packet { key: KEY, room: ROOM, request }
}

fn shutdown(receive: bool, send: bool) -> Packet {
    packet(Request::Shutdown(Halves { receive, send }))
}

/// Sends what is due, which must be a packet without data, and returns its operation.
fn sent(connection: &mut Connection) -> Option<(u16, u32)> {
    match connection.due() {
        Some(Due::Packet(op)) => {
            let header = connection.send(op, CID);
            assert_eq!((header.src_port, header.dst_port, header.len), (KEY.host, KEY.guest, 0));
            Some((header.op, header.flags))
        }
        Some(Due::Data(_)) | None => None,
    }
}

fn established() -> Connection {
    let mut connection = Connection::of_guest(KEY, ROOM);
    assert_eq!(sent(&mut connection), Some((op::RESPONSE, 0)));
    connection.host_is_silent();
    assert_eq!(connection.due(), None);
    connection
}

#[test]
fn the_host_asks_and_the_guest_accepts_or_refuses() {
    let mut connection = Connection::of_host(KEY);
    assert!(connection.is_unknown_to_guest());
    assert_eq!(connection.clone().take(&packet(Request::Accept)), Effect::Broken, "before it was asked");
    assert_eq!(sent(&mut connection), Some((op::REQUEST, 0)));
    assert!(!connection.is_unknown_to_guest() && connection.due().is_none());
    assert_eq!(connection.clone().take(&packet(Request::Reset)), Effect::Gone { in_order: false });
    for wrong in [Request::Data(1), Request::Data(0), Request::Connect, Request::Shutdown(Halves::default())]
    {
        assert_eq!(connection.clone().take(&packet(wrong)), Effect::Broken, "{wrong:?}");
    }
    assert_eq!(connection.take(&packet(Request::CreditUpdate)), Effect::None);
    assert_eq!(connection.take(&packet(Request::Accept)), Effect::Accepted);
    assert_eq!(connection.due(), Some(Due::Data(100)), "the host may have spoken already");
    assert_eq!(connection.take(&packet(Request::Accept)), Effect::Broken, "twice");
}

#[test]
fn data_goes_to_the_guest_as_it_has_room() {
    let mut connection = established();
    connection.host_speaks();
    assert_eq!(connection.due(), Some(Due::Data(100)));
    let header = connection.send_data(100, CID);
    assert_eq!((header.op, header.len, header.buf_alloc), (op::RW, 100, BUFFER));
    // Without room it is asked once, and nothing is read.
    assert_eq!((sent(&mut connection), sent(&mut connection)), (Some((op::CREDIT_REQUEST, 0)), None));
    assert_eq!(connection.due(), None);
    let room = Room { allocated: 100, forwarded: 70 };
    assert_eq!(connection.take(&Packet { room, ..packet(Request::CreditUpdate) }), Effect::None);
    assert_eq!(connection.due(), Some(Due::Data(70)));
    connection.host_is_silent();
    assert_eq!(connection.due(), None);
}

#[test]
fn a_guest_that_sends_more_than_it_may_is_reset() {
    let mut connection = established();
    let most = BUFFER as usize;
    assert_eq!(connection.clone().take(&packet(Request::Data(most + 1))), Effect::Broken);
    assert_eq!(connection.clone().take(&packet(Request::Data(usize::MAX))), Effect::Broken);
    assert_eq!(connection.take(&packet(Request::Data(most))), Effect::Deliver(most));
    assert_eq!(connection.clone().take(&packet(Request::Data(1))), Effect::Broken);
    connection.forwarded(1);
    assert_eq!(sent(&mut connection), Some((op::CREDIT_UPDATE, 0)));
    assert_eq!(connection.take(&packet(Request::Data(1))), Effect::Deliver(1));
}

#[test]
fn room_is_told_when_it_is_asked_for() {
    let mut connection = established();
    assert_eq!(connection.take(&packet(Request::AskForRoom)), Effect::None);
    assert_eq!((sent(&mut connection), sent(&mut connection)), (Some((op::CREDIT_UPDATE, 0)), None));
    // Any packet tells it.
    connection.take(&packet(Request::AskForRoom));
    connection.send_data(1, CID);
    assert_eq!(connection.due(), None);
}

#[test]
fn halves_of_the_guest_are_shut_one_by_one() {
    let mut connection = established();
    assert_eq!(connection.take(&packet(Request::Data(5))), Effect::Deliver(5));
    assert_eq!(connection.take(&shutdown(false, true)), Effect::None);
    assert_eq!(
        connection.clone().take(&packet(Request::Data(1))),
        Effect::Broken,
        "it said that it would not"
    );
    connection.host_speaks();
    assert_eq!(connection.due(), Some(Due::Data(100)), "the other half is open");
    assert_eq!(connection.take(&shutdown(true, false)), Effect::None);
    assert_eq!(connection.due(), None, "nobody reads it");
    assert!(connection.guest().both() && !connection.is_finished(), "the host does not have all");
    connection.forwarded(5);
    assert!(connection.is_finished());
}

#[test]
fn a_guest_that_goes_in_order_has_what_it_sent_delivered() {
    let mut connection = established();
    assert_eq!(connection.clone().take(&packet(Request::Reset)), Effect::Gone { in_order: false });
    connection.take(&shutdown(true, true));
    assert_eq!(connection.take(&packet(Request::Reset)), Effect::Gone { in_order: true });
}

#[test]
fn the_guest_is_told_what_the_host_shuts() {
    let mut connection = established();
    connection.host_ended();
    assert_eq!((sent(&mut connection), sent(&mut connection)), (Some((op::SHUTDOWN, 2)), None));
    assert_eq!(connection.take(&packet(Request::Data(7))), Effect::Deliver(7), "the other half is open");
    assert!(!connection.is_lingering());
    connection.host_refuses();
    assert_eq!((sent(&mut connection), sent(&mut connection)), (Some((op::SHUTDOWN, 3)), None));
    assert!(connection.is_lingering() && !connection.is_finished());
    // What was on its way is nobody's, and breaks nothing.
    for _ in 0..10 {
        assert_eq!(connection.take(&packet(Request::Data(BUFFER as usize))), Effect::None);
    }
    connection.take(&shutdown(true, true));
    assert!(connection.is_finished());
}

#[test]
fn a_host_that_takes_nothing_any_more_frees_the_guest() {
    let mut connection = established();
    assert_eq!(connection.take(&packet(Request::Data(BUFFER as usize))), Effect::Deliver(BUFFER as usize));
    connection.host_refuses();
    assert_eq!(sent(&mut connection), Some((op::SHUTDOWN, 1)), "with its room");
    connection.host_speaks();
    assert_eq!(connection.due(), Some(Due::Data(100)), "the other half is open");
}

#[test]
fn no_sequence_of_packets_does_more_than_end_it() {
    let halves = |receive, send| Request::Shutdown(Halves { receive, send });
    let requests = [
        Request::Connect,
        Request::Accept,
        Request::Reset,
        halves(true, false),
        halves(false, true),
        Request::Data(0),
        Request::Data(40000),
        Request::CreditUpdate,
        Request::AskForRoom,
    ];
    let rooms = [(0, 0), (1, 0), (u32::MAX, 0), (0, u32::MAX), (u32::MAX, u32::MAX), (70000, 1 << 31)];
    // All sequences of five packets, each with another lie about room, for each beginning.
    for begin in [Connection::of_host(KEY), Connection::of_guest(KEY, ROOM), established()] {
        for number in 0..requests.len().pow(5) {
            let mut connection = begin.clone();
            let mut delivered = 0;
            for step in 0..5u32 {
                let request = requests[number / requests.len().pow(step) % requests.len()];
                let (allocated, forwarded) = rooms[(number + step as usize) % rooms.len()];
                let effect =
                    connection.take(&Packet { key: KEY, room: Room { allocated, forwarded }, request });
                match effect {
                    Effect::Deliver(bytes) => delivered += bytes,
                    Effect::Broken | Effect::Gone { .. } => break,
                    Effect::None | Effect::Accepted => {}
                }
                assert!(delivered <= BUFFER as usize, "{number}: more than there is room for");
                if let Some(Due::Packet(op)) = connection.due() {
                    connection.send(op, CID);
                }
            }
        }
    }
}
