//! The host's view of a disk that the guest's checker writes.

use std::fs::File;
use std::os::unix::fs::FileExt;

use system_tests::pattern::{BLOCK, Stamp};
use system_tests::{Disk, Result};

/// The guest's writers: each has a region of this many equal ones.
pub const WRITERS: usize = 4;
/// Where round and sequence number of a block are, and how long.
const NUMBERS: (u64, usize) = (16, 16);

/// An image, and what it has shown.
pub struct Image {
    pub disk: Disk,
    file: File,
    blocks: u64,
    rounds: [u64; WRITERS],
}

impl Image {
    /// A disk of zeros.
    pub fn empty(bytes: u64) -> Result<Self> {
        let disk = Disk::empty(bytes)?;
        let file = File::open(disk.path()).expect("our own image");
        Ok(Self { disk, file, blocks: bytes / BLOCK as u64, rounds: [0; WRITERS] })
    }

    /// How far each writer has come: the highest sequence number in its region. Asserts that no write has overtaken a
    /// flush: while a block shows a round, the others show at least the one before it.
    pub fn progress(&mut self) -> [u64; WRITERS] {
        let mut furthest = [0; WRITERS];
        let region = self.blocks / WRITERS as u64;
        for place in 0..self.blocks {
            let mut numbers = [0; NUMBERS.1];
            self.file.read_exact_at(&mut numbers, place * BLOCK as u64 + NUMBERS.0).expect("our own image");
            let (words, _) = numbers.as_chunks();
            let (round, sequence) = (u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]));
            let writer = usize::try_from(place / region).expect("small");
            let shown = &mut self.rounds[writer];
            assert!(round + 1 >= *shown, "block {place} shows round {round} after another showed {shown}");
            *shown = round.max(*shown);
            furthest[writer] = sequence.max(furthest[writer]);
        }
        furthest
    }
}

#[test]
fn an_image_in_which_a_write_overtook_a_flush_is_refused() {
    let mut image = Image::empty(16 * BLOCK as u64).unwrap();
    let put = |image: &Image, place: u32, round: u64| {
        let mut block = [0; BLOCK];
        Stamp { disk: 0, place, round, sequence: round * 10 }.write(&mut block);
        let file = File::options().write(true).open(image.disk.path()).unwrap();
        file.write_all_at(&block, u64::from(place) * BLOCK as u64).unwrap();
    };
    for place in 0..16 {
        put(&image, place, 1);
    }
    put(&image, 5, 2);
    assert_eq!(image.progress(), [10, 20, 10, 10]);
    image.disk.digest(0).unwrap();
    put(&image, 9, 3);
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| image.progress()));
    assert!(refused.is_err());
}
