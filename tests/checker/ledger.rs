//! What is known of a disk while many write to it and read from it, and what a read must therefore find.
//!
//! Each block has one writer, which has at most one write to it in flight; anybody may read it. From the sequence numbers
//! noted *before* a read was sent and those noted *after* it was answered follow bounds for what it may find:
//!
//! * what was complete before, or was seen by anybody before, is there: an older number is a write lost, or one done
//!   once more after a later one;
//! * nothing is there that was not sent before the answer came;
//! * a writer flushes between its rounds, so where one block of its region showed round *n*, all of them show at least
//!   round *n* − 1 ever after: else a write overtook a flush.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use system_tests::pattern::{BLOCK, Digest, Stamp};

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// A request was answered with an error.
    Failed,
    /// A block is not whole, and nobody was writing it.
    Torn,
    /// A block belongs elsewhere.
    Misplaced,
    /// A write was answered and is not there.
    Lost,
    /// A block was newer once: an older write was done again.
    Repeated,
    /// A write of the next round is there, and one of the round before the last is not.
    Reordered,
    /// A block has a number that was not used yet.
    Invented,
}

impl Finding {
    const ALL: [Self; 7] = [
        Self::Failed,
        Self::Torn,
        Self::Misplaced,
        Self::Lost,
        Self::Repeated,
        Self::Reordered,
        Self::Invented,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Torn => "torn",
            Self::Misplaced => "misplaced",
            Self::Lost => "lost",
            Self::Repeated => "repeated",
            Self::Reordered => "reordered",
            Self::Invented => "invented",
        }
    }
}

/// How often each was found.
#[derive(Default)]
pub struct Findings([AtomicU64; 7]);

impl Findings {
    fn of(&self, finding: Finding) -> Option<&AtomicU64> {
        Finding::ALL.iter().zip(&self.0).find(|(which, _)| **which == finding).map(|(_, count)| count)
    }

    /// Counts one; returns how many of the kind there are.
    pub fn add(&self, finding: Finding) -> u64 {
        self.of(finding).map_or(0, |count| count.fetch_add(1, SeqCst).saturating_add(1))
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (finding, count) in Finding::ALL.iter().zip(&self.0) {
            write!(f, " {}={}", finding.name(), count.load(SeqCst))?;
        }
        Ok(())
    }
}

/// Sequence numbers of one block.
#[derive(Debug, Default)]
struct Known {
    sent: AtomicU64,
    complete: AtomicU64,
    seen: AtomicU64,
    /// The round of the last complete write.
    round: AtomicU64,
}

/// See above.
pub struct Ledger {
    disk: u32,
    blocks: Vec<Known>,
    /// The highest round that a read has shown, by region.
    rounds: Vec<AtomicU64>,
    /// Blocks of a region.
    region: usize,
}

/// What was known before a read.
pub struct Look {
    first: usize,
    blocks: Vec<(u64, u64, u64)>,
    round: u64,
}

impl Ledger {
    /// Of a disk of zeros, `blocks` long, with a writer for each of `regions` parts of it.
    pub fn new(disk: u32, blocks: usize, regions: usize) -> Self {
        Self {
            disk,
            blocks: (0..blocks).map(|_| Known::default()).collect(),
            rounds: (0..regions).map(|_| AtomicU64::new(0)).collect(),
            region: blocks.checked_div(regions).unwrap_or_default(),
        }
    }

    /// The blocks of a region.
    pub fn region(&self, number: usize) -> Range<usize> {
        let first = number.saturating_mul(self.region);
        first..first.saturating_add(self.region)
    }

    /// Regions.
    pub fn regions(&self) -> usize {
        self.rounds.len()
    }

    /// What block `place` says of itself if it was written last in this round, by the write of this number.
    pub fn stamp(&self, place: usize, round: u64, sequence: u64) -> Stamp {
        Stamp { disk: self.disk, place: u32::try_from(place).unwrap_or(u32::MAX), round, sequence }
    }

    /// A write is about to be sent.
    pub fn send(&self, places: Range<usize>, sequence: u64) {
        for block in self.blocks.get(places).unwrap_or_default() {
            block.sent.store(sequence, SeqCst);
        }
    }

    /// It was answered, and well.
    pub fn complete(&self, places: Range<usize>, round: u64, sequence: u64) {
        for block in self.blocks.get(places).unwrap_or_default() {
            block.round.store(round, SeqCst);
            block.complete.store(sequence, SeqCst);
        }
    }

    /// A read of blocks of one region is about to be sent.
    pub fn before(&self, places: Range<usize>) -> Look {
        let known = self.blocks.get(places.clone()).unwrap_or_default().iter();
        Look {
            first: places.start,
            round: self.shown(places.start).map_or(0, |round| round.load(SeqCst)),
            blocks: known
                .map(|it| (it.sent.load(SeqCst), it.complete.load(SeqCst), it.seen.load(SeqCst)))
                .collect(),
        }
    }

    /// What is wrong with what it found, by block.
    pub fn judge(&self, look: &Look, data: &[u8]) -> Vec<(Finding, String)> {
        let (blocks, _) = data.as_chunks::<BLOCK>();
        let found = (look.first..).zip(blocks).zip(&look.blocks);
        found
            .filter_map(|((place, block), known)| self.judge_block(place, block, *known, look.round))
            .collect()
    }

    fn judge_block(
        &self,
        place: usize,
        block: &[u8; BLOCK],
        (sent, complete, seen): (u64, u64, u64),
        round: u64,
    ) -> Option<(Finding, String)> {
        let known = self.blocks.get(place)?;
        let sent_since = known.sent.load(SeqCst);
        let wrong =
            |finding, what: String| Some((finding, format!("disk {} block {place}: {what}", self.disk)));
        let Some(stamp) = Stamp::read(block) else {
            // A read that meets a write may find a part of it.
            let written_meanwhile = sent != complete || sent_since != sent;
            let what = format!("not whole, last written by {complete}");
            return if written_meanwhile { None } else { wrong(Finding::Torn, what) };
        };
        let number = stamp.sequence;
        if number != 0 && stamp != self.stamp(place, stamp.round, number) {
            return wrong(Finding::Misplaced, format!("{stamp:?}"));
        }
        if number > sent_since {
            return wrong(Finding::Invented, format!("{stamp:?} and the last sent was {sent_since}"));
        }
        if number < seen {
            return wrong(Finding::Repeated, format!("{stamp:?} after {seen} was seen"));
        }
        if number < complete {
            return wrong(Finding::Lost, format!("{stamp:?} after {complete} was complete"));
        }
        known.seen.fetch_max(number, SeqCst);
        let shown = self.shown(place)?;
        shown.fetch_max(stamp.round, SeqCst);
        if stamp.round.saturating_add(1) < round {
            return wrong(Finding::Reordered, format!("{stamp:?} after round {round} was seen"));
        }
        None
    }

    /// The sum of the disk as it must be when nothing is in flight.
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for (place, known) in self.blocks.iter().enumerate() {
            let mut block = [0; BLOCK];
            let (round, sequence) = (known.round.load(SeqCst), known.complete.load(SeqCst));
            self.stamp(place, round, sequence).write(&mut block);
            digest.add(&block);
        }
        digest
    }

    fn shown(&self, place: usize) -> Option<&AtomicU64> {
        self.rounds.get(place.checked_div(self.region)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two blocks with a writer each for `judge`, which finds `block` at place 0.
    fn found(ledger: &Ledger, look: &Look, block: Stamp) -> Vec<Finding> {
        let mut bytes = [0; BLOCK];
        block.write(&mut bytes);
        ledger.judge(look, &bytes).into_iter().map(|(finding, _)| finding).collect()
    }

    fn written(ledger: &Ledger, round: u64, sequence: u64) {
        ledger.send(0..1, sequence);
        ledger.complete(0..1, round, sequence);
    }

    #[test]
    fn what_was_written_last_is_well() {
        let ledger = Ledger::new(1, 2, 1);
        assert_eq!(found(&ledger, &ledger.before(0..1), Stamp::default()), []);
        written(&ledger, 1, 1);
        let look = ledger.before(0..1);
        assert_eq!(found(&ledger, &look, ledger.stamp(0, 1, 1)), []);
        // One that is sent meanwhile may be there.
        ledger.send(0..1, 2);
        assert_eq!(found(&ledger, &look, ledger.stamp(0, 1, 2)), []);
        assert_eq!(found(&ledger, &look, ledger.stamp(0, 1, 3)), [Finding::Invented]);
    }

    #[test]
    fn an_older_write_is_lost_or_came_again() {
        let ledger = Ledger::new(1, 2, 1);
        written(&ledger, 1, 1);
        written(&ledger, 1, 2);
        assert_eq!(found(&ledger, &ledger.before(0..1), ledger.stamp(0, 1, 1)), [Finding::Lost]);
        assert_eq!(found(&ledger, &ledger.before(0..1), Stamp::default()), [Finding::Lost]);
        assert_eq!(found(&ledger, &ledger.before(0..1), ledger.stamp(0, 1, 2)), []);
        assert_eq!(found(&ledger, &ledger.before(0..1), ledger.stamp(0, 1, 1)), [Finding::Repeated]);
    }

    #[test]
    fn one_in_flight_that_was_seen_stays() {
        let ledger = Ledger::new(1, 2, 1);
        written(&ledger, 1, 1);
        ledger.send(0..1, 2);
        let look = ledger.before(0..1);
        assert_eq!(found(&ledger, &look, ledger.stamp(0, 1, 2)), []);
        assert_eq!(found(&ledger, &look, ledger.stamp(0, 1, 1)), [], "this read was sent before");
        assert_eq!(found(&ledger, &ledger.before(0..1), ledger.stamp(0, 1, 1)), [Finding::Repeated]);
    }

    #[test]
    fn a_block_of_elsewhere_is_misplaced() {
        let ledger = Ledger::new(1, 2, 1);
        written(&ledger, 1, 1);
        let look = ledger.before(0..1);
        assert_eq!(found(&ledger, &look, ledger.stamp(1, 1, 1)), [Finding::Misplaced]);
        assert_eq!(found(&ledger, &look, Stamp { disk: 2, ..ledger.stamp(0, 1, 1) }), [Finding::Misplaced]);
    }

    #[test]
    fn parts_are_found_only_while_somebody_writes() {
        let ledger = Ledger::new(1, 2, 1);
        written(&ledger, 1, 1);
        let torn = |look: &Look| ledger.judge(look, &[7; BLOCK]).len();
        let look = ledger.before(0..1);
        assert_eq!(torn(&look), 1);
        ledger.send(0..1, 2);
        assert_eq!(torn(&look), 0, "sent after the read was");
        assert_eq!(torn(&ledger.before(0..1)), 0, "sent before");
        ledger.complete(0..1, 1, 2);
        assert_eq!(torn(&ledger.before(0..1)), 1);
    }

    #[test]
    fn a_round_is_whole_before_the_next_but_one_begins() {
        let ledger = Ledger::new(1, 2, 1);
        written(&ledger, 1, 1);
        ledger.send(1..2, 5);
        ledger.complete(1..2, 3, 5);
        let mut bytes = [0; BLOCK];
        ledger.stamp(1, 3, 5).write(&mut bytes);
        assert!(ledger.judge(&ledger.before(1..2), &bytes).is_empty());
        assert_eq!(found(&ledger, &ledger.before(0..1), ledger.stamp(0, 1, 1)), [Finding::Reordered]);
    }

    #[test]
    fn the_digest_is_that_of_what_was_completed() {
        let ledger = Ledger::new(1, 2, 2);
        written(&ledger, 4, 9);
        let mut digest = Digest::default();
        let mut block = [0; BLOCK];
        ledger.stamp(0, 4, 9).write(&mut block);
        digest.add(&block);
        digest.add(&[0; BLOCK]);
        assert_eq!(ledger.digest(), digest);
    }

    #[test]
    fn findings_are_counted_by_kind() {
        let findings = Findings::default();
        assert_eq!(findings.add(Finding::Lost), 1);
        assert_eq!(findings.add(Finding::Lost), 2);
        findings.add(Finding::Torn);
        let line = findings.to_string();
        assert_eq!(line, " failed=0 torn=1 misplaced=0 lost=2 repeated=0 reordered=0 invented=0");
    }
}
