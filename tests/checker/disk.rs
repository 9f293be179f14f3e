//! The writers of a disk, past the page cache: one thread for each of its regions, so that as many requests are in flight.
//!
//! In each round a writer goes once over its region in runs of several lengths, in an order that looks random. Some runs it
//! writes twice in a row, since a write that is done again after a later one to the same place is what a careless successor
//! of a dead device does. In between it reads what it or another has just written, or is just writing. Then it flushes, and
//! reads its whole region back.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use nix::fcntl::OFlag;
use system_tests::pattern::{BLOCK, Seeded};

use crate::ledger::{Finding, Findings, Ledger};
use crate::say;

/// Blocks of the longest run.
const RUN: usize = 16;
/// So many findings of a kind are told one by one.
const TOLD: u64 = 8;

struct Disk {
    file: File,
    ledger: Ledger,
    findings: Findings,
    rounds: AtomicU64,
    writes: AtomicU64,
    reads: AtomicU64,
}

/// Checks `device`, which holds zeros, with this many threads until there is a file `end`.
pub fn check(device: &Path, number: u32, threads: usize, end: &Path) -> io::Result<String> {
    let mut file =
        OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_DIRECT.bits()).open(device)?;
    let blocks = usize::try_from(file.seek(SeekFrom::End(0))?).unwrap_or_default() / BLOCK;
    let disk = Disk {
        file,
        ledger: Ledger::new(number, blocks, threads),
        findings: Findings::default(),
        rounds: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        reads: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        for region in 0..threads {
            let disk = &disk;
            scope.spawn(move || Writer::new(disk, region).run(end));
        }
    });
    // Once more, all of it, with nothing in flight.
    for region in 0..threads {
        Writer::new(&disk, region).read_back();
    }
    Ok(disk.line(number))
}

impl Disk {
    fn found(&self, finding: Finding, what: &str) {
        if self.findings.add(finding) <= TOLD {
            say(&format!("finding {finding:?}: {what}"));
        }
    }

    fn line(&self, number: u32) -> String {
        let [rounds, writes, reads] =
            [&self.rounds, &self.writes, &self.reads].map(|count| count.load(Relaxed));
        let (findings, digest) = (&self.findings, self.ledger.digest());
        format!("disk{number} digest={digest} rounds={rounds} writes={writes} reads={reads}{findings}")
    }
}

struct Writer<'d> {
    disk: &'d Disk,
    region: Range<usize>,
    random: Seeded,
    buffer: Buffer,
    round: u64,
    sequence: u64,
}

impl<'d> Writer<'d> {
    fn new(disk: &'d Disk, region: usize) -> Self {
        Self {
            disk,
            region: disk.ledger.region(region),
            random: Seeded::new(u64::try_from(region).unwrap_or_default()),
            buffer: Buffer::new(RUN),
            round: 0,
            sequence: 0,
        }
    }

    fn run(mut self, end: &Path) {
        while !end.exists() {
            self.round = self.round.saturating_add(1);
            for run in self.runs() {
                self.write(run.clone());
                match self.random.below(4) {
                    0 => self.write(run.clone()),
                    1 => self.read(run),
                    2 => self.look_around(),
                    _ => {}
                }
            }
            if let Err(error) = self.disk.file.sync_data() {
                self.disk.found(Finding::Failed, &format!("flush: {error}"));
            }
            self.read_back();
            self.disk.rounds.fetch_add(1, Relaxed);
        }
    }

    /// The region in runs, in disorder.
    fn runs(&mut self) -> Vec<Range<usize>> {
        let mut runs = Vec::new();
        let mut first = self.region.start;
        while first < self.region.end {
            let length = self.random.below(RUN).saturating_add(1);
            let next = first.saturating_add(length).min(self.region.end);
            runs.push(first..next);
            first = next;
        }
        self.random.shuffle(&mut runs);
        runs
    }

    fn write(&mut self, run: Range<usize>) {
        self.sequence = self.sequence.saturating_add(1);
        let (round, sequence, ledger) = (self.round, self.sequence, &self.disk.ledger);
        let data = self.buffer.blocks(run.len());
        let (blocks, _) = data.as_chunks_mut::<BLOCK>();
        for (place, block) in run.clone().zip(blocks) {
            ledger.stamp(place, round, sequence).write(block);
        }
        ledger.send(run.clone(), sequence);
        match self.disk.file.write_all_at(data, offset(run.start)) {
            Ok(()) => ledger.complete(run, round, sequence),
            Err(error) => self.disk.found(Finding::Failed, &format!("write of {run:?}: {error}")),
        }
        self.disk.writes.fetch_add(1, Relaxed);
    }

    fn read(&mut self, run: Range<usize>) {
        let look = self.disk.ledger.before(run.clone());
        let data = self.buffer.blocks(run.len());
        match self.disk.file.read_exact_at(data, offset(run.start)) {
            Ok(()) => {
                for (finding, what) in self.disk.ledger.judge(&look, data) {
                    self.disk.found(finding, &what);
                }
            }
            Err(error) => self.disk.found(Finding::Failed, &format!("read of {run:?}: {error}")),
        }
        self.disk.reads.fetch_add(1, Relaxed);
    }

    /// Reads somewhere in some region.
    fn look_around(&mut self) {
        let region = self.disk.ledger.region(self.random.below(self.disk.ledger.regions()));
        let first = region.start.saturating_add(self.random.below(region.len()));
        let length = self.random.below(RUN).saturating_add(1);
        self.read(first..first.saturating_add(length).min(region.end));
    }

    fn read_back(&mut self) {
        let mut first = self.region.start;
        while first < self.region.end {
            let next = first.saturating_add(RUN).min(self.region.end);
            self.read(first..next);
            first = next;
        }
    }
}

fn offset(place: usize) -> u64 {
    u64::try_from(place.saturating_mul(BLOCK)).unwrap_or(u64::MAX)
}

/// Memory at an address that O_DIRECT takes.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new(blocks: usize) -> Self {
        let bytes = vec![0; blocks.saturating_add(1).saturating_mul(BLOCK)];
        let start = bytes.as_ptr().align_offset(BLOCK);
        Self { bytes, start }
    }

    fn blocks(&mut self, count: usize) -> &mut [u8] {
        let end = self.start.saturating_add(count.saturating_mul(BLOCK));
        self.bytes.get_mut(self.start..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of zeros plays the disk; the end is there from the start, so that there is no round.
    fn disk() -> (tempfile::NamedTempFile, Disk) {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(64 * 4096).unwrap();
        let disk = Disk {
            file: OpenOptions::new().read(true).write(true).open(image.path()).unwrap(),
            ledger: Ledger::new(7, 64, 2),
            findings: Findings::default(),
            rounds: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        };
        (image, disk)
    }

    #[test]
    fn a_disk_that_keeps_what_it_is_given_is_well_and_one_that_does_not_is_not() {
        let (image, disk) = disk();
        let mut writer = Writer::new(&disk, 1);
        writer.round = 1;
        writer.write(32..48);
        let before = std::fs::read(image.path()).unwrap();
        writer.write(32..48);
        writer.read_back();
        assert!(
            disk.line(7)
                .ends_with("reads=2 failed=0 torn=0 misplaced=0 lost=0 repeated=0 reordered=0 invented=0")
        );
        // The first write comes again.
        std::fs::write(image.path(), before).unwrap();
        writer.read_back();
        assert!(disk.line(7).contains(" repeated=16 "), "{}", disk.line(7));
    }

    #[test]
    fn runs_cover_a_region_once() {
        let (_image, disk) = disk();
        let mut runs = Writer::new(&disk, 1).runs();
        runs.sort_by_key(|run| run.start);
        let blocks: Vec<usize> = runs.into_iter().flatten().collect();
        assert_eq!(blocks, (32..64).collect::<Vec<_>>());
    }

    #[test]
    fn a_buffer_is_aligned() {
        let mut buffer = Buffer::new(3);
        let blocks = buffer.blocks(3);
        assert_eq!((blocks.len(), blocks.as_ptr().align_offset(BLOCK)), (3 * BLOCK, 0));
    }
}
