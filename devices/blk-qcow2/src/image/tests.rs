//! Whatever of what was written is found again: each beginning of it, as after the end of the process, and of what was not
//! on the medium yet any sectors, as after the end of the host.

use super::*;
use crate::file::Step;
use crate::image_file::{Image as Bytes, Shape};

mod over_another;

use vm_memory::VolatileSlice;

const SECTOR: u64 = 512;
const ALONE: Role = Role { readonly: false, backed: false };
const SMALL_SHAPE: Shape = Shape { cluster_bits: 9, refcount_order: 4, size: 96 << 10 };
const BIG_CLUSTERS: Shape = Shape { cluster_bits: 12, refcount_order: 0, size: 256 << 10 };
const SHORT_BLOCKS: Shape = Shape { cluster_bits: 9, refcount_order: 6, size: 3 << 20 };

#[derive(Debug, Clone, Copy)]
enum Op {
    Write(u64, u64, u8),
    Zero(u64, u64, bool),
    Discard(u64, u64),
    Flush,
}

/// An image that is served, and what its guest should see.
struct Served {
    image: Image,
    start: Vec<u8>,
    /// What a raw disk below it has.
    below: Vec<u8>,
    /// How many steps there were when each operation was done, and what the guest saw then.
    answered: Vec<(Op, usize, Vec<u8>)>,
}

fn open(bytes: &[u8]) -> Image {
    let image = Image::of(ImageFile::with(bytes), ALONE).unwrap();
    image.started();
    image
}

fn write(image: &Image, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
    let range = Range { offset, length: data.len() as u64 };
    let slices = [VolatileSlice::from(data)];
    image.write(range, &mut Reader::new(&slices), Durability::Flushed, &mut AlignedBuffer::new())
}

fn read(image: &Image, offset: u64, length: u64) -> Vec<u8> {
    let mut data = vec![0xee; length as usize];
    let slices = [VolatileSlice::from(&mut data[..])];
    let outcome = image.read(Range { offset, length }, &mut Writer::new(&slices), &mut AlignedBuffer::new());
    assert_eq!(outcome, (length as usize, true));
    data
}

impl Served {
    fn new(start: Vec<u8>, shape: Shape) -> Self {
        Self::of(open(&start), start, Vec::new(), shape)
    }

    fn of(image: Image, start: Vec<u8>, below: Vec<u8>, shape: Shape) -> Self {
        let seen = Bytes { bytes: start.clone() }.content(&below, 0, shape.size);
        Self { image, start, below, answered: vec![(Op::Flush, 0, seen)] }
    }

    fn perform(&mut self, op: Op) {
        let mut seen = self.answered.last().unwrap().2.clone();
        let cluster = self.image.header.cluster();
        match op {
            Op::Write(offset, length, value) => {
                write(&self.image, offset, &mut vec![value; length as usize]).unwrap();
                seen[offset as usize..(offset + length) as usize].fill(value);
            }
            Op::Zero(offset, length, unmap) => {
                self.image.write_zeroes(Range { offset, length }, unmap, &mut AlignedBuffer::new()).unwrap();
                seen[offset as usize..(offset + length) as usize].fill(0);
            }
            Op::Discard(offset, length) => {
                self.image.discard(Range { offset, length }).unwrap();
                let (from, to) = (offset.next_multiple_of(cluster), (offset + length) / cluster * cluster);
                seen.get_mut(from as usize..to as usize).unwrap_or_default().fill(0);
            }
            Op::Flush => self.image.flush().unwrap(),
        }
        let steps = self.image.tables.file().steps.lock().unwrap().len();
        self.answered.push((op, steps, seen));
    }

    fn steps(&self) -> Vec<Step> {
        self.image.tables.file().steps.lock().unwrap().clone()
    }

    /// What the guest must see, sector by sector, when the process ended after `steps`: one of these two.
    fn between(&self, steps: usize) -> (&[u8], &[u8]) {
        let next = self.answered.iter().position(|(_, at, _)| *at > steps).unwrap_or(self.answered.len() - 1);
        let done = self.answered.iter().rposition(|(_, at, _)| *at <= steps).unwrap();
        (&self.answered[done].2, &self.answered[next.max(done)].2)
    }
}

fn apply(bytes: &mut Vec<u8>, offset: u64, part: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + part.len());
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
    bytes[from..to].copy_from_slice(part);
}

/// Numbers that are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn at_random(shape: Shape, seed: u64, count: usize) -> Served {
    busy(Served::new(shape.empty(), shape), shape, seed, count)
}

fn busy(mut served: Served, shape: Shape, seed: u64, count: usize) -> Served {
    let mut numbers = Numbers(seed);
    let sectors = shape.size / SECTOR;
    for index in 0..count {
        let start = numbers.below(sectors);
        let length = (numbers.below(40) + 1).min(sectors - start);
        let (offset, length) = (start * SECTOR, length * SECTOR);
        served.perform(match numbers.below(8) {
            0 => Op::Flush,
            1 => Op::Zero(offset, length, numbers.below(2) == 1),
            2 | 3 => Op::Discard(offset, length),
            _ => Op::Write(offset, length, index as u8 | 1),
        });
    }
    served
}

fn same_sectors(found: &[u8], one: &[u8], other: &[u8]) -> bool {
    let sectors = |bytes| <[u8]>::chunks(bytes, SECTOR as usize);
    sectors(found)
        .zip(sectors(one))
        .zip(sectors(other))
        .all(|((found, one), other)| found == one || found == other)
}

/// Looks at the image after each step.
fn killed_anywhere(served: &Served, shape: Shape) {
    let mut bytes = served.start.clone();
    for (index, step) in served.steps().iter().enumerate() {
        let image = Bytes { bytes };
        image.check().unwrap_or_else(|what| {
            panic!("{shape_bits}: step {index}: {what}", shape_bits = shape.cluster_bits)
        });
        let (before, after) = served.between(index);
        assert!(same_sectors(&image.content(&served.below, 0, shape.size), before, after), "step {index}");
        bytes = image.bytes;
        if let Step::Write(offset, part) = step {
            apply(&mut bytes, *offset, part);
        }
    }
    let image = Bytes { bytes };
    assert_eq!(image.check(), Ok(0), "nothing is lost when nothing was interrupted");
    assert!(image.content(&served.below, 0, shape.size) == served.answered.last().unwrap().2);
}

#[test]
fn killed_at_any_step_it_has_lost_nothing_that_was_answered_and_uses_nothing_that_is_free() {
    for seed in 0..2 {
        killed_anywhere(&at_random(SMALL_SHAPE, seed, 60), SMALL_SHAPE);
        killed_anywhere(&at_random(BIG_CLUSTERS, seed, 60), BIG_CLUSTERS);
    }
}

/// After each step the host ends, with any of the sectors on the medium that were written since the last fdatasync.
fn host_ends_anywhere(served: &Served, shape: Shape, seed: u64) {
    let steps = served.steps();
    let mut numbers = Numbers(seed);
    let (mut durable, mut durable_at) = (served.start.clone(), 0);
    for end in 0..=steps.len() {
        let mut bytes = durable.clone();
        for step in &steps[durable_at..end] {
            let Step::Write(offset, part) = step else { continue };
            for (index, sector) in part.chunks(SECTOR as usize).enumerate() {
                if numbers.below(2) == 0 {
                    apply(&mut bytes, offset + index as u64 * SECTOR, sector);
                }
            }
        }
        let image = Bytes { bytes };
        image.check().unwrap_or_else(|what| panic!("seed {seed}: the host ended after step {end}: {what}"));
        untouched_is_as_flushed(served, &image, durable_at, end, shape);
        if let Some(Step::Sync) = steps.get(end) {
            for step in &steps[durable_at..end] {
                if let Step::Write(offset, part) = step {
                    apply(&mut durable, *offset, part);
                }
            }
            durable_at = end + 1;
        }
    }
}

/// Of what the guest flushed, and has not written to since, every byte is there.
fn untouched_is_as_flushed(served: &Served, image: &Bytes, durable_at: usize, end: usize, shape: Shape) {
    let flushed = |(op, at, _): &(Op, usize, Vec<u8>)| matches!(op, Op::Flush) && *at <= durable_at;
    let flush = served.answered.iter().rposition(flushed).unwrap();
    let mut touched = vec![false; (shape.size / SECTOR) as usize];
    for pair in served.answered[flush..].windows(2) {
        let (started, (op, ..)) = (pair[0].1, &pair[1]);
        if let (
            true,
            Op::Write(offset, length, _) | Op::Zero(offset, length, _) | Op::Discard(offset, length),
        ) = (started <= end, op)
        {
            touched[(offset / SECTOR) as usize..((offset + length) / SECTOR) as usize].fill(true);
        }
    }
    let (found, expected) = (image.content(&served.below, 0, shape.size), &served.answered[flush].2);
    for (index, touched) in touched.iter().enumerate().filter(|(_, touched)| !**touched) {
        let part = index * SECTOR as usize..(index + 1) * SECTOR as usize;
        assert!(found[part.clone()] == expected[part], "sector {index} after step {end} ({touched})");
    }
}

#[test]
fn a_host_that_ends_at_any_step_leaves_nothing_that_is_used_and_free_and_all_that_was_flushed() {
    for seed in 10..12 {
        host_ends_anywhere(&at_random(SMALL_SHAPE, seed, 50), SMALL_SHAPE, seed);
        host_ends_anywhere(&at_random(BIG_CLUSTERS, seed, 50), BIG_CLUSTERS, seed);
    }
}

#[test]
fn a_refcount_table_that_moves_is_found_at_each_step() {
    let mut served = Served::new(SHORT_BLOCKS.empty(), SHORT_BLOCKS);
    for index in 0..SHORT_BLOCKS.size / (64 << 10) {
        served.perform(Op::Write(index * (64 << 10), 64 << 10, index as u8 | 1));
    }
    assert!(
        Bytes { bytes: served.start.clone() }.long(48) != served.image.tables.refcounts().start,
        "it has moved"
    );
    let mut bytes = served.start.clone();
    for (index, step) in served.steps().iter().enumerate() {
        let Step::Write(offset, part) = step else { continue };
        apply(&mut bytes, *offset, part);
        let image = Bytes { bytes };
        // All of it is looked at where something but data was written.
        if part.len() < 4096 {
            image.check().unwrap_or_else(|what| panic!("step {index}: {what}"));
        }
        bytes = image.bytes;
    }
    let image = Bytes { bytes };
    assert_eq!(image.check(), Ok(0));
    assert!(image.content(&[], 0, SHORT_BLOCKS.size) == served.answered.last().unwrap().2);
    host_ends_anywhere_near_the_move(&served);
}

/// As [`host_ends_anywhere`], of the few steps that matter: nothing at all of the last ones, or every second sector.
fn host_ends_anywhere_near_the_move(served: &Served) {
    let steps = served.steps();
    let moves = |step: &Step| matches!(step, Step::Write(0, _));
    let moved = steps.iter().position(moves).unwrap();
    let first = steps[..moved - 1].iter().rposition(|step| matches!(step, Step::Sync)).unwrap();
    let mut durable = served.start.clone();
    let write = |bytes: &mut Vec<u8>, step: &Step| {
        if let Step::Write(offset, part) = step {
            apply(bytes, *offset, part);
        }
    };
    steps[..first].iter().for_each(|step| write(&mut durable, step));
    assert!(matches!(steps[moved - 1], Step::Sync) && matches!(steps[moved + 1], Step::Sync));
    for skipped in first..moved - 1 {
        let mut bytes = durable.clone();
        steps[first..moved - 1]
            .iter()
            .enumerate()
            .filter(|(index, _)| first + index != skipped)
            .for_each(|(_, step)| write(&mut bytes, step));
        Bytes { bytes }.check().unwrap();
    }
}

/// The host says it once, to whoever asks first: here that is the guest.
#[test]
fn after_a_flush_that_failed_no_table_changes_any_more() {
    let served = at_random(SMALL_SHAPE, 3, 20);
    let image = &served.image;
    image.flush().unwrap();
    image.tables.file().sync_fails.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(image.flush(), Err(Errno::EIO));
    assert_eq!(image.flush(), Ok(()), "what the host says now is the guest's to hear");
    let steps = served.steps().len();
    assert_eq!(image.discard(Range { offset: 0, length: SMALL_SHAPE.size }), Err(Errno::EIO));
    let writes = served.steps()[steps..].iter().filter(|step| matches!(step, Step::Write(..))).count();
    assert_eq!(writes, 0, "of nothing that is on the medium can be told what came before it");
}

#[test]
fn what_was_written_is_read_back_by_the_next_process() {
    let served = at_random(BIG_CLUSTERS, 99, 80);
    let seen = &served.answered.last().unwrap().2;
    assert!(read(&served.image, 0, BIG_CLUSTERS.size) == *seen);
    let mut bytes = served.start.clone();
    for step in served.steps() {
        if let Step::Write(offset, part) = step {
            apply(&mut bytes, offset, &part);
        }
    }
    let next = open(&bytes);
    assert!(read(&next, 0, BIG_CLUSTERS.size) == *seen);
    assert!(read(&next, 512, 4096) == seen[512..512 + 4096]);
}

#[test]
fn a_write_where_data_is_already_waits_for_no_medium_and_one_that_allocates_for_one() {
    let mut served = Served::new(BIG_CLUSTERS.empty(), BIG_CLUSTERS);
    served.perform(Op::Write(0, 8192, 1));
    let syncs = |served: &Served| served.steps().iter().filter(|step| matches!(step, Step::Sync)).count();
    let first = syncs(&served);
    served.perform(Op::Write(512, 4096, 2));
    assert_eq!(syncs(&served), first);
    served.perform(Op::Write(64 << 10, 4096, 3));
    assert_eq!(syncs(&served), first + 1);
}

#[test]
fn nothing_is_served_before_it_began_and_nothing_opened_is_written_to() {
    let image = Image::of(ImageFile::with(&SMALL_SHAPE.empty()), ALONE).unwrap();
    assert_eq!(write(&image, 0, &mut [1; 512]), Err(Errno::EIO));
    image.started();
    assert!(image.tables.file().steps.lock().unwrap().is_empty());
    write(&image, 0, &mut [1; 512]).unwrap();
    assert_eq!(read(&image, 0, 512), [1; 512]);
}

#[test]
fn a_refcount_table_that_the_predecessor_moved_is_the_successors() {
    let mut first = Served::new(SHORT_BLOCKS.empty(), SHORT_BLOCKS);
    let file = first.image.tables.file().descriptor().try_clone().unwrap();
    let second = Image::of(ImageFile::new(file), ALONE).unwrap();
    let before = second.tables.refcounts();
    for index in 0..SHORT_BLOCKS.size / (64 << 10) {
        first.perform(Op::Write(index * (64 << 10), 64 << 10, index as u8 | 1));
    }
    second.started();
    assert_ne!(second.tables.refcounts(), before);
    assert_eq!(second.tables.refcounts(), first.image.tables.refcounts());
}

/// An image whose first cluster of the guest's is compressed: stored, in the words of deflate.
fn compressed() -> (Vec<u8>, Vec<u8>) {
    let shape = BIG_CLUSTERS;
    let cluster = shape.cluster() as usize;
    let data: Vec<u8> = (0..cluster).map(|at| (at % 251) as u8).collect();
    let mut bytes = shape.empty();
    let (l2, stored) = (bytes.len() as u64, bytes.len() + cluster);
    let length = (cluster as u16).to_le_bytes();
    let block = [&[1, length[0], length[1], !length[0], !length[1]][..], &data].concat();
    apply(&mut bytes, stored as u64, &block);
    bytes.resize((stored + 2 * cluster).next_multiple_of(cluster), 0);
    let sectors = (block.len().div_ceil(512) - 1) as u64;
    apply(&mut bytes, l2, &(1u64 << 62 | sectors << 58 | stored as u64).to_be_bytes());
    apply(&mut bytes, 3 * cluster as u64, &(1u64 << 63 | l2).to_be_bytes());
    // Counts of one bit: the L2 table, and the two clusters with compressed data.
    let first = l2 as usize / cluster;
    for number in first..first + 3 {
        bytes[2 * cluster + number / 8] |= 1 << (number % 8);
    }
    (bytes, data)
}

#[test]
fn compressed_clusters_are_read_and_replaced_when_they_are_written_to() {
    let (bytes, mut data) = compressed();
    let image = open(&bytes);
    assert!(read(&image, 0, 4096) == data);
    assert!(read(&image, 512, 1024) == data[512..1536]);
    write(&image, 1024, &mut [7; 512]).unwrap();
    data[1024..1536].fill(7);
    assert!(read(&image, 0, 4096) == data);
    let mut after = bytes;
    for step in image.tables.file().steps.lock().unwrap().iter() {
        if let Step::Write(offset, part) = step {
            apply(&mut after, *offset, part);
        }
    }
    assert_eq!(Bytes { bytes: after.clone() }.check(), Ok(0));
    assert!(read(&open(&after), 0, 4096) == data);
}

#[test]
fn compressed_clusters_that_are_broken_are_an_error_and_no_more_is_reported_than_was_read() {
    let (mut bytes, _) = compressed();
    let stored = bytes.len() - 2 * 4096;
    bytes[stored] = 0xff;
    let image = open(&bytes);
    let mut data = vec![0xee; 4096];
    let slices = [VolatileSlice::from(&mut data[..])];
    let range = Range { offset: 0, length: 4096 };
    assert_eq!(image.read(range, &mut Writer::new(&slices), &mut AlignedBuffer::new()), (0, false));
    assert!(data == [0xee; 4096]);
}

#[test]
fn tables_with_anything_in_them_are_errors_at_most() {
    let served = at_random(BIG_CLUSTERS, 7, 40);
    let mut bytes = served.start.clone();
    for step in served.steps() {
        if let Step::Write(offset, part) = step {
            apply(&mut bytes, offset, &part);
        }
    }
    let mut numbers = Numbers(3);
    for _ in 0..200 {
        let mut bytes = bytes.clone();
        for _ in 0..=numbers.below(6) {
            let at = numbers.below(bytes.len().min(10 * 4096) as u64) as usize;
            bytes[at] = numbers.below(256) as u8;
        }
        let Ok(image) = Image::of(ImageFile::with(&bytes), ALONE) else { continue };
        image.started();
        let mut data = vec![0; BIG_CLUSTERS.size as usize];
        let size = image.geometry().size.min(BIG_CLUSTERS.size);
        for offset in (0..size).step_by(16 << 10) {
            let length = (16 << 10).min(size - offset);
            let slices = [VolatileSlice::from(&mut data[..length as usize])];
            let range = Range { offset, length };
            image.read(range, &mut Writer::new(&slices), &mut AlignedBuffer::new());
            let _ = image.discard(Range { offset, length: length / 1024 * 512 });
            let _ = write(&image, offset, &mut [1; 512]);
        }
    }
}
