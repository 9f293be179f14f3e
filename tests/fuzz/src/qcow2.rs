//! A qcow2 image that may have been made to harm, and requests on it.
//!
//! The input makes an image, writes over parts of its header and tables or not, and either calls for changes of the disk one
//! by one or has a driver's ring. An image that was good stays so: no cluster is used more often than it is counted, each
//! read is what was written last, and whoever opens the image next reads the same. Of one that was not, that what it says is
//! no reason to end is all that is asked. Below it there may be a raw disk, or another image that may have been made to harm.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use crate::devices::{Bench, disk_options};
use crate::image_file::{Image as Bytes, Shape, name_backing};
use crate::{Input, memory};
use device_backend::{Device, Durability, Reader, Writer};
use device_blk::{AlignedBuffer, Blk, Medium, Range};
use device_blk_qcow2::Image;
use protocol::DiskFormat;
use vm_memory::VolatileSlice;

const SECTOR: u64 = 512;
/// Bits of the form: there is something below, and it is an image.
const BACKED: u8 = 4;
const OVER_AN_IMAGE: u8 = 8;
/// Sectors of the largest request.
const MOST: u64 = 64;
const SHAPES: [Shape; 4] = [
    Shape { cluster_bits: 9, refcount_order: 4, size: 96 << 10 },
    Shape { cluster_bits: 9, refcount_order: 6, size: 512 << 10 },
    Shape { cluster_bits: 12, refcount_order: 0, size: 256 << 10 },
    Shape { cluster_bits: 16, refcount_order: 4, size: 1 << 20 },
];

/// See above.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    // Where no image can be made there is nothing to be found.
    let _ = serve(&mut input);
}

/// What is below an image.
struct Below {
    format: DiskFormat,
    bytes: Vec<u8>,
    /// What the image above sees of it, if that can be told.
    seen: Option<Vec<u8>>,
}

impl Below {
    fn choose(input: &mut Input<'_>, form: u8, shape: Shape) -> Option<Self> {
        if form & BACKED == 0 {
            return None;
        }
        if form & OVER_AN_IMAGE == 0 {
            let words = u32::try_from(shape.size / 16 * 3).unwrap_or(0);
            let bytes: Vec<u8> = (0..words).flat_map(|word| (word | 1 << 31).to_le_bytes()).collect();
            return Some(Self { format: DiskFormat::Raw, seen: Some(bytes.clone()), bytes });
        }
        let (bytes, changes) = made(input, shape, false);
        Some(Self { format: DiskFormat::Qcow2, bytes, seen: (changes == 0).then(Vec::new) })
    }
}

/// An image, which is good if nothing in it was changed.
fn made(input: &mut Input<'_>, shape: Shape, backed: bool) -> (Vec<u8>, u8) {
    let mut bytes = shape.empty();
    if backed {
        name_backing(&mut bytes, "base");
    }
    let changes = input.u8() % 12;
    for _ in 0..changes {
        change(input, &mut bytes, shape);
    }
    (bytes, changes)
}

fn file_of(bytes: &[u8]) -> Option<File> {
    let file = memory::file()?;
    file.write_all_at(bytes, 0).ok()?;
    Some(file)
}

fn serve(input: &mut Input<'_>) -> Option<()> {
    let form = input.u8();
    let shape = input.one_of(&SHAPES)?;
    let (bytes, changes) = made(input, shape, form & BACKED != 0);
    let below = Below::choose(input, form, shape);
    let file = file_of(&bytes)?;
    let hidden = below.as_ref().map_or(Some(&[][..]), |below| below.seen.as_deref());
    let is_good = changes == 0 && hidden.is_some();
    let formats: Vec<DiskFormat> = below.iter().map(|below| below.format).collect();
    let lower = below.as_ref().map(|below| file_of(&below.bytes));
    let opened = open(&file, lower.iter().flatten(), &formats);
    assert!(!is_good || opened.is_some(), "a good image is refused");
    let image = opened?;
    let mut seen = hidden.filter(|_| is_good).map(|hidden| {
        let mut seen = hidden.to_vec();
        seen.resize(index(shape.size), 0);
        seen
    });
    if form & 1 == 0 {
        image.started();
        while !input.is_empty() {
            perform(input, &image, &mut seen);
        }
        drop(image);
    } else {
        let options = disk_options(form & 2 != 0, 1, formats.clone());
        let bench = Bench::of(Blk::new(&options, image).ok())?;
        bench.device().started();
        bench.feed(input.rest());
        // What its driver wrote only it knows.
        seen = None;
    }
    if is_good {
        judge(&file, shape, seen.as_deref(), hidden.unwrap_or_default())?;
        assert!(open(&file, lower.iter().flatten(), &formats).is_some(), "the image is refused afterwards");
    }
    // Whatever the image says, what is below it is only read.
    for (below, lower) in below.iter().zip(lower.iter().flatten()) {
        let mut bytes = vec![0; below.bytes.len()];
        lower.read_exact_at(&mut bytes, 0).ok()?;
        assert!(bytes == below.bytes, "what is below was written to");
    }
    Some(())
}

fn open<'a>(file: &File, lower: impl Iterator<Item = &'a File>, formats: &[DiskFormat]) -> Option<Image> {
    let mut image = Image::new(file.try_clone().ok()?.into(), false, formats).ok()?;
    let lower: Vec<OwnedFd> = lower.filter_map(|file| file.try_clone().ok().map(Into::into)).collect();
    if !formats.is_empty() {
        image.add(lower).ok()?;
    }
    Some(image)
}

/// Writes over some bytes of the header, of a table, or of what a table is to be.
fn change(input: &mut Input<'_>, bytes: &mut Vec<u8>, shape: Shape) {
    let cluster = usize::try_from(shape.cluster()).unwrap_or(0);
    let place = input.u8();
    let at = usize::from(place >> 2) % 8 * cluster + usize::from(input.u8()) * 8 % cluster;
    let value = match place & 3 {
        // An entry that refers to a cluster, with any flags.
        0 | 1 => {
            let flags = u64::from(input.u8());
            let number = u64::from(input.u8() % 16);
            ((flags & 0xf0) << 56 | flags & 0xf | number << shape.cluster_bits).to_be_bytes().to_vec()
        }
        2 => vec![input.u8()],
        _ => input.bytes(8).to_vec(),
    };
    let end = at + value.len();
    if bytes.len() < end {
        bytes.resize(end.next_multiple_of(cluster), 0);
    }
    for (to, from) in bytes.iter_mut().skip(at).zip(value) {
        *to = from;
    }
}

/// Does one thing to the disk, and to what it should look like.
fn perform(input: &mut Input<'_>, image: &Image, seen: &mut Option<Vec<u8>>) {
    let (kind, value) = (input.u8(), input.u8());
    let sectors = image.geometry().size / SECTOR;
    let start = u64::from(input.u16()) * if kind & 0x80 == 0 { 1 } else { sectors >> 16 | 1 } % sectors;
    let length = (u64::from(input.u8()) % MOST + 1).min(sectors - start) * SECTOR;
    let range = Range { offset: start * SECTOR, length };
    let mut buffer = AlignedBuffer::new();
    let (from, to) = (range.offset, range.offset + length);
    let mut part = seen.as_mut().and_then(|seen| seen.get_mut(index(from)..index(to)));
    let mut data = vec![value; index(length)];
    match kind & 7 {
        0..3 => {
            let slices = [VolatileSlice::from(&mut data[..])];
            let done = image.write(range, &mut Reader::new(&slices), Durability::Flushed, &mut buffer);
            part.iter_mut().for_each(|part| part.fill(value));
            assert!(part.is_none() || done.is_ok(), "{done:?}");
        }
        3 => {
            let slices = [VolatileSlice::from(&mut data[..])];
            let (written, whole) = image.read(range, &mut Writer::new(&slices), &mut buffer);
            assert!(written <= data.len() && (!whole || written == data.len()), "{written} of {length}");
            let rest = data.get(written..).unwrap_or_default();
            assert!(rest.iter().all(|byte| *byte == value), "written and not said");
            assert!(part.is_none_or(|part| whole && part == data), "not what was written at {from}");
        }
        4 => {
            let done = image.write_zeroes(range, kind & 8 != 0, &mut buffer);
            part.iter_mut().for_each(|part| part.fill(0));
            assert!(part.is_none() || done.is_ok(), "{done:?}");
        }
        5 | 6 => {
            let (done, unit) = (image.discard(range), u64::from(image.discard_unit()));
            let (first, end) = (from.next_multiple_of(unit), to / unit * unit);
            if let Some(freed) = seen.as_mut().and_then(|seen| seen.get_mut(index(first)..index(end))) {
                freed.fill(0);
            }
            assert!(seen.is_none() || done.is_ok(), "{done:?}");
        }
        _ => assert!(image.flush().is_ok() || seen.is_none(), "a flush failed"),
    }
}

fn judge(file: &File, shape: Shape, seen: Option<&[u8]>, below: &[u8]) -> Option<()> {
    let mut bytes = vec![0; index(file.metadata().ok()?.len())];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let found = Bytes { bytes };
    if let Err(wrong) = found.check() {
        assert!(wrong.is_empty(), "{wrong}");
    }
    if let Some(seen) = seen {
        assert!(found.content(below, 0, shape.size) == seen, "the image is not what its guest saw");
    }
    Some(())
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
