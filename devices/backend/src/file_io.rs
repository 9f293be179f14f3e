//! Positioned I/O between a file and guest memory, without a copy in between, and event descriptors.
//!
//! One system call for each direction, preadv2 and pwritev2, serves disks and event descriptors alike (offset
//! -1 reads where the file stands), which keeps the serving filter short; and pwritev2 can make a write durable
//! by itself (RWF_DSYNC). A packet is one call and no more, with what the device has of it in front of what lies in
//! guest memory; of a stream one call moves as much as it can.
#![expect(unsafe_code, reason = "vectored I/O on guest memory, of which no Rust reference may exist")]

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc::{FIONREAD, RWF_DSYNC, c_int, ioctl, iovec, off_t, preadv2, pwritev2};
use vm_memory::VolatileSlice;

use crate::chain::Cursor;
use crate::{Reader, Writer};

/// Pieces per system call. A longer chain takes another call; the kernel's limit is 1024.
const BATCH: usize = 128;

/// Pieces of guest memory of one packet. A driver makes at most some twenty.
pub(crate) const PIECES: usize = 254;
/// With what comes in front and behind.
const PACKET: usize = PIECES + 2;

/// In front of a stream.
const NOTHING: iovec = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// When a write counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When the host has the data; a flush makes it durable.
    Flushed,
    /// When the data is on the medium.
    Immediate,
}

impl Writer<'_, '_> {
    /// Reads one packet from `file`, where it stands: its first bytes into `front`, the rest here. Returns its bytes, or
    /// more than there is room for if it is longer: it is lost then, and what is here is a part of it. The writer does not
    /// move.
    ///
    /// # Errors
    /// What preadv2 says: EAGAIN if there is no packet.
    pub fn read_packet(&self, file: &impl AsFd, front: &mut [u8]) -> Result<usize, Errno> {
        let mut beyond = 0u8;
        let front = iovec { iov_base: front.as_mut_ptr().cast(), iov_len: front.len() };
        let behind = iovec { iov_base: (&raw mut beyond).cast(), iov_len: 1 };
        packet(&self.0, front, Some(behind), |vectors, count| {
            // SAFETY: `packet` passes `count` vectors: live pieces of guest memory, where the guest may write at any
            // time as well, between `front` and `beyond`, which are borrowed here for the time of the call.
            unsafe { preadv2(file.as_fd().as_raw_fd(), vectors, count, -1, 0) }
        })
    }

    /// Reads from `stream` by one call until `front` and then all of this are full, or as much as there is. Returns the bytes
    /// read. The writer does not move.
    ///
    /// # Errors
    /// What preadv2 says; EMSGSIZE where this has too many pieces, and nothing is read then.
    pub fn read_whole(&self, stream: &impl AsFd, front: &mut [u8]) -> Result<usize, Errno> {
        if self.0.pieces().nth(PIECES).is_some() {
            return Err(Errno::EMSGSIZE);
        }
        let front = iovec { iov_base: front.as_mut_ptr().cast(), iov_len: front.len() };
        packet(&self.0, front, None, |vectors, count| {
            // SAFETY: `packet` passes `count` vectors: `front`, which is borrowed here for the time of the call, and live
            // pieces of guest memory; the kernel writes there, as the guest may do at any time.
            unsafe { preadv2(stream.as_fd().as_raw_fd(), vectors, count, -1, 0) }
        })
    }

    /// Reads once from `stream`, as much as there is and fits, and returns the bytes read: none at its end, or without room.
    /// The writer has moved past them.
    ///
    /// # Errors
    /// What preadv2 says: EAGAIN if there is nothing yet.
    pub fn read_stream(&mut self, stream: &impl AsFd) -> Result<usize, Errno> {
        let moved = packet(&self.0, NOTHING, None, |vectors, count| {
            // SAFETY: `packet` passes `count` vectors: one that is empty, and live pieces of guest memory; the kernel
            // writes there, as the guest may do at any time.
            unsafe { preadv2(stream.as_fd().as_raw_fd(), vectors, count, -1, 0) }
        })?;
        self.0.advance(moved);
        Ok(moved)
    }

    /// Reads from `file` at `offset` until this writer is full or the file ends, and returns the bytes read.
    /// The writer has moved past what was read, also after an error.
    ///
    /// # Errors
    /// What preadv2 says.
    pub fn fill_from(&mut self, file: &impl AsFd, offset: u64) -> Result<usize, Errno> {
        transfer(&mut self.0, offset, |vectors, count, at| {
            // SAFETY: `transfer` passes `count` vectors, each a live piece of guest memory; the kernel writes
            // there, as the guest may do at any time.
            unsafe { preadv2(file.as_fd().as_raw_fd(), vectors, count, at, 0) }
        })
    }
}

impl Reader<'_, '_> {
    /// Writes `front` and all that is left as one packet to `file`, where it stands. The reader does not move.
    ///
    /// # Errors
    /// What pwritev2 says; EMSGSIZE for a packet in too many pieces, of which nothing is written.
    pub fn write_packet(&self, file: &impl AsFd, front: &[u8]) -> Result<usize, Errno> {
        if self.0.pieces().nth(PIECES).is_some() {
            return Err(Errno::EMSGSIZE);
        }
        let front = iovec { iov_base: front.as_ptr().cast_mut().cast(), iov_len: front.len() };
        packet(&self.0, front, None, |vectors, count| {
            // SAFETY: `packet` passes `count` vectors, `front` and live pieces of guest memory, all only read here.
            unsafe { pwritev2(file.as_fd().as_raw_fd(), vectors, count, -1, 0) }
        })
    }

    /// Writes once to `stream`, as much as it takes, and returns the bytes written. The reader has moved past them.
    ///
    /// # Errors
    /// What pwritev2 says: EAGAIN if the stream takes nothing now.
    pub fn write_stream(&mut self, stream: &impl AsFd) -> Result<usize, Errno> {
        let moved = packet(&self.0, NOTHING, None, |vectors, count| {
            // SAFETY: `packet` passes `count` vectors: one that is empty, and live pieces of guest memory, only read here.
            unsafe { pwritev2(stream.as_fd().as_raw_fd(), vectors, count, -1, 0) }
        })?;
        self.0.advance(moved);
        Ok(moved)
    }

    /// Writes all that is left to `file` at `offset` and returns the bytes written. The reader has moved past
    /// what was written, also after an error.
    ///
    /// # Errors
    /// What pwritev2 says.
    pub fn drain_to(
        &mut self,
        file: &impl AsFd,
        offset: u64,
        durability: Durability,
    ) -> Result<usize, Errno> {
        let flags = if durability == Durability::Immediate { RWF_DSYNC } else { 0 };
        transfer(&mut self.0, offset, |vectors, count, at| {
            // SAFETY: `transfer` passes `count` vectors, each a live piece of guest memory, only read here.
            unsafe { pwritev2(file.as_fd().as_raw_fd(), vectors, count, at, flags) }
        })
    }
}

/// One system call on `front`, the first [`PIECES`] of `cursor` and `behind`.
fn packet(
    cursor: &Cursor<'_, '_>,
    front: iovec,
    behind: Option<iovec>,
    call: impl FnOnce(*const iovec, c_int) -> isize,
) -> Result<usize, Errno> {
    let mut vectors = [iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PACKET];
    let pieces = cursor
        .pieces()
        .take(PIECES)
        .map(|piece| iovec { iov_base: piece.ptr_guard_mut().as_ptr().cast(), iov_len: piece.len() });
    let mut count: c_int = 0;
    for (vector, part) in vectors.iter_mut().zip(std::iter::once(front).chain(pieces).chain(behind)) {
        *vector = part;
        count = count.saturating_add(1);
    }
    // Not tried again after EINTR: nobody here waits, so nothing is interrupted.
    usize::try_from(call(vectors.as_ptr(), count)).map_err(|_| Errno::last())
}

fn transfer(
    cursor: &mut Cursor<'_, '_>,
    offset: u64,
    call: impl Fn(*const iovec, c_int, off_t) -> isize,
) -> Result<usize, Errno> {
    let mut done = 0usize;
    while cursor.remaining() > 0 {
        let mut vectors = [iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        let mut count: c_int = 0;
        for (vector, piece) in vectors.iter_mut().zip(cursor.pieces()) {
            *vector = iovec { iov_base: piece.ptr_guard_mut().as_ptr().cast(), iov_len: piece.len() };
            count = count.saturating_add(1);
        }
        let at = u64::try_from(done).ok().and_then(|done| offset.checked_add(done));
        let at = at.and_then(|at| off_t::try_from(at).ok()).ok_or(Errno::EINVAL)?;
        match usize::try_from(call(vectors.as_ptr(), count, at)) {
            Ok(0) => break,
            Ok(moved) => {
                cursor.advance(moved);
                done = done.saturating_add(moved);
            }
            Err(_) if Errno::last() == Errno::EINTR => {}
            Err(_) => return Err(Errno::last()),
        }
    }
    Ok(done)
}

/// Takes the count of an event descriptor, so that the next poll waits. The count itself says nothing: whoever
/// shares the descriptor may have taken it before us.
///
/// False if it is none: a count is eight bytes and not 0. Of what has no end, or is at its end, each poll would say that
/// there is something to read.
pub fn take_event(event: &impl AsFd) -> bool {
    match count(event) {
        Ok(count) => count != 0,
        Err(errno) => matches!(errno, Errno::EAGAIN | Errno::EINTR),
    }
}

/// How often somebody else may have read what was written to find out.
const LOOKS: usize = 8;

/// Whether one read of this event descriptor takes all that was written to it, so that each wake costs whoever
/// wrote a write. Of one that was made with EFD_SEMAPHORE a read takes 1, and whoever writes 2^64 - 2 to it once has it
/// wake its reader for ever; no other call says which kind it is. What is no event descriptor is none either.
pub(crate) fn is_emptied_by_one_read(event: &impl AsFd) -> bool {
    for _ in 0..LOOKS {
        if !take_event(event) || nix::unistd::write(event, &2u64.to_ne_bytes()) != Ok(8) {
            return false;
        }
        match count(event) {
            // Others may have written meanwhile; not so often.
            Ok(count) => return (2..=u64::from(u32::MAX)).contains(&count),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
    false
}

/// The count of an event descriptor, which it takes; 0 of what is none.
fn count(event: &impl AsFd) -> Result<u64, Errno> {
    let mut count = [0u8; 8];
    let vector = iovec { iov_base: count.as_mut_ptr().cast(), iov_len: count.len() };
    // SAFETY: one vector, which covers `count`.
    let read = unsafe { preadv2(event.as_fd().as_raw_fd(), &raw const vector, 1, -1, 0) };
    Errno::result(read).map(|size| if size == 8 { u64::from_ne_bytes(count) } else { 0 })
}

/// Reads from `file` at `offset` into `buffer` until it is full or the file ends.
///
/// # Errors
/// What preadv2 says.
pub fn read_at(file: &impl AsFd, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    Writer::new(&[VolatileSlice::from(buffer)]).fill_from(file, offset)
}

/// Writes `buffer` to `file` at `offset`. Mutable only because guest memory's slices are: it is not changed.
///
/// # Errors
/// What pwritev2 says.
pub fn write_at(
    file: &impl AsFd,
    buffer: &mut [u8],
    offset: u64,
    durability: Durability,
) -> Result<usize, Errno> {
    Reader::new(&[VolatileSlice::from(buffer)]).drain_to(file, offset, durability)
}

/// How many bytes `stream` has that can be read at once.
///
/// # Errors
/// What FIONREAD says.
pub fn bytes_waiting(stream: &impl AsFd) -> Result<usize, Errno> {
    let mut bytes: c_int = 0;
    // SAFETY: FIONREAD writes one int, to `bytes`.
    let done = unsafe { ioctl(stream.as_fd().as_raw_fd(), FIONREAD, &raw mut bytes) };
    Errno::result(done).map(|_| usize::try_from(bytes).unwrap_or(0))
}

/// Reads once from `stream` into `buffer`, as much as there is and fits, and returns the bytes read: none at its end.
///
/// # Errors
/// What preadv2 says: EAGAIN if there is nothing yet.
pub fn read_stream(stream: &impl AsFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    Writer::new(&[VolatileSlice::from(buffer)]).read_stream(stream)
}

/// Writes once from `buffer` to `stream`, as much as it takes, and returns the bytes written. Mutable as for [`write_at`].
///
/// # Errors
/// What pwritev2 says: EAGAIN if the stream takes nothing now.
pub fn write_stream(stream: &impl AsFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    Reader::new(&[VolatileSlice::from(buffer)]).write_stream(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn more_pieces_than_one_call_takes_arrive_whole_and_in_order() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..=255).cycle().take(3000).collect();
        file.write_all(&content).unwrap();
        let mut buffer = vec![0u8; 2990];
        let pieces: Vec<_> = buffer.chunks_mut(7).map(VolatileSlice::from).collect();
        assert!(pieces.len() > 3 * BATCH);
        assert_eq!(Writer::new(&pieces).fill_from(&file, 5).unwrap(), 2990);
        drop(pieces);
        assert_eq!(buffer, &content[5..2995]);
    }

    #[test]
    fn reading_past_the_end_is_short_and_says_so() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 100]).unwrap();
        let mut buffer = [1u8; 64];
        assert_eq!(read_at(&file, &mut buffer, 80).unwrap(), 20);
        assert_eq!((buffer[19], buffer[20]), (7, 1));
        assert_eq!(read_at(&file, &mut buffer, u64::MAX), Err(Errno::EINVAL));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let file = tempfile::tempfile().unwrap();
        for durability in [Durability::Flushed, Durability::Immediate] {
            let mut out = *b"0123456789";
            assert_eq!(write_at(&file, &mut out, 4090, durability).unwrap(), 10);
            let mut back = [0; 10];
            assert_eq!(read_at(&file, &mut back, 4090).unwrap(), 10);
            assert_eq!(&back, b"0123456789");
        }
    }

    #[test]
    fn a_packet_is_whole_or_too_long() {
        use std::os::unix::net::UnixDatagram;
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut room = [0xEEu8; 8];
        let (mut front, mut out) = ([0; 4], *b"payload");
        let pieces = [VolatileSlice::from(&mut out[..3]), VolatileSlice::from(&mut [][..])];
        assert_eq!(Reader::new(&pieces[..1]).write_packet(&theirs, b"head").unwrap(), 7);
        let slices = [VolatileSlice::from(&mut room[..])];
        let writer = Writer::new(&slices);
        assert_eq!(writer.read_packet(&ours, &mut front).unwrap(), 7);
        assert_eq!(writer.read_packet(&ours, &mut front), Err(Errno::EAGAIN));
        theirs.send(&[7; 12]).unwrap();
        assert_eq!(writer.read_packet(&ours, &mut front).unwrap(), 12);
        theirs.send(&[7; 20]).unwrap();
        assert_eq!(writer.read_packet(&ours, &mut front).unwrap(), 13, "one more than there is room for");
    }

    #[test]
    fn a_stream_gives_what_it_has_and_takes_what_it_can() {
        use std::os::unix::net::UnixStream;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut room = [0xEEu8; 8];
        let slices: Vec<_> = room.chunks_mut(3).map(VolatileSlice::from).collect();
        let mut writer = Writer::new(&slices);
        assert_eq!(writer.read_stream(&ours), Err(Errno::EAGAIN));
        theirs.write_all(b"abcd").unwrap();
        assert_eq!((writer.read_stream(&ours), writer.remaining()), (Ok(4), 4));
        theirs.write_all(b"efghij").unwrap();
        assert_eq!((writer.read_stream(&ours), writer.remaining()), (Ok(4), 0));
        drop((slices, theirs));
        assert_eq!(&room, b"abcdefgh", "not a byte more than there was room for was taken");
        let slices = [VolatileSlice::from(&mut room[..])];
        let mut rest = Writer::new(&slices);
        assert_eq!((rest.read_stream(&ours), rest.read_stream(&ours)), (Ok(2), Ok(0)), "and the end");

        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut out = vec![7u8; 8 << 20];
        let pieces: Vec<_> = out.chunks_mut(1000).map(VolatileSlice::from).collect();
        assert!(pieces.len() > PIECES);
        let mut reader = Reader::new(&pieces);
        let mut taken = 0;
        let ended = loop {
            match reader.write_stream(&ours) {
                Ok(moved) => taken += moved,
                Err(errno) => break errno,
            }
        };
        assert_eq!((ended, reader.remaining()), (Errno::EAGAIN, (8 << 20) - taken));
        theirs.set_nonblocking(true).unwrap();
        assert_eq!(
            std::io::copy(&mut &theirs, &mut std::io::sink()).unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock
        );
        assert!(reader.write_stream(&ours).unwrap() > 0, "goes on where it was");
    }

    #[test]
    fn of_a_stream_no_byte_too_many_is_read() {
        use std::os::unix::net::UnixStream;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.write_all(b"headpayload and more").unwrap();
        assert_eq!(bytes_waiting(&ours), Ok(20));
        let (mut front, mut room) = ([0; 4], [0u8; 7]);
        let slices: Vec<_> = room.chunks_mut(3).map(VolatileSlice::from).collect();
        assert_eq!(Writer::new(&slices).read_whole(&ours, &mut front), Ok(11));
        assert_eq!((bytes_waiting(&ours), &front), (Ok(9), b"head"));
        drop(slices);
        assert_eq!(&room, b"payload");
        let mut many = [0u8; PIECES + 1];
        let slices: Vec<_> = many.chunks_mut(1).map(VolatileSlice::from).collect();
        assert_eq!(Writer::new(&slices).read_whole(&ours, &mut []), Err(Errno::EMSGSIZE));
        assert_eq!(bytes_waiting(&ours), Ok(9), "nothing was taken");
        assert_eq!(Writer::new(&slices[1..]).read_whole(&ours, &mut []), Ok(9));
        assert!(bytes_waiting(&std::fs::File::open("/dev/null").unwrap()).is_err());
    }

    #[test]
    fn a_packet_in_too_many_pieces_is_refused_whole() {
        use std::os::unix::net::UnixDatagram;
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut out = [5u8; PIECES + 1];
        let pieces: Vec<_> = out.chunks_mut(1).map(VolatileSlice::from).collect();
        assert_eq!(Reader::new(&pieces).write_packet(&theirs, b"h"), Err(Errno::EMSGSIZE));
        assert_eq!(Reader::new(&pieces[1..]).write_packet(&theirs, b"h").unwrap(), PIECES + 1);
        assert_eq!(ours.recv(&mut [0; 1024]).unwrap(), PIECES + 1);
    }
}
