//! One descriptor chain as two cursors over guest memory: a [`Reader`] and a [`Writer`] that move forward only
//! and end where the driver's buffers end (virtio 1.2, §2.7.4 and §2.7.5).
//!
//! `virtio-queue`'s `DescriptorChain` is not used: it ends in the same way whether the chain is over or broken,
//! takes indirect tables longer than the queue, and cannot start at a head that the in-flight area names. Nor are
//! its `Reader` and `Writer`: they walk the chain once each, so that a driver could change it in between, and
//! allocate for each.

use std::io;
use std::marker::PhantomData;

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

/// Size of a descriptor in bytes (§2.7.5).
const DESCRIPTOR_SIZE: u32 = 16;

/// Cursor over a list of pieces of guest memory. `remaining` never exceeds the bytes in `slices` from
/// `offset` of the first on.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a, 'm> {
    slices: &'a [VolatileSlice<'m>],
    offset: usize,
    remaining: usize,
}

impl<'a, 'm> Cursor<'a, 'm> {
    fn new(slices: &'a [VolatileSlice<'m>]) -> Self {
        let remaining = slices.iter().map(VolatileSlice::len).fold(0, usize::saturating_add);
        Self { slices, offset: 0, remaining }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.remaining
    }

    /// The pieces from here on, without moving.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = VolatileSlice<'m>> + use<'a, 'm> {
        let (mut offset, mut remaining) = (self.offset, self.remaining);
        self.slices.iter().map_while(move |slice| {
            let from_here = slice.offset(offset).ok()?;
            offset = 0;
            let length = from_here.len().min(remaining);
            remaining = remaining.saturating_sub(length);
            (length > 0).then(|| from_here.subslice(0, length).ok())?
        })
    }

    /// Moves past `count` bytes, or to the end.
    pub(crate) fn advance(&mut self, count: usize) {
        let mut left = count.min(self.remaining);
        self.remaining = self.remaining.saturating_sub(left);
        while let [first, rest @ ..] = self.slices {
            let here = first.len().saturating_sub(self.offset);
            if left < here {
                self.offset = self.offset.saturating_add(left);
                return;
            }
            left = left.saturating_sub(here);
            (self.slices, self.offset) = (rest, 0);
        }
    }

    /// Cuts at `at` bytes from here: `self` keeps what is before, the rest is returned.
    fn split_off(&mut self, at: usize) -> Self {
        let mut rest = *self;
        rest.advance(at);
        self.remaining = self.remaining.min(at);
        rest
    }
}

/// A side of a chain, or a part of one: for reading or for writing, as `Access` says.
pub struct Side<'a, 'm, Access>(pub(crate) Cursor<'a, 'm>, PhantomData<Access>);

/// See [`Reader`].
pub struct ForReading;
/// See [`Writer`].
pub struct ForWriting;

/// What the driver lets the device read.
pub type Reader<'a, 'm> = Side<'a, 'm, ForReading>;
/// What the driver lets the device write.
pub type Writer<'a, 'm> = Side<'a, 'm, ForWriting>;

impl<'a, 'm, Access> Side<'a, 'm, Access> {
    /// Over `slices`, in their order.
    #[must_use]
    pub fn new(slices: &'a [VolatileSlice<'m>]) -> Self {
        Self(Cursor::new(slices), PhantomData)
    }

    /// Bytes left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.0.remaining()
    }

    /// Cuts at `at` bytes from here: `self` keeps what is before, the rest is returned.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Self {
        Self(self.0.split_off(at), PhantomData)
    }

    /// Has `act` go over the next `length` bytes, or as many as there are, and moves past as many as it did, also after an
    /// error.
    ///
    /// # Errors
    /// Those of `act`.
    pub fn part<E>(&mut self, length: usize, act: impl FnOnce(&mut Self) -> Result<(), E>) -> Result<(), E> {
        let mut part = Self(self.0, PhantomData);
        let _rest = part.split_off(length);
        let room = part.remaining();
        let result = act(&mut part);
        self.0.advance(room.saturating_sub(part.remaining()));
        result
    }

    /// Whether each piece's address and length is a multiple of `alignment`, a power of two.
    #[must_use]
    pub fn is_aligned(&self, alignment: usize) -> bool {
        let mask = alignment.saturating_sub(1);
        self.0.pieces().all(|piece| (piece.ptr_guard().as_ptr().addr() | piece.len()) & mask == 0)
    }
}

impl Reader<'_, '_> {
    /// Copies the next bytes, all of `buffer` or none. The copy is the device's own: check that, and never
    /// look at guest memory twice.
    ///
    /// # Errors
    /// `UnexpectedEof` when fewer bytes are left.
    pub fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        if buffer.len() > self.0.remaining {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = &mut buffer[..];
        for piece in self.0.pieces() {
            let Some((to, after)) = rest.split_at_mut_checked(piece.len().min(rest.len())) else { break };
            piece.read_slice(to, 0).map_err(io::Error::other)?;
            rest = after;
        }
        self.0.advance(buffer.len());
        Ok(())
    }
}

impl Writer<'_, '_> {
    /// Writes all of `bytes` or none.
    ///
    /// # Errors
    /// `WriteZero` when there is less room.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > self.0.remaining {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let mut rest = bytes;
        for piece in self.0.pieces() {
            let Some((from, after)) = rest.split_at_checked(piece.len().min(rest.len())) else { break };
            piece.write_slice(from, 0).map_err(io::Error::other)?;
            rest = after;
        }
        self.0.advance(bytes.len());
        Ok(())
    }
}

/// The pieces of one chain.
#[derive(Default)]
pub(crate) struct Pieces<'m> {
    pub(crate) readable: Vec<VolatileSlice<'m>>,
    /// All of them, or those behind the last one that is not in guest memory.
    pub(crate) writable: Vec<VolatileSlice<'m>>,
    /// Those before the first one that is not in guest memory, if there is one.
    before: Option<Vec<VolatileSlice<'m>>>,
    /// A descriptor points outside guest memory. What is in the lists is then not the request.
    pub(crate) outside: bool,
    /// There was a descriptor for writing.
    writing: bool,
}

/// Where a ring's descriptors are.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    pub(crate) address: GuestAddress,
    /// In descriptors.
    pub(crate) size: u16,
}

/// Reads the chain that starts at `head` into `pieces`, whose old content is dropped; each descriptor is read
/// once. An error is a driver's violation of the specification, in words.
///
/// That a buffer lies outside guest memory is not: memory that a guest has may be none that this device was told of, as
/// persistent memory is. It is for the caller to decide what becomes of such a request.
pub(crate) fn collect<'m>(
    memory: &'m GuestMemoryMmap,
    table: Table,
    head: u16,
    pieces: &mut Pieces<'m>,
) -> Result<(), &'static str> {
    pieces.readable.clear();
    pieces.writable.clear();
    (pieces.before, pieces.outside, pieces.writing) = (None, false, false);
    let (mut current, mut index) = (table, head);
    let mut indirect = false;
    // Holds for indirect tables too: no chain is longer than the queue (§2.7.5.3.1).
    for _ in 0..table.size {
        let mut descriptor = read(memory, current, index)?;
        if descriptor.refers_to_indirect_table() {
            if indirect || descriptor.has_next() {
                return Err("an indirect table is nested, or followed by another descriptor");
            }
            indirect = true;
            current = indirect_table(descriptor, table.size)?;
            descriptor = read(memory, current, 0)?;
            if descriptor.refers_to_indirect_table() {
                return Err("an indirect table is nested");
            }
        }
        pieces.add(memory, descriptor)?;
        if !descriptor.has_next() {
            return Ok(());
        }
        index = descriptor.next();
    }
    Err("a descriptor chain is longer than the queue")
}

fn read(memory: &GuestMemoryMmap, table: Table, index: u16) -> Result<Descriptor, &'static str> {
    if index >= table.size {
        return Err("a descriptor index is outside its table");
    }
    let offset = u64::from(index).saturating_mul(DESCRIPTOR_SIZE.into());
    let address = table.address.checked_add(offset).ok_or("a descriptor table wraps around")?;
    memory.read_obj(address).map_err(|_| "a descriptor table is outside guest memory")
}

fn indirect_table(descriptor: Descriptor, limit: u16) -> Result<Table, &'static str> {
    let length = descriptor.len();
    let size = u16::try_from(length / DESCRIPTOR_SIZE).unwrap_or(u16::MAX);
    if size == 0 || !length.is_multiple_of(DESCRIPTOR_SIZE) {
        return Err("an indirect table's length is not a multiple of 16, or is 0");
    }
    if size > limit {
        return Err("an indirect table is longer than the queue");
    }
    Ok(Table { address: descriptor.addr(), size })
}

impl<'m> Pieces<'m> {
    /// Those for writing before the first one that is not in guest memory.
    pub(crate) fn before(&self) -> &[VolatileSlice<'m>] {
        self.before.as_ref().unwrap_or(&self.writable)
    }

    fn add(&mut self, memory: &'m GuestMemoryMmap, descriptor: Descriptor) -> Result<(), &'static str> {
        self.writing |= descriptor.is_write_only();
        let (list, access) = if descriptor.is_write_only() {
            (&mut self.writable, Permissions::Write)
        } else if self.writing {
            return Err("a readable descriptor follows a writable one");
        } else {
            (&mut self.readable, Permissions::Read)
        };
        let length = usize::try_from(descriptor.len()).unwrap_or(usize::MAX);
        if length == 0 {
            return Ok(());
        }
        let before = list.len();
        let inside = memory
            .get_slices(descriptor.addr(), length, access)
            .is_ok_and(|mut slices| slices.all(|slice| slice.map(|slice| list.push(slice)).is_ok()));
        if !inside {
            // Nothing of what was found in part.
            list.truncate(before);
            self.outside = true;
            if descriptor.is_write_only() {
                let here = std::mem::take(&mut self.writable);
                self.before.get_or_insert(here);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_cross_pieces_and_stop_at_their_end() {
        let mut left = [1u8, 2, 3];
        let mut right = [4u8, 5, 6, 7];
        let slices = [VolatileSlice::from(&mut left[..]), VolatileSlice::from(&mut right[..])];
        let mut reader = Reader::new(&slices);
        let mut two = [0; 2];
        reader.read_exact(&mut two).unwrap();
        assert_eq!(two, [1, 2]);
        let mut four = [0; 4];
        reader.read_exact(&mut four).unwrap();
        assert_eq!(four, [3, 4, 5, 6]);
        assert!(reader.read_exact(&mut two).is_err());
        assert_eq!(reader.remaining(), 1, "a refused read takes nothing");
    }

    /// A second vCPU may write there at any time.
    #[test]
    fn what_was_read_is_a_copy_and_is_not_read_again() {
        let mut bytes = [1u8, 2, 3, 4];
        let slices = [VolatileSlice::from(&mut bytes[..])];
        let mut reader = Reader::new(&slices);
        let (mut header, mut rest) = ([0; 2], [0; 2]);
        reader.read_exact(&mut header).unwrap();
        slices[0].copy_from(&[9u8; 4]);
        reader.read_exact(&mut rest).unwrap();
        assert_eq!((header, rest, reader.remaining()), ([1, 2], [9, 9], 0));
    }

    #[test]
    fn a_split_writer_cannot_reach_the_other_half() {
        let mut left = [0u8; 3];
        let mut right = [0u8; 4];
        let slices = [VolatileSlice::from(&mut left[..]), VolatileSlice::from(&mut right[..])];
        let mut data = Writer::new(&slices);
        let mut status = data.split_off(6);
        assert_eq!((data.remaining(), status.remaining()), (6, 1));
        assert!(data.write_all(&[9; 7]).is_err());
        data.write_all(&[9; 6]).unwrap();
        assert!(data.write_all(&[9]).is_err());
        status.write_all(&[1]).unwrap();
        assert_eq!((left, right), ([9; 3], [9, 9, 9, 1]));
    }

    #[test]
    fn a_split_past_the_end_leaves_nothing() {
        let mut bytes = [0u8; 3];
        let slices = [VolatileSlice::from(&mut bytes[..])];
        let mut writer = Writer::new(&slices);
        assert_eq!(writer.split_off(10).remaining(), 0);
        assert_eq!(writer.remaining(), 3);
    }

    #[test]
    fn a_part_moves_by_what_was_done_of_it_and_never_beyond() {
        let mut bytes = [0u8; 6];
        let slices = [VolatileSlice::from(&mut bytes[..])];
        let mut writer = Writer::new(&slices);
        let done = writer.part(4, |part| {
            assert!(part.write_all(&[1; 5]).is_err());
            part.write_all(&[1; 3])
        });
        assert!(done.is_ok());
        assert_eq!(writer.remaining(), 3);
        let half = writer.part(10, |part| part.write_all(&[2; 1]).map_err(|_| 0).and(Err(1)));
        assert_eq!((half, writer.remaining()), (Err(1), 2));
        let mut reader = Reader::new(&slices);
        let mut read = [0; 4];
        assert!(reader.part(4, |part| part.read_exact(&mut read)).is_ok());
        assert_eq!((read, reader.remaining()), ([1, 1, 1, 2], 2));
    }

    #[test]
    fn alignment_looks_at_each_piece() {
        #[repr(align(512))]
        struct Aligned([u8; 1024]);
        let mut aligned = Aligned([0; 1024]);
        let whole = VolatileSlice::from(&mut aligned.0[..]);
        let both = [whole.subslice(0, 512).unwrap(), whole.subslice(512, 512).unwrap()];
        assert!(Reader::new(&both).is_aligned(512));
        let odd = [whole.subslice(0, 512).unwrap(), whole.subslice(512, 511).unwrap()];
        assert!(!Reader::new(&odd).is_aligned(512));
        let shifted = [whole.subslice(4, 512).unwrap()];
        assert!(!Writer::new(&shifted).is_aligned(512));
    }
}
