//! A cable from a stream of frames with their lengths to a tap of the test's own: what passt or another program of the user's
//! is to a guest's network, with the host's own kernel at the other end.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use protocol::tap::{self, HEADER_SIZE};

use crate::environment::within;
use crate::error::tried;
use crate::{Error, Result};

/// Room for any frame.
const FRAME: usize = 1 << 17;

/// A socket that waits for one end of the cable, and the tap that is the other one.
pub struct Cable {
    folder: tempfile::TempDir,
    listener: UnixListener,
    tap: File,
}

impl Cable {
    /// Makes the tap `name`, which goes with the cable.
    pub fn new(name: &str, mtu: u16) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(tried("cannot make a folder"))?;
        let listener = UnixListener::bind(folder.path().join("stream"));
        let listener = listener.map_err(tried("cannot listen for a stream"))?;
        listener.set_nonblocking(true).map_err(tried("cannot wait for who connects"))?;
        let made = tap::make(name, Some(mtu), 1);
        let made = made.map_err(|why| Error::Unexpected(format!("no tap {name}: {why}")))?;
        let waits = fcntl(&made.fd, FcntlArg::F_SETFL(OFlag::empty())).map_err(std::io::Error::from);
        waits.map_err(tried("cannot wait for frames"))?;
        Ok(Self { folder, listener, tap: made.fd.into() })
    }

    /// Where to connect to.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("stream")
    }

    /// Carries frames of who connects, until that one closes. Nothing says when: threads of their own do it.
    pub fn carry(self) -> Result<()> {
        let (stream, _) = within("a connection to the cable", || self.listener.accept().ok())?;
        stream.set_nonblocking(false).map_err(tried("cannot wait for frames"))?;
        let copies = (self.tap.try_clone(), stream.try_clone());
        let (Ok(from), Ok(to)) = copies else {
            return Err(Error::Unexpected("no more descriptors".to_owned()));
        };
        std::thread::spawn(move || to_stream(from, to));
        let tap = self.tap;
        std::thread::spawn(move || to_tap(stream, tap));
        Ok(())
    }
}

/// Ends with the stream.
fn to_stream(mut tap: File, mut stream: UnixStream) -> std::io::Result<()> {
    let mut room = vec![0; FRAME];
    loop {
        let size = tap.read(&mut room)?;
        let frame = room.get(HEADER_SIZE..size).unwrap_or_default();
        let length = u32::try_from(frame.len()).unwrap_or_default().to_be_bytes();
        // In two parts: a peer may cut as it likes.
        stream.write_all(&length)?;
        stream.write_all(frame)?;
    }
}

/// The same.
fn to_tap(mut stream: UnixStream, mut tap: File) -> std::io::Result<()> {
    let mut room = vec![0; FRAME];
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or_default();
        let end = HEADER_SIZE.saturating_add(length);
        let packet = room.get_mut(..end).ok_or(std::io::ErrorKind::InvalidData)?;
        let (header, frame) = packet.split_at_mut(HEADER_SIZE);
        header.fill(0);
        stream.read_exact(frame)?;
        // What the host's kernel does not take is lost.
        let _ = tap.write(packet);
    }
}
