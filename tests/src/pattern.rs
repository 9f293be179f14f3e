//! Blocks that say what they are: which disk they belong to, where on it, and which write put them there.
//!
//! The guest's checker writes them and the host reads them in the image, each by this module. A block is of 512 words
//! of 64 bits, little-endian: a mark, the disk and the place in one word, the round, the sequence number, a checksum of all
//! other words, and words that follow from the first four, so that no two blocks are alike in any sector and a mixture of
//! two is seen. A block of zeros is one that nobody has written yet.

/// Bytes of a block.
pub const BLOCK: usize = 4096;

const MARK: u64 = u64::from_le_bytes(*b"pattern\0");
const WORDS: usize = BLOCK / 8;
/// Words in front of the filling: the mark, disk and place, round, sequence, checksum.
const HEADER: usize = 5;
const CHECKSUM: usize = 4;

/// What a block says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The disk's number.
    pub disk: u32,
    /// The block's place on it, in blocks.
    pub place: u32,
    /// The writer's round; its rounds are separated by flushes. 0: never written.
    pub round: u64,
    /// The writer's sequence number: no write has a smaller one than a write before it. 0: never written.
    pub sequence: u64,
}

impl Stamp {
    /// Makes `block` the block that says this of itself.
    pub fn write(&self, block: &mut [u8; BLOCK]) {
        let words = if self.sequence == 0 { [0; WORDS] } else { self.words() };
        let (chunks, _) = block.as_chunks_mut::<8>();
        for (bytes, word) in chunks.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
    }

    /// What `block` says of itself; `None` if it is not whole.
    pub fn read(block: &[u8; BLOCK]) -> Option<Self> {
        let (chunks, _) = block.as_chunks::<8>();
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(chunks) {
            *word = u64::from_le_bytes(*bytes);
        }
        if words.iter().all(|word| *word == 0) {
            return Some(Self::default());
        }
        let [mark, place, round, sequence, checksum, ..] = words;
        let stamp = Self { disk: high(place), place: low(place), round, sequence };
        (mark == MARK && checksum == sum(&words) && words == stamp.words()).then_some(stamp)
    }

    fn words(&self) -> [u64; WORDS] {
        let place = u64::from(self.disk) << 32 | u64::from(self.place);
        let mut words = [0; WORDS];
        let header = [MARK, place, self.round, self.sequence, 0];
        let seed = header.iter().fold(0, |seed, word| mixed(seed ^ word));
        let filling = (seed..=u64::MAX).chain(0..).map(mixed);
        for (word, value) in words.iter_mut().zip(header.into_iter().chain(filling)) {
            *word = value;
        }
        let sum = sum(&words);
        if let Some(word) = words.get_mut(CHECKSUM) {
            *word = sum;
        }
        words
    }
}

/// A sum over whole disks, block by block, that guest and host compare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    /// Adds the next block.
    pub fn add(&mut self, block: &[u8; BLOCK]) {
        let (chunks, _) = block.as_chunks::<8>();
        self.0 = chunks.iter().fold(self.0, |sum, bytes| mixed(sum ^ u64::from_le_bytes(*bytes)));
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Of all words but the checksum's own.
fn sum(words: &[u64; WORDS]) -> u64 {
    let (header, filling) = words.split_at(HEADER);
    let header = header.iter().take(CHECKSUM);
    header
        .chain(filling)
        .fold(MARK, |sum, word| (sum.rotate_left(5) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// SplitMix64's output function: neighbours become numbers that have nothing in common.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ number >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ number >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ number >> 31
}

fn high(word: u64) -> u32 {
    u32::try_from(word >> 32).unwrap_or(u32::MAX)
}

fn low(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

/// Numbers that look random, the same ones from the same seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Seeded(u64);

impl Seeded {
    /// Those of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(1);
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        mixed(self.0).checked_rem(end).and_then(|number| usize::try_from(number).ok()).unwrap_or_default()
    }

    /// `list` in another order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for place in (1..list.len()).rev() {
            list.swap(place, self.below(place.saturating_add(1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(stamp: Stamp) -> [u8; BLOCK] {
        let mut block = [0x55; BLOCK];
        stamp.write(&mut block);
        block
    }

    #[test]
    fn a_block_says_what_was_written() {
        let stamp = Stamp { disk: 3, place: 77, round: 5, sequence: 1000 };
        assert_eq!(Stamp::read(&block(stamp)), Some(stamp));
        assert_eq!(Stamp::read(&[0; BLOCK]), Some(Stamp::default()));
        assert_eq!(block(Stamp::default()), [0; BLOCK]);
    }

    #[test]
    fn every_changed_byte_and_every_mixture_is_seen() {
        let stamp = Stamp { disk: 1, place: 2, round: 3, sequence: 4 };
        let (older, newer) = (block(stamp), block(Stamp { sequence: 5, ..stamp }));
        for at in 0..BLOCK {
            let mut changed = older;
            changed[at] ^= 1;
            assert_eq!(Stamp::read(&changed), None, "{at}");
        }
        for sector in 1..BLOCK / 512 {
            let mut torn = older;
            torn[..sector * 512].copy_from_slice(&newer[..sector * 512]);
            assert_eq!(Stamp::read(&torn), None, "{sector}");
        }
        // Each sector of one block differs from that of any other.
        assert!(older.chunks(512).zip(newer.chunks(512)).all(|(old, new)| old != new));
    }

    #[test]
    fn a_digest_depends_on_the_order() {
        let blocks = [1, 2].map(|sequence| block(Stamp { sequence, ..Stamp::default() }));
        let digest = |order: [usize; 2]| {
            let mut digest = Digest::default();
            order.iter().for_each(|nth| digest.add(&blocks[*nth]));
            digest.to_string()
        };
        assert_ne!(digest([0, 1]), digest([1, 0]));
        assert_eq!(digest([0, 1]).len(), 16);
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let list = |seed| {
            let mut list: Vec<u32> = (0..50).collect();
            Seeded::new(seed).shuffle(&mut list);
            list
        };
        assert_eq!(list(7), list(7));
        assert_ne!(list(7), list(8));
        let mut sorted = list(7);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    }
}
