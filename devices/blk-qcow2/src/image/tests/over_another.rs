//! The same of an image with others below it: what those have is seen until it is written over or hidden, and is never
//! written to.

use super::*;
use crate::image_file::name_backing;

/// No word of it is like another.
fn raw(bytes: u64) -> Vec<u8> {
    (0..bytes / 4).flat_map(|word| (word as u32 | 0x8000_0000).to_le_bytes()).collect()
}

fn below(bytes: &[u8], format: DiskFormat, below: Option<Arc<Below>>) -> Arc<Below> {
    Arc::new(Below::of(ImageFile::with(bytes), format, below).unwrap())
}

/// An image with nothing of its own, that names a backing file.
fn overlay(shape: Shape) -> Vec<u8> {
    let mut bytes = shape.empty();
    name_backing(&mut bytes, "base");
    bytes
}

fn open_over(bytes: &[u8], below: Arc<Below>) -> Image {
    let role = Role { readonly: false, backed: true };
    let image = Image { below: Some(below), ..Image::of(ImageFile::with(bytes), role).unwrap() };
    image.started();
    image
}

/// Over a disk that is shorter.
fn over_raw(shape: Shape) -> Served {
    let (start, base) = (overlay(shape), raw(shape.size / 4 * 3));
    let image = open_over(&start, below(&base, DiskFormat::Raw, None));
    Served::of(image, start, base, shape)
}

/// Nothing was written to any file below `image`.
fn untouched(image: &Image) {
    let mut next = image.below.as_deref();
    assert!(next.is_some());
    while let Some(layer) = next {
        let (file, below) = match layer {
            Below::Raw(file, _) => (file, None),
            Below::Image(image) => (image.tables.file(), image.below.as_deref()),
        };
        assert!(file.steps.lock().unwrap().is_empty());
        next = below;
    }
}

#[test]
fn killed_at_any_step_it_shows_what_was_answered_and_below_that_what_was_there() {
    for shape in [SMALL_SHAPE, BIG_CLUSTERS] {
        for seed in 20..22 {
            let served = busy(over_raw(shape), shape, seed, 60);
            killed_anywhere(&served, shape);
            untouched(&served.image);
        }
    }
}

#[test]
fn a_host_that_ends_at_any_step_leaves_what_was_flushed_over_what_was_there() {
    for shape in [SMALL_SHAPE, BIG_CLUSTERS] {
        host_ends_anywhere(&busy(over_raw(shape), shape, 30, 50), shape, 30);
    }
}

#[test]
fn a_read_goes_down_to_whichever_file_has_it() {
    let shape = BIG_CLUSTERS;
    let size = shape.size as usize;
    // At the bottom a raw disk that is longer than all above it, then an image of the half, then one of the whole.
    let base = raw(shape.size * 2);
    let (half, lower) = (Shape { size: shape.size / 2, ..shape }, below(&base, DiskFormat::Raw, None));
    let middle = below(&overlay(half), DiskFormat::Qcow2, Some(lower));
    let image = open_over(&overlay(shape), middle);
    let mut seen = base[..size / 2].to_vec();
    seen.resize(size, 0);
    assert!(read(&image, 0, shape.size) == seen);
    write(&image, 5 * 512, &mut [9; 1024]).unwrap();
    seen[5 * 512..7 * 512].fill(9);
    write(&image, shape.size / 2 - 512, &mut [8; 1024]).unwrap();
    seen[size / 2 - 512..size / 2 + 512].fill(8);
    image.write_zeroes(Range { offset: 8192, length: 4096 }, true, &mut AlignedBuffer::new()).unwrap();
    seen[8192..12288].fill(0);
    assert!(read(&image, 0, shape.size) == seen);
    assert!(read(&image, 512, 16384) == seen[512..512 + 16384]);
    untouched(&image);
}

#[test]
fn compressed_clusters_below_are_read_and_copied_up() {
    let (mut bytes, mut data) = compressed();
    let image = open_over(&overlay(BIG_CLUSTERS), below(&bytes, DiskFormat::Qcow2, None));
    assert!(read(&image, 0, 4096) == data);
    write(&image, 512, &mut [7; 512]).unwrap();
    data[512..1024].fill(7);
    assert!(read(&image, 0, 4096) == data);
    // Broken ones are an error of the read, and of the write that needs the rest of the cluster.
    let stored = bytes.len() - 2 * 4096;
    bytes[stored] = 0xff;
    let image = open_over(&overlay(BIG_CLUSTERS), below(&bytes, DiskFormat::Qcow2, None));
    let mut data = vec![0xee; 4096];
    let slices = [VolatileSlice::from(&mut data[..])];
    let range = Range { offset: 0, length: 4096 };
    assert_eq!(image.read(range, &mut Writer::new(&slices), &mut AlignedBuffer::new()), (0, false));
    assert!(write(&image, 512, &mut [7; 512]).is_err());
    write(&image, 8192, &mut [7; 512]).unwrap();
    assert_eq!(read(&image, 8192, 512), [7; 512]);
}

#[test]
fn a_discard_hides_whole_clusters_and_nothing_else() {
    let shape = BIG_CLUSTERS;
    let mut served = over_raw(shape);
    // The first that says anything of its cluster: where that is said is new as well, and there when it is answered.
    served.perform(Op::Discard(65536, 4096));
    killed_anywhere(&served, shape);
    served.perform(Op::Write(4096, 4096, 3));
    served.perform(Op::Discard(512, 3 * 4096));
    let seen = served.answered.last().unwrap().2.clone();
    assert!(seen[4096..12288].iter().all(|byte| *byte == 0) && seen[..4096] == served.below[..4096]);
    assert!(seen[65536..69632].iter().all(|byte| *byte == 0));
    assert!(read(&served.image, 0, shape.size) == seen);
    // What was freed is used again, and nothing of what was in it is seen.
    served.perform(Op::Write(20480, 512, 4));
    served.perform(Op::Write(4096, 512, 5));
    assert!(read(&served.image, 0, shape.size) == served.answered.last().unwrap().2);
    killed_anywhere(&served, shape);
}

#[test]
fn tables_below_with_anything_in_them_are_errors_at_most() {
    let served = at_random(BIG_CLUSTERS, 7, 40);
    let mut bytes = served.start.clone();
    for step in served.steps() {
        if let Step::Write(offset, part) = step {
            apply(&mut bytes, offset, &part);
        }
    }
    let mut numbers = Numbers(11);
    let mut opened = 0;
    for _ in 0..200 {
        let mut bytes = bytes.clone();
        for _ in 0..=numbers.below(6) {
            let at = numbers.below(bytes.len().min(10 * 4096) as u64) as usize;
            bytes[at] = numbers.below(256) as u8;
        }
        let Ok(layer) = Below::of(ImageFile::with(&bytes), DiskFormat::Qcow2, None) else { continue };
        opened += 1;
        let image = open_over(&overlay(BIG_CLUSTERS), Arc::new(layer));
        for offset in (0..BIG_CLUSTERS.size).step_by(16 << 10) {
            let mut data = vec![0; 16 << 10];
            let slices = [VolatileSlice::from(&mut data[..])];
            let range = Range { offset, length: 16 << 10 };
            image.read(range, &mut Writer::new(&slices), &mut AlignedBuffer::new());
            let _ = write(&image, offset + 512, &mut [1; 512]);
        }
        untouched(&image);
    }
    assert!(opened > 20, "{opened}");
}

#[test]
fn which_file_below_is_not_served_is_said_by_its_number() {
    let fd = |bytes: &[u8]| ImageFile::with(bytes).descriptor().try_clone().unwrap();
    let said = |files: Vec<OwnedFd>, formats: &[DiskFormat]| {
        let mut image = Image::new(fd(&overlay(BIG_CLUSTERS)), false, formats).unwrap();
        image.add(files).map_err(|error| error.to_string())
    };
    let both = [DiskFormat::Qcow2, DiskFormat::Qcow2];
    let (good, last) = (overlay(BIG_CLUSTERS), BIG_CLUSTERS.empty());
    assert_eq!(said(vec![fd(&good), fd(&last)], &both), Ok(()));
    assert_eq!(said(vec![fd(&good), fd(&raw(4096))], &[both[0], DiskFormat::Raw]), Ok(()));
    let text = said(vec![fd(&good), fd(&good)], &both).unwrap_err();
    assert!(text.starts_with("backing file 2: ") && text.contains("it calls 'base'"), "{text}");
    let text = said(vec![fd(&last), fd(&last)], &both).unwrap_err();
    assert!(text.starts_with("backing file 1: ") && text.contains("leave that out"), "{text}");
    let text = said(vec![fd(&raw(4096))], &both[..1]).unwrap_err();
    assert!(text.starts_with("backing file 1: ") && text.contains("raw disk"), "{text}");
}

#[test]
fn all_of_the_files_below_are_in_what_is_set_aside() {
    let shape = BIG_CLUSTERS;
    let alone = open(&shape.empty()).heap();
    let image = open_over(&overlay(shape), below(&shape.empty(), DiskFormat::Qcow2, None));
    assert_eq!(image.heap(), 2 * alone);
}
