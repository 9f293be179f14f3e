//! A connection over a guest's network on which the guest sends back whatever comes, and the comparison of what came
//! back with what was sent.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use crate::environment::{patience, within};
use crate::error::tried;
use crate::{Error, Result};

/// Where the guest's job `network` connects to, on the outer side's address.
const PORT: u16 = 7000;
/// Bytes that are sent at once.
const CHUNK: usize = 1 << 16;

/// The outer side, waiting for the guest.
pub struct Listener(TcpListener);

/// The connection.
pub struct Echo {
    stream: TcpStream,
    came_back: AtomicU64,
}

impl Listener {
    /// Waits on any address, so that it can be there before the guest's interface is.
    pub fn new() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).map_err(tried("cannot listen"))?;
        listener.set_nonblocking(true).map_err(tried("cannot wait for a connection"))?;
        Ok(Self(listener))
    }

    /// The guest's connection.
    pub fn accept(&self) -> Result<Echo> {
        let (stream, _) = within("a connection of the guest's", || self.0.accept().ok())?;
        stream.set_nonblocking(false).map_err(tried("cannot wait for the guest"))?;
        for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
            set(&stream, Some(patience())).map_err(tried("cannot limit the wait for the guest"))?;
        }
        Ok(Echo { stream, came_back: AtomicU64::new(0) })
    }
}

impl Echo {
    /// How many bytes have come back.
    pub fn came_back(&self) -> u64 {
        self.came_back.load(Relaxed)
    }

    /// Sends until it `is_over` after so many bytes, and compares what comes back with it, to the last byte. Returns
    /// their number.
    pub fn compare(&self, is_over: impl Fn(u64) -> bool + Send) -> Result<u64> {
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| self.send(is_over));
            let received = self.receive();
            let sent = sender.join().map_err(|_| Error::Unexpected("the sender panicked".to_owned()))?;
            let (sent, received) = (sent?, received?);
            if sent == received {
                return Ok(sent);
            }
            Err(Error::Unexpected(format!("{sent} bytes were sent and {received} came back")))
        })
    }

    fn send(&self, is_over: impl Fn(u64) -> bool) -> Result<u64> {
        let mut sent = 0;
        while !is_over(sent) {
            let chunk: Vec<u8> = (sent..).take(CHUNK).map(byte).collect();
            (&self.stream).write_all(&chunk).map_err(tried(format!("after {sent} bytes sent")))?;
            sent = sent.saturating_add(CHUNK as u64);
        }
        self.stream.shutdown(Shutdown::Write).map_err(tried("cannot end the stream"))?;
        Ok(sent)
    }

    fn receive(&self) -> Result<u64> {
        let (mut received, mut room, since) = (0_u64, vec![0; CHUNK], Instant::now());
        loop {
            let size = match (&self.stream).read(&mut room) {
                Ok(0) => return Ok(received),
                Ok(size) => size,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    let what = format!("after {received} bytes that came back in {:?}", since.elapsed());
                    return Err(tried(what)(error));
                }
            };
            let came = room.get(..size).unwrap_or_default();
            if let Some((place, _)) = (received..).zip(came).find(|(place, came)| **came != byte(*place)) {
                return Err(Error::Unexpected(format!("byte {place} came back as another")));
            }
            received = received.saturating_add(size as u64);
            self.came_back.store(received, Relaxed);
        }
    }
}

/// The byte at this place of the stream: nothing that repeats within a segment or a buffer.
fn byte(place: u64) -> u8 {
    let [.., high] = (place / 8).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(place).to_le_bytes();
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_changed_or_short_is_told() {
        type Change = fn(Vec<u8>) -> Vec<u8>;
        let cases: [(&str, Change); 3] = [
            ("", |sent| sent),
            ("came back as another", |mut sent| {
                sent[70_000] ^= 1;
                sent
            }),
            ("131071 came back", |mut sent| {
                sent.pop();
                sent
            }),
        ];
        for (says, change) in cases {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            listener.set_nonblocking(true).unwrap();
            let guest = std::thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                let mut sent = Vec::new();
                stream.read_to_end(&mut sent).unwrap();
                stream.write_all(&change(sent)).unwrap();
            });
            let compared = Listener(listener).accept().unwrap().compare(|sent| sent >= 2 * CHUNK as u64);
            match compared {
                Ok(moved) => assert_eq!((moved, says), (131_072, "")),
                Err(error) => assert!(!says.is_empty() && error.to_string().contains(says), "{error}"),
            }
            guest.join().unwrap();
        }
    }
}
