//! Positioned I/O between a file and guest memory, without a copy in between, and event descriptors.
//!
//! One system call for each direction, preadv2 and pwritev2, serves disks and event descriptors alike (offset
//! -1 reads where the file stands), which keeps the serving filter short; and pwritev2 can make a write durable
//! by itself (RWF_DSYNC).
#![expect(unsafe_code, reason = "vectored I/O on guest memory, of which no Rust reference may exist")]

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc::{RWF_DSYNC, c_int, iovec, off_t, preadv2, pwritev2};
use vm_memory::VolatileSlice;

use crate::chain::Cursor;
use crate::{Reader, Writer};

/// Pieces per system call. A longer chain takes another call; the kernel's limit is 1024.
const BATCH: usize = 128;

/// When a write counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When the host has the data; a flush makes it durable.
    Flushed,
    /// When the data is on the medium.
    Immediate,
}

impl Writer<'_, '_> {
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
pub(crate) fn take_event(event: &impl AsFd) {
    let mut count = [0u8; 8];
    let vector = iovec { iov_base: count.as_mut_ptr().cast(), iov_len: count.len() };
    // SAFETY: one vector, which covers `count`.
    let _ = unsafe { preadv2(event.as_fd().as_raw_fd(), &raw const vector, 1, -1, 0) };
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
}
