//! A qcow2 image as the medium of a virtio block device.
//!
//! # What holds at any time
//!
//! When a request is answered, the host has all that it changed, data and tables, so that this process may end at once; and
//! the host has it in an order in which it may end in between ([`crate::tables`]). What a flush adds is the medium.
//!
//! # Who does what at the same time
//!
//! Where data is in its place already, queues read and write it at the same time, each holding `mappings` shared. Whoever
//! changes where data is holds it alone, from before he looks: nobody writes to a cluster that was freed meanwhile and is a
//! table by then. `imago` itself is asked by one at a time; its own locks are then always free, and wait in no system call.
//! What is below an image is locked after it, and never the other way round.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use device_backend::{Durability, Error, Reader, Writer, log_line};
use device_blk::{AlignedBuffer, Geometry, Medium, Range};
use imago::format::drivers::FormatDriverInstance;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{FormatAccess, ShallowMapping};
use nix::errno::Errno;
use protocol::DiskFormat;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::below::{Below, fill};
use crate::file::ImageFile;
use crate::header::{Header, Role};
use crate::storage::Stored;
use crate::tables::Tables;

/// What `imago` caches: L2 tables, refcount blocks.
const CACHED: usize = 128 + 32;
/// Copies of a cluster that are made on the way: a table to be written, compressed data, what comes out of it.
const COPIES: usize = 16;
/// Everything small.
const SMALL: usize = 4 << 20;

/// See above.
#[derive(Debug)]
pub struct Image {
    tables: Tables,
    header: Header,
    readonly: bool,
    /// What is to be given to it before it starts, each below that before it.
    awaited: Vec<DiskFormat>,
    /// Where what it does not have is; without that it reads as zeroes.
    below: Option<Arc<Below>>,
    /// Held shared while data is read or written where it is, alone while that changes.
    mappings: RwLock<()>,
    opened: Mutex<Opened>,
}

/// The image as `imago` has it.
#[derive(Debug, Default)]
struct Opened {
    /// None until requests come: until then another process may be changing the tables.
    qcow2: Option<Qcow2<Stored>>,
    /// A change failed half-way: some of it may be in this process alone.
    unsettled: bool,
}

/// Where the beginning of a range is, and how far that goes.
enum Place {
    /// In the image file.
    At { offset: u64, writable: bool },
    /// Nowhere: it reads as zeroes.
    Zero,
    /// Below the image, at the same offset.
    Below,
    /// In compressed clusters.
    Compressed,
}

impl Image {
    /// Checks the image behind `fd` and takes it. `backing`: what is below it, which [`Image::add`] gets.
    ///
    /// # Errors
    /// [`Error::Resource`]: it is not served, and why.
    pub fn new(fd: OwnedFd, readonly: bool, backing: &[DiskFormat]) -> Result<Self, Error> {
        let mut image = Self::of(ImageFile::new(fd), Role { readonly, backed: !backing.is_empty() })?;
        backing.clone_into(&mut image.awaited);
        Ok(image)
    }

    /// Checks what is below it, as many files as it was made for, and takes them. Before it starts.
    ///
    /// # Errors
    /// [`Error::Resource`]: which of them is not served, and why.
    pub fn add(&mut self, rest: Vec<OwnedFd>) -> Result<(), Error> {
        self.below = Below::chain(rest, &self.awaited)?;
        Ok(())
    }

    /// One that is below another and has `below` below itself.
    pub fn underneath(file: ImageFile, below: Option<Arc<Below>>) -> Result<Self, Error> {
        let image = Self::of(file, Role { readonly: true, backed: below.is_some() })?;
        Ok(Self { below, ..image })
    }

    fn of(file: ImageFile, role: Role) -> Result<Self, Error> {
        let header = Header::of(&file, file.size("qcow2 image")?, role)?;
        let tables = Tables::new(file, header.clone());
        // To hear what else `imago` has to say, while there is somebody to tell. Nothing is written. It also has this thread's
        // hash maps seeded, for which there is no system call later.
        let qcow2 = Qcow2::<Stored>::open_image(Stored::Image(tables.clone()), false);
        drop(qcow2.map_err(|error| Error::Resource(format!("the qcow2 image is not served: {error}")))?);
        let Role { readonly, .. } = role;
        let (mappings, opened) = (RwLock::new(()), Mutex::default());
        Ok(Self { tables, header, readonly, awaited: Vec::new(), below: None, mappings, opened })
    }

    /// What the guest sees, or the image above it, in bytes.
    pub fn size(&self) -> u64 {
        self.header.size
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> std::io::Result<Qcow2<Stored>> {
        let mut qcow2 = Qcow2::<Stored>::open_image(Stored::Image(self.tables.clone()), !self.readonly)?;
        // Said in any case: else it would follow what stands in the image.
        let below = self.below.as_ref().map(|below| Raw::open_image(Stored::below(below), false));
        qcow2.set_backing(below.transpose()?.map(FormatAccess::new));
        qcow2.set_data_file(None);
        Ok(qcow2)
    }

    /// Where `range` begins. Its length is not 0.
    fn place(&self, range: Range) -> Result<(Place, Range), Errno> {
        let opened = self.opened();
        if opened.unsettled {
            return Err(Errno::EAGAIN);
        }
        place(opened.qcow2.as_ref().ok_or(Errno::EIO)?, range)
    }

    /// Reads `range`, which is in it, into `writer`, which has at least that room.
    pub fn read_range(&self, range: Range, writer: &mut Writer<'_, '_>) -> Result<(), Errno> {
        let mut left = range;
        while left.length > 0 {
            let _shared = self.mappings.read().unwrap_or_else(PoisonError::into_inner);
            let (place, here) = match self.place(left) {
                Err(Errno::EAGAIN) => place(self.opened().qcow2.as_ref().ok_or(Errno::EIO)?, left)?,
                other => other?,
            };
            let length = usize::try_from(here.length).map_err(|_| Errno::EIO)?;
            writer.part(length, |part| match place {
                Place::At { offset, .. } => self.tables.file().read_guest(part, offset),
                Place::Zero => fill(part),
                Place::Below => self.below.as_ref().ok_or(Errno::EIO)?.read_range(here, part),
                Place::Compressed => self.decompress(here, part),
            })?;
            left = after(left, here.length);
        }
        Ok(())
    }

    /// Cluster by cluster, through a buffer: what is decompressed is checked against its end there.
    fn decompress(&self, range: Range, writer: &mut Writer<'_, '_>) -> Result<(), Errno> {
        let opened = self.opened();
        let qcow2 = opened.qcow2.as_ref().ok_or(Errno::EIO)?;
        let mut left = range;
        while left.length > 0 {
            let inside = left.offset & self.header.cluster().saturating_sub(1);
            let length = left.length.min(self.header.cluster().saturating_sub(inside));
            let mut bytes = vec![0; usize::try_from(length).map_err(|_| Errno::EIO)?];
            qcow2.readv_special(bytes.as_mut_slice().into(), left.offset).map_err(errno)?;
            writer.write_all(&bytes).map_err(|_| Errno::EIO)?;
            left = after(left, length);
        }
        Ok(())
    }

    /// Has `put` write all of `range`: in its place as far as it has one, then with clusters that are allocated for it.
    fn write_range(&self, range: Range, put: &mut Put<'_>) -> Result<(), Errno> {
        let mut left = range;
        while left.length > 0 {
            let _shared = self.mappings.read().unwrap_or_else(PoisonError::into_inner);
            match self.place(left) {
                Ok((Place::At { offset, writable: true }, here)) => {
                    put(self.tables.file(), Range { offset, length: here.length })?;
                    left = after(left, here.length);
                }
                Ok(_) | Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(errno),
            }
        }
        if left.length == 0 {
            return Ok(());
        }
        let _alone = self.mappings.write().unwrap_or_else(PoisonError::into_inner);
        self.change(|tables, qcow2| allocate(tables, qcow2, left, put))
    }

    /// Has `act` change the tables. What an earlier change left undone is done before.
    fn change(
        &self,
        act: impl FnOnce(&Tables, &mut Qcow2<Stored>) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut opened = self.opened();
        let Opened { qcow2, unsettled } = &mut *opened;
        let qcow2 = qcow2.as_mut().ok_or(Errno::EIO)?;
        if *unsettled {
            self.tables.refer();
            qcow2.flush().map_err(errno)?;
            self.tables.settle()?;
        }
        *unsettled = true;
        act(&self.tables, qcow2)?;
        *unsettled = false;
        Ok(())
    }

    /// Has the whole clusters in `range`, which is in one `place`, read as zeroes, frees them if they are the image's own, and
    /// returns which part of it that was.
    fn forget(
        &self,
        tables: &Tables,
        qcow2: &mut Qcow2<Stored>,
        range: Range,
        place: &Place,
    ) -> Result<Range, Errno> {
        let Range { offset, length } = range;
        if matches!(place, Place::Below) {
            // Nothing is freed. There may be an L2 table to allocate, in which it says that there are zeroes.
            tables.allocate();
            let (offset, length) = qcow2.discard_to_zero(offset, length).map_err(errno)?;
            qcow2.flush().map_err(errno)?;
            tables.settle()?;
            return Ok(Range { offset, length });
        }
        tables.refer();
        // Version 2 of the format cannot say of a cluster that it is zero: there that has to be said by there being none.
        let done = if self.below.is_some() {
            qcow2.discard_to_zero(offset, length)
        } else {
            qcow2.discard_to_backing(offset, length)
        };
        let (offset, length) = done.map_err(errno)?;
        qcow2.flush().map_err(errno)?;
        Ok(Range { offset, length })
    }

    fn zero_range(&self, range: Range, unmap: bool) -> Result<(), Errno> {
        let _alone = self.mappings.write().unwrap_or_else(PoisonError::into_inner);
        self.change(|tables, qcow2| {
            let mut left = range;
            while left.length > 0 {
                let (place, here) = place(qcow2, left)?;
                match place {
                    Place::Zero => {}
                    Place::At { offset, writable: true } if !unmap => {
                        tables.file().zero(offset, here.length, true)?;
                    }
                    Place::At { .. } | Place::Compressed | Place::Below => {
                        let freed = self.forget(tables, qcow2, here, &place)?;
                        let zero = &mut |file: &ImageFile, at: Range| file.zero(at.offset, at.length, true);
                        for part in around(here, freed) {
                            allocate(tables, qcow2, part, zero)?;
                        }
                    }
                }
                left = after(left, here.length);
            }
            Ok(())
        })
    }
}

/// Writes a part of a request's data, which follows that of the call before, to this range of the file.
type Put<'a> = dyn FnMut(&ImageFile, Range) -> Result<(), Errno> + 'a;

/// The order of it is what this program is about: see [`crate::tables`].
fn allocate(tables: &Tables, qcow2: &Qcow2<Stored>, range: Range, put: &mut Put<'_>) -> Result<(), Errno> {
    let mut left = range;
    while left.length > 0 {
        tables.allocate();
        let mapping = qcow2.prepare_data_mapping(left.offset, left.length, true).map_err(errno)?;
        let place = Range { offset: mapping.offset(), length: mapping.length().min(left.length) };
        if place.length == 0 {
            return Err(Errno::EIO);
        }
        if mapping.is_nonblocking() {
            put(tables.file(), place)?;
        } else {
            // Nothing refers to the new clusters; their counts go to the host first.
            qcow2.flush().map_err(errno)?;
            put(tables.file(), place)?;
            tables.settle()?;
            tables.refer();
            qcow2.commit_data_mapping(mapping).map_err(errno)?;
            qcow2.flush().map_err(errno)?;
        }
        left = after(left, place.length);
    }
    Ok(())
}

fn place(qcow2: &Qcow2<Stored>, range: Range) -> Result<(Place, Range), Errno> {
    let (mapping, length) = qcow2.get_mapping(range.offset, range.length).map_err(errno)?;
    let here = Range { offset: range.offset, length: length.min(range.length) };
    let place = match mapping {
        _ if here.length == 0 => return Err(Errno::EIO),
        ShallowMapping::Raw { offset, writable, .. } => Place::At { offset, writable },
        ShallowMapping::Zero { .. } => Place::Zero,
        ShallowMapping::Special { .. } => Place::Compressed,
        ShallowMapping::Indirect { offset, .. } if offset == range.offset => Place::Below,
        _ => return Err(Errno::EIO),
    };
    Ok((place, here))
}

/// What of `range` lies before and behind `part`, which is of it, or empty.
fn around(range: Range, part: Range) -> [Range; 2] {
    if part.length == 0 {
        return [range, Range { offset: range.offset, length: 0 }];
    }
    let before = part.offset.saturating_sub(range.offset).min(range.length);
    let rest = after(range, before.saturating_add(part.length));
    [Range { offset: range.offset, length: before }, rest]
}

fn after(range: Range, done: u64) -> Range {
    Range { offset: range.offset.saturating_add(done), length: range.length.saturating_sub(done) }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

impl Medium for Image {
    fn geometry(&self) -> Geometry {
        let optimal_io = u32::try_from(self.header.cluster()).unwrap_or(0);
        Geometry { size: self.header.size, logical: 512, physical: 4096, minimum_io: 4096, optimal_io }
    }

    fn discard_unit(&self) -> u32 {
        u32::try_from(self.header.cluster()).unwrap_or(512)
    }

    fn read(&self, range: Range, writer: &mut Writer<'_, '_>, _buffer: &mut AlignedBuffer) -> (usize, bool) {
        let room = writer.remaining();
        let result = self.read_range(range, writer);
        let written = room.saturating_sub(writer.remaining());
        (written, result.is_ok() && writer.remaining() == 0)
    }

    fn write(
        &self,
        range: Range,
        reader: &mut Reader<'_, '_>,
        durability: Durability,
        _buffer: &mut AlignedBuffer,
    ) -> Result<(), Errno> {
        self.write_range(range, &mut |file, at| {
            let length = usize::try_from(at.length).map_err(|_| Errno::EIO)?;
            reader.part(length, |part| file.write_guest(part, at.offset))
        })?;
        if durability == Durability::Immediate { self.flush() } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), Errno> {
        if self.opened().unsettled {
            let _alone = self.mappings.write().unwrap_or_else(PoisonError::into_inner);
            self.change(|_, _| Ok(()))?;
        }
        self.tables.flush()
    }

    fn discard(&self, range: Range) -> Result<(), Errno> {
        let _alone = self.mappings.write().unwrap_or_else(PoisonError::into_inner);
        self.change(|tables, qcow2| {
            let mut left = range;
            while left.length > 0 {
                let (place, here) = place(qcow2, left)?;
                if !matches!(place, Place::Zero) {
                    self.forget(tables, qcow2, here, &place)?;
                }
                left = after(left, here.length);
            }
            Ok(())
        })
    }

    fn write_zeroes(&self, range: Range, unmap: bool, _buffer: &mut AlignedBuffer) -> Result<(), Errno> {
        self.zero_range(range, unmap)
    }

    fn resized(&self, _known: u64, _wanted: Option<u64>, _readonly: bool) -> Result<u64, String> {
        Err("the size is the qcow2 image's: qemu-img resize, while no machine has it".to_owned())
    }

    fn present(&self, _near: u64) -> Result<u64, String> {
        Ok(self.header.size)
    }

    /// Of the header, what the guest was told is that of the start: nobody who serves an image changes its size. Where the
    /// counts are another may have changed since.
    fn started(&self) {
        let mut opened = self.opened();
        if opened.qcow2.is_some() {
            return;
        }
        if let Err(errno) = self.tables.reread() {
            return log_line(format_args!("every request fails: the qcow2 image cannot be read: {errno}"));
        }
        self.below.iter().for_each(|below| below.started());
        match self.open() {
            Ok(qcow2) => opened.qcow2 = Some(qcow2),
            Err(error) => {
                log_line(format_args!("every request fails: the qcow2 image cannot be opened: {error}"))
            }
        }
    }

    fn heap(&self) -> usize {
        let tables = self
            .header
            .l1
            .end
            .saturating_sub(self.header.l1.start)
            .saturating_add(self.header.refcounts.end.saturating_sub(self.header.refcounts.start));
        let small = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let clusters = small(self.header.cluster()).saturating_mul(CACHED.saturating_add(COPIES));
        // A quarter for what lies between blocks.
        clusters
            .saturating_add(clusters / 4)
            .saturating_add(small(tables).saturating_mul(4))
            .saturating_add(SMALL)
            .saturating_add(self.below.as_ref().map_or(0, |below| below.heap()))
    }
}

#[cfg(test)]
mod tests;
