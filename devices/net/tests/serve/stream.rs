//! A stream in place of a tap, with a peer that is written by hand.

use std::io::{Read, Write};
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use crate::front_end::driver::Driver;
use crate::front_end::{Device, request};
use crate::network::GUEST;
use crate::{LARGE, MRG_RXBUF, OUT, PROGRAM, SIZE, TAP, buffer, ends_well, offer};

const CONFIG: u32 = request::GET_CONFIG;
const SET_BACKEND_REQ_FD: u32 = 21;
/// CSUM, GUEST_CSUM, CTRL_GUEST_OFFLOADS, HOST_TSO4, HOST_TSO6, HOST_ECN, MQ, HOST_USO: what a stream has nobody for.
const UNFINISHED: u64 = 7 | 7 << 11 | 1 << 22 | 1 << 56;
const MTU: u64 = 1 << 3;

/// A device, and the other end of its stream.
struct Joined {
    device: Device,
    peer: UnixStream,
}

impl Deref for Joined {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.device
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()))
}

fn joined(name: &str, arguments: &[&str]) -> Joined {
    let path = path(name);
    let listener = UnixListener::bind(&path).unwrap();
    let stream = format!("--stream={}", path.display());
    let device = Device::spawn(PROGRAM, &[&[TAP[1], &stream], arguments].concat());
    let (peer, _) = listener.accept().unwrap();
    std::fs::remove_file(path).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    Joined { device, peer }
}

fn frame(source: [u8; 6], fill: u8, size: usize) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &source, &[8, 0]].concat();
    frame.resize(size, fill);
    frame
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&u32::try_from(frame.len()).unwrap().to_be_bytes(), frame].concat()
}

impl Joined {
    /// The next frame of the guest's.
    fn next(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.peer.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.peer.read_exact(&mut frame).unwrap();
        frame
    }

    fn say(&self, bytes: &[u8]) {
        (&self.peer).write_all(bytes).unwrap();
    }

    /// The status of the link, and the MTU.
    fn config(&self) -> (u16, u16) {
        let ask = [0u32, 12, 0].iter().flat_map(|word| word.to_ne_bytes()).chain([0; 12]);
        self.send(CONFIG, 1, &ask.collect::<Vec<_>>(), &[]);
        let config = self.reply(CONFIG).unwrap();
        (u16::from_le_bytes([config[18], config[19]]), u16::from_le_bytes([config[22], config[23]]))
    }
}

#[test]
fn frames_go_both_ways_over_a_stream() {
    let mut joined = joined("both-ways", &[]);
    let features = joined.negotiate(0);
    assert_eq!((features & (UNFINISHED | LARGE), features & MTU), (0, MTU));
    assert_eq!(joined.config(), (1, 1500));
    let driver = Driver::new(&joined.device);
    let (mut receive, mut transmit) = (driver.queue(0, SIZE, 0), driver.queue(1, SIZE, 0));
    let mut heard = Vec::new();
    for round in 0..100u8 {
        let size = 14 + usize::from(round) * 15;
        let (out, into) = (frame(GUEST, round, size), frame([2, 0, 0, 0, 0, 9], round ^ 0xff, size));
        driver.put(OUT, &[&[0; 12][..], &out].concat());
        driver.chain(transmit.table(), 0, &[(OUT, 7, 0), (OUT + 7, u32::try_from(size + 5).unwrap(), 0)]);
        driver.offer(&mut transmit, &[0]);
        assert_eq!(driver.used(&mut transmit), (0, 0));
        heard.push(out);
        joined.say(&framed(&into));
        offer(&driver, &mut receive, 0..1, 2048);
        let (_, used) = driver.used(&mut receive);
        let got = driver.look(buffer(0), used as usize);
        assert_eq!((&got[..12], &got[12..]), (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0][..], &into[..]));
    }
    assert_eq!((driver.stop(&receive), driver.stop(&transmit)), (100, 100));
    for out in heard {
        assert_eq!(joined.next(), out);
    }
    ends_well(joined.device);
}

#[test]
fn a_large_frame_lies_in_many_buffers_or_is_dropped() {
    let joined = joined("large", &["--mtu=32746"]);
    assert_ne!(joined.negotiate(0) & MRG_RXBUF, 0);
    assert_eq!(joined.config(), (1, 32746));
    let driver = Driver::new(&joined.device);
    let mut receive = driver.queue(0, SIZE, 0);
    offer(&driver, &mut receive, 0..40, 1000);
    let large = frame([2, 0, 0, 0, 0, 9], 7, 32764);
    // One that is too large for any buffer, one that is none, and one in parts.
    joined.say(&framed(&vec![1; 65553]));
    joined.say(&framed(&[1; 13]));
    let bytes = framed(&large);
    joined.say(&bytes[..3]);
    joined.say(&bytes[3..20_000]);
    joined.say(&bytes[20_000..]);
    let mut whole = Vec::new();
    while whole.len() < 12 + large.len() {
        let (head, size) = driver.used(&mut receive);
        whole.extend(driver.look(buffer(head), size as usize));
    }
    assert_eq!(whole[10..12], [33, 0]);
    assert!(whole[12..] == large);
    assert_eq!(driver.stop(&receive), 33);
    ends_well(joined.device);
}

/// The peer announces what no frame has, or closes: the guest hears of it, sends on and is served, and the log has one line.
#[test]
fn a_peer_that_is_no_good_is_a_link_that_is_down() {
    for (junk, says) in [(true, "announces a frame of 4294967295 bytes"), (false, "closed the stream")] {
        let joined = joined("no-good", &[]);
        joined.negotiate(0);
        let (mut told, theirs) = UnixStream::pair().unwrap();
        told.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert!(joined.ask(SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]));
        let driver = Driver::new(&joined.device);
        let (mut receive, mut transmit) = (driver.queue(0, SIZE, 0), driver.queue(1, SIZE, 0));
        offer(&driver, &mut receive, 0..1, 2048);
        assert_eq!(joined.config().0, 1);
        joined.say(&framed(&frame([2, 0, 0, 0, 0, 9], 1, 60)));
        assert_eq!(driver.used(&mut receive), (0, 72));
        offer(&driver, &mut receive, 0..1, 2048);
        if junk {
            joined.say(&[0xff; 100]);
        } else {
            joined.peer.shutdown(std::net::Shutdown::Both).unwrap();
        }
        let mut message = [0; 12];
        told.read_exact(&mut message).unwrap();
        assert_eq!(message, [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], "CONFIG_CHANGE_MSG");
        assert_eq!(joined.config().0, 0);
        driver.put(OUT, &[&[0; 12][..], &frame(GUEST, 1, 60)].concat());
        for _ in 0..10 {
            driver.chain(transmit.table(), 0, &[(OUT, 72, 0)]);
            driver.offer(&mut transmit, &[0]);
            assert_eq!(driver.used(&mut transmit), (0, 0));
        }
        assert_eq!((driver.stop(&receive), driver.stop(&transmit)), (1, 10));
        let (code, log) = joined.device.end();
        assert_eq!((code, log.lines().count()), (Some(0), 1), "{log}");
        assert!(log.contains("the link is down") && log.contains(says), "{log}");
    }
}

/// What it does not take is lost; what it takes later is whole.
#[test]
fn a_peer_that_does_not_read_holds_nobody_up() {
    let mut joined = joined("full", &[]);
    joined.negotiate(0);
    let driver = Driver::new(&joined.device);
    let mut transmit = driver.queue(1, SIZE, 0);
    driver.put(OUT, &[&[0; 12][..], &frame(GUEST, 5, 1514)].concat());
    for head in 0..SIZE {
        driver.chain(transmit.table(), head, &[(OUT, 1526, 0)]);
    }
    for _ in 0..6 {
        driver.offer(&mut transmit, &(0..SIZE).collect::<Vec<_>>());
        (0..SIZE).for_each(|head| assert_eq!(driver.used(&mut transmit), (head.into(), 0)));
    }
    joined.peer.set_nonblocking(true).unwrap();
    let mut read = Vec::new();
    let _would_block = joined.peer.read_to_end(&mut read);
    let whole = framed(&frame(GUEST, 5, 1514));
    assert!(read.len() < 6 * usize::from(SIZE) * whole.len(), "it was full");
    assert!(read.chunks(whole.len()).all(|one| one == whole));
    joined.peer.set_nonblocking(false).unwrap();
    driver.offer(&mut transmit, &[0]);
    assert_eq!(driver.used(&mut transmit), (0, 0));
    assert_eq!(joined.next().len(), 1514);
    ends_well(joined.device);
}
