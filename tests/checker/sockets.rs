//! Connections of a guest with its host, without a network: who sends back whatever comes, and who reaches the host many
//! times at once and compares what comes back.
//!
//! Descriptors are numbers here: the library has no owner for one that was accepted.

use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc::{VMADDR_CID_ANY, VMADDR_CID_HOST};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, Shutdown, SockFlag, SockType, VsockAddr, accept, bind, connect, listen,
    recv, send, shutdown, socket,
};
use nix::unistd::close;

use crate::say;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 256;
/// Bytes sent at once by who echoes.
const CHUNK: usize = 8192;

/// A connection; closed when it is dropped.
struct Stream(RawFd);

impl Stream {
    fn send_all(&self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            let sent = send(self.0, bytes, MsgFlags::MSG_NOSIGNAL)?;
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// As many bytes as `place` has, or those before the end.
    fn fill(&self, place: &mut [u8]) -> Result<usize, Errno> {
        let mut filled = 0;
        while let Some(rest) = place.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match recv(self.0, rest, MsgFlags::empty())? {
                0 => break,
                bytes => filled = filled.saturating_add(bytes),
            }
        }
        Ok(filled)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = close(self.0);
    }
}

fn vsock() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
}

/// Sends back what comes at `port`, for ever; says so of each connection when it ends: in order, or that it was lost.
pub fn echo(port: u32) -> io::Result<String> {
    let listener = vsock()?;
    bind(listener.as_raw_fd(), &VsockAddr::new(VMADDR_CID_ANY, port))?;
    listen(&listener, Backlog::new(BACKLOG)?)?;
    say(&format!("echoing {port}"));
    loop {
        let stream = Stream(accept(listener.as_raw_fd())?);
        std::thread::Builder::new().stack_size(128 << 10).spawn(move || match send_back(&stream) {
            Ok(bytes) => say(&format!("ended {bytes}")),
            Err(errno) => say(&format!("lost {errno}")),
        })?;
    }
}

fn send_back(stream: &Stream) -> Result<u64, Errno> {
    let (mut room, mut all) = (vec![0; CHUNK], 0u64);
    loop {
        let bytes = recv(stream.0, &mut room, MsgFlags::empty())?;
        if bytes == 0 {
            // The other half is still open for what is on its way.
            shutdown(stream.0, Shutdown::Write)?;
            return Ok(all);
        }
        stream.send_all(room.get(..bytes).unwrap_or_default())?;
        all = all.saturating_add(u64::try_from(bytes).unwrap_or(0));
    }
}

/// Reaches `port` of the host `connections` times at once; on each, so many `rounds` of bytes come back as they were sent.
pub fn reach(port: u32, connections: u32, rounds: u32) -> io::Result<String> {
    let streams = (0..connections).map(|_| -> io::Result<Stream> {
        let stream = Stream(vsock()?.into_raw_fd());
        connect(stream.0, &VsockAddr::new(VMADDR_CID_HOST, port))?;
        Ok(stream)
    });
    let streams = streams.collect::<io::Result<Vec<Stream>>>()?;
    let mut wrong = 0u64;
    for round in 0..rounds {
        for (stream, number) in streams.iter().zip(0u32..) {
            stream.send_all(&line(number, round))?;
        }
        for (stream, number) in streams.iter().zip(0u32..) {
            let sent = line(number, round);
            let mut back = vec![0; sent.len()];
            if stream.fill(&mut back)? != sent.len() || back != sent {
                wrong = wrong.saturating_add(1);
            }
        }
    }
    // Each half by itself: the host sees the end, and so does the guest.
    for stream in &streams {
        shutdown(stream.0, Shutdown::Write)?;
        if stream.fill(&mut [0])? != 0 {
            wrong = wrong.saturating_add(1);
        }
    }
    Ok(format!("reached connections={connections} rounds={rounds} wrong={wrong}"))
}

/// What one connection says in one round: of another length each time.
fn line(number: u32, round: u32) -> Vec<u8> {
    let times = usize::try_from(number.saturating_mul(7).saturating_add(round) % 300).unwrap_or(0);
    format!("{number}:{round} ").repeat(times.saturating_add(1)).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::socketpair;

    fn pair() -> (Stream, Stream) {
        let (one, other) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).unwrap();
        (Stream(one.into_raw_fd()), Stream(other.into_raw_fd()))
    }

    #[test]
    fn what_comes_goes_back_until_its_end() {
        let (near, far) = pair();
        let echo = std::thread::spawn(move || send_back(&far));
        let mut back = vec![0; line(250, 40).len()];
        near.send_all(&line(250, 40)).unwrap();
        assert_eq!(near.fill(&mut back), Ok(back.len()));
        assert_eq!(back, line(250, 40));
        shutdown(near.0, Shutdown::Write).unwrap();
        assert_eq!(near.fill(&mut [0; 4]), Ok(0));
        assert_eq!(echo.join().unwrap(), Ok(u64::try_from(back.len()).unwrap()));
    }

    #[test]
    fn a_stream_that_ends_early_is_seen() {
        let (near, far) = pair();
        far.send_all(b"abc").unwrap();
        drop(far);
        let mut place = [0; 8];
        assert_eq!(near.fill(&mut place), Ok(3));
        assert_eq!(near.send_all(b"x"), Err(Errno::EPIPE));
    }
}
