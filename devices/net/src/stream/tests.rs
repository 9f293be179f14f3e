//! A stream whose peer arrives in parts, lies, closes, or does not read.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, sendmsg, setsockopt};
use vm_memory::VolatileSlice;

use super::*;

fn pair() -> (Stream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Stream::new(ours.into()).unwrap(), theirs)
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&u32::try_from(frame.len()).unwrap().to_be_bytes(), frame].concat()
}

/// What comes of looking, and of `room` bytes of room what is there then.
fn receive(stream: &Stream, room: usize) -> (Received, Vec<u8>) {
    let mut bytes = vec![0; room];
    let slices: Vec<_> = bytes.chunks_mut(100).map(VolatileSlice::from).collect();
    let received = stream.receive(Writer::new(&slices), true, &mut discarded());
    drop(slices);
    (received, bytes)
}

fn send(stream: &Stream, frame: &[u8]) -> Sent {
    let (ethernet, rest) = frame.split_first_chunk().unwrap();
    let mut rest = rest.to_vec();
    let slices: Vec<_> = rest.chunks_mut(1000).map(VolatileSlice::from).collect();
    let front = front(*ethernet, frame.len()).unwrap();
    stream.send(&front, &Reader::new(&slices))
}

/// Whether somebody who waits for arrivals would go on.
fn wakes(stream: &Stream) -> bool {
    let mut fds = [PollFd::new(stream.arrivals(), PollFlags::POLLIN)];
    ppoll(&mut fds, Some(TimeSpec::from(std::time::Duration::ZERO)), None).unwrap() > 0
}

fn told(stream: &Stream) -> bool {
    stream.changes.read().is_ok()
}

#[test]
fn a_frame_is_taken_once_it_has_arrived_whole() {
    let (stream, mut theirs) = pair();
    let frame: Vec<u8> = (0..200).collect();
    for (at, byte) in framed(&frame).iter().enumerate() {
        assert_eq!(receive(&stream, 300).0, Received::None, "{at}");
        assert!(!wakes(&stream), "nobody spins on a part of a frame");
        assert_eq!(bytes_waiting(&stream.socket), Ok(at), "and no part is taken");
        theirs.write_all(&[*byte]).unwrap();
        assert!(wakes(&stream));
    }
    let (received, bytes) = receive(&stream, 300);
    assert_eq!((received, &bytes[..200], &bytes[200..]), (Received::Frame(200), &frame[..], &[0; 100][..]));
    assert_eq!(receive(&stream, 300).0, Received::None);
    assert!(!wakes(&stream) && stream.is_open() && !told(&stream));
}

#[test]
fn frames_that_come_at_once_are_taken_one_by_one() {
    let (stream, mut theirs) = pair();
    theirs.write_all(&[framed(&[1; 60]), framed(&[2; 70]), framed(&[3; 80])].concat()).unwrap();
    for (number, size) in [(1, 60), (2, 70), (3, 80)] {
        let (received, bytes) = receive(&stream, 80);
        assert_eq!((received, &bytes[..size]), (Received::Frame(size), &vec![number; size][..]));
    }
    assert_eq!(receive(&stream, 80).0, Received::None);
}

#[test]
fn what_does_not_fit_or_is_not_wanted_is_taken_whole() {
    let (stream, mut theirs) = pair();
    theirs.write_all(&[framed(&[1; 101]), framed(&vec![2; frame::MOST])].concat()).unwrap();
    theirs.write_all(&framed(&[3; 100])).unwrap();
    assert_eq!(receive(&stream, 100).0, Received::Dropped);
    assert_eq!(receive(&stream, 100).0, Received::Dropped);
    let nothing = stream.receive(Writer::new(&[]), false, &mut discarded());
    assert_eq!((nothing, bytes_waiting(&stream.socket)), (Received::Dropped, Ok(0)));
    // In more pieces than one call takes.
    theirs.write_all(&framed(&[4; 1000])).unwrap();
    let mut bytes = [0; 1000];
    let slices: Vec<_> = bytes.chunks_mut(1).map(VolatileSlice::from).collect();
    assert_eq!(stream.receive(Writer::new(&slices), true, &mut discarded()), Received::Dropped);
    assert_eq!((bytes_waiting(&stream.socket), stream.is_open()), (Ok(0), true));
}

#[test]
fn a_length_that_no_frame_has_ends_the_link_once() {
    for wrong in [0, u32::try_from(frame::MOST).unwrap() + 1, 0x7fff_ffff, u32::MAX] {
        let (stream, mut theirs) = pair();
        theirs.write_all(&[&framed(&[1; 60])[..], &wrong.to_be_bytes(), &[0; 100]].concat()).unwrap();
        assert_eq!(receive(&stream, 100).0, Received::Frame(60));
        assert_eq!(receive(&stream, 100).0, Received::None);
        assert!(!stream.is_open() && told(&stream));
        for _ in 0..3 {
            assert_eq!(receive(&stream, 100).0, Received::None);
            assert!(!wakes(&stream) && !told(&stream));
            assert_eq!(send(&stream, &[5; 60]), Sent::Done);
        }
        theirs.set_nonblocking(true).unwrap();
        assert!(theirs.read(&mut [0]).is_err(), "nothing is sent any more");
        // Who comes after finds it as it is.
        let next = Stream::new(stream.socket.try_clone().unwrap()).unwrap();
        assert!(!next.is_open() && told(&next));
    }
}

#[test]
fn a_peer_that_closes_ends_the_link_once_its_frames_are_taken() {
    for left in [&[][..], &[0, 0], &[0, 0, 0, 60, 1]] {
        let (stream, mut theirs) = pair();
        theirs.write_all(&[&framed(&[1; 60]), left].concat()).unwrap();
        drop(theirs);
        assert!(wakes(&stream));
        assert_eq!(receive(&stream, 100).0, Received::Frame(60));
        assert_eq!(receive(&stream, 100).0, Received::None);
        assert!(!stream.is_open() && told(&stream), "{left:?}");
        assert_eq!(receive(&stream, 100).0, Received::None);
        assert!(!wakes(&stream) && !told(&stream));
        assert!(!Stream::new(stream.socket.try_clone().unwrap()).unwrap().is_open());
    }
    // Seen by who sends first, with something of ours unread.
    let (stream, theirs) = pair();
    assert_eq!(send(&stream, &[5; 60]), Sent::Done);
    drop(theirs);
    assert_eq!(send(&stream, &[5; 60]), Sent::Done);
    assert!(!stream.is_open() && told(&stream));
}

#[test]
fn a_peer_that_sends_descriptors_in_a_frame_ends_the_link() {
    let (stream, mut theirs) = pair();
    let (front, rest) = (&framed(&[1; 60])[..30], [1; 34]);
    let null = std::fs::File::open("/dev/null").unwrap();
    let numbers = [null.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&numbers)];
    let slices = [std::io::IoSlice::new(front)];
    sendmsg::<()>(theirs.as_raw_fd(), &slices, &rights, MsgFlags::empty(), None).unwrap();
    theirs.write_all(&rest).unwrap();
    assert_eq!(receive(&stream, 100).0, Received::None);
    assert!(!stream.is_open() && told(&stream));
}

/// However full the stream is, each frame is there whole or not at all: at any instant at which the process might end.
#[test]
fn a_full_stream_takes_no_part_of_a_frame() {
    let (stream, mut theirs) = pair();
    let sizes = [LONGEST - LENGTH, 60, 9000, 1514, LONGEST - LENGTH - 1, 20_000];
    let frames = |number: usize| vec![u8::try_from(number % 251).unwrap(); sizes[number % sizes.len()]];
    let (mut sent, mut full, mut received) = (0, 0, 0);
    while received < 1000 {
        match send(&stream, &frames(sent)) {
            Sent::Done => sent += 1,
            // One frame's room at a time is made, so that every mixture of sizes meets a stream with little room.
            Sent::Full => {
                full += 1;
                let mut front = [0; LENGTH];
                theirs.read_exact(&mut front).unwrap();
                let mut frame = vec![0; length(front).unwrap()];
                theirs.read_exact(&mut frame).unwrap();
                assert_eq!(frame, frames(received));
                received += 1;
            }
        }
    }
    assert!(full > 100 && stream.is_open() && !told(&stream));
    let mut left = Vec::new();
    drop(stream);
    theirs.read_to_end(&mut left).unwrap();
    let wanted: Vec<u8> = (received..sent).flat_map(|number| framed(&frames(number))).collect();
    assert!(left == wanted, "what is left is whole frames");
}

#[test]
fn what_is_no_stream_of_ours_is_refused() {
    let refused = |socket: OwnedFd| Stream::new(socket).unwrap_err().to_string();
    assert!(refused(std::fs::File::open("/dev/null").unwrap().into()).contains("address"));
    let (datagrams, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
    assert!(refused(datagrams.into()).contains("no stream socket of the Unix family"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(refused(listener.into()).contains("no stream socket of the Unix family"));
    let (small, _other) = UnixStream::pair().unwrap();
    setsockopt(&small, sockopt::SndBuf, &(SEND_BUFFER / 2 - 1)).unwrap();
    assert!(refused(small.into()).contains("room for sending"));
    let (least, _other) = UnixStream::pair().unwrap();
    setsockopt(&least, sockopt::SndBuf, &(SEND_BUFFER / 2)).unwrap();
    assert!(Stream::new(least.into()).is_ok());
}

#[test]
fn the_longest_frame_goes_whole_through_the_least_room() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    setsockopt(&ours, sockopt::SndBuf, &(SEND_BUFFER / 2)).unwrap();
    let stream = Stream::new(ours.into()).unwrap();
    let frame = vec![7; LONGEST - LENGTH];
    let mut sent = 0;
    while send(&stream, &frame) == Sent::Done {
        sent += 1;
    }
    assert!(sent > 0 && stream.is_open());
    drop(stream);
    let mut all = Vec::new();
    theirs.read_to_end(&mut all).unwrap();
    assert!(all == framed(&frame).repeat(sent));
    assert_eq!(front([0; ETHERNET_HEADER], LONGEST - LENGTH + 1), None, "and there is none that is longer");
}
