//! The host's view of a disk on which fio works: that it goes on, without knowing what it writes.
//!
//! A process that takes over has to do again what its predecessor had taken, and does it first: a queue is served in its
//! order. So a queue has given back all of it once a write is in the image that was issued after the process began to
//! serve. Which write that is nobody can tell from outside, but a writer has no more in flight than its depth: when more
//! places than that have changed, one of them was changed by a younger write.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Enough of a block to tell a write from the one before, by fio's header or by what the block is filled with.
const BEGINNING: usize = 64;

/// What one writer writes, as the guest's job `fio` has it.
#[derive(Debug, Clone, Copy)]
pub struct Region {
    /// Where it begins on the disk, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub size: u64,
    /// The largest block that is written.
    pub block: u64,
    /// The most that is in flight at a time.
    pub depth: usize,
}

/// The beginnings of blocks.
type Seen = Vec<[u8; BEGINNING]>;

/// An image, with the writers of each of its disk's queues.
#[derive(Debug)]
pub struct Regions {
    image: File,
    queues: Vec<Vec<Region>>,
    /// What was there when the process that serves it now began.
    then: Option<Vec<Vec<Seen>>>,
}

impl Regions {
    /// Those of the image at `path`.
    pub fn of(path: &Path, queues: Vec<Vec<Region>>) -> Self {
        Self { image: File::open(path).expect("our own image"), queues, then: None }
    }

    /// The process that serves the disk is another from now on.
    pub fn begin_anew(&mut self) {
        self.then = None;
    }

    /// Whether each queue has given back all that its process found when it began, of which the first look of each takes
    /// note.
    pub fn have_progressed(&mut self) -> bool {
        let now: Vec<Vec<Seen>> =
            self.queues.iter().map(|queue| queue.iter().map(|region| self.look(*region)).collect()).collect();
        let then = self.then.get_or_insert_with(|| now.clone());
        let queues = self.queues.iter().zip(now.iter().zip(then.iter()));
        queues.into_iter().all(|(regions, (now, then))| {
            // Those that share a queue share its order.
            regions.iter().zip(now.iter().zip(then)).any(|(region, (now, then))| {
                now.iter().zip(then).filter(|(now, then)| now != then).count() > region.depth
            })
        })
    }

    /// The beginnings of the blocks of a region. No write covers more than one of these places.
    fn look(&self, Region { offset, size, block, .. }: Region) -> Seen {
        let places = (offset..offset + size).step_by(usize::try_from(block).expect("small"));
        let beginning = |place| {
            let mut bytes = [0; BEGINNING];
            self.image.read_exact_at(&mut bytes, place).expect("our own image");
            bytes
        };
        places.map(beginning).collect()
    }
}

#[test]
fn each_queue_has_to_change_more_than_may_have_been_in_flight() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(48 << 10).unwrap();
    let region = |offset, depth| Region { offset, size: 16 << 10, block: 4 << 10, depth };
    let queues = vec![vec![region(0, 1), region(16 << 10, 0)], vec![region(32 << 10, 2)]];
    let mut regions = Regions::of(file.path(), queues);
    let write = |place: u64| file.as_file().write_all_at(b"other", place << 12).unwrap();
    assert!(!regions.have_progressed());
    // One in flight of one, and three of two in the other queue.
    [0, 8, 9, 11].into_iter().for_each(write);
    assert!(!regions.have_progressed());
    // Two of one.
    write(1);
    assert!(regions.have_progressed());
    regions.begin_anew();
    assert!(!regions.have_progressed());
    // The other writer of the queue will do, but not for the other queue.
    write(4);
    assert!(!regions.have_progressed());
    [8, 9].into_iter().for_each(|place| file.as_file().write_all_at(b"third", place << 12).unwrap());
    assert!(!regions.have_progressed());
    write(10);
    assert!(regions.have_progressed());
}
