//! Which blocks are plugged: a bit for each. Pure.
//!
//! Invariant: there are as many bits as blocks, rounded up to whole bytes, and those behind the last block are 0.

use std::ops::Range;

use crate::wire::BlockState;

/// See above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocks {
    bits: Vec<u8>,
    count: usize,
}

impl Blocks {
    /// So many, none plugged.
    pub fn none(count: usize) -> Self {
        Self { bits: vec![0; count.div_ceil(8)], count }
    }

    /// The same number of blocks by the bytes that somebody has left, if they are of the form of [`Blocks::bytes`].
    pub fn like(&self, bytes: &[u8]) -> Option<Self> {
        let found = Self { bits: bytes.to_vec(), count: self.count };
        let behind = (self.count..bytes.len().saturating_mul(8)).any(|block| found.is_plugged(block));
        (bytes.len() == self.bits.len() && !behind).then_some(found)
    }

    /// The first block's bit is the lowest of the first byte.
    pub fn bytes(&self) -> &[u8] {
        &self.bits
    }

    /// How many are plugged.
    pub fn plugged(&self) -> u64 {
        self.bits.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }

    /// What the blocks of `range` are. Of none nothing is plugged.
    pub fn state(&self, range: Range<usize>) -> BlockState {
        let total = range.len();
        match range.filter(|block| self.is_plugged(*block)).count() {
            0 => BlockState::Unplugged,
            plugged if plugged == total => BlockState::Plugged,
            _ => BlockState::Mixed,
        }
    }

    /// Makes those of `range` plugged or not. There is nothing to be done for what is no block.
    pub fn set(&mut self, range: Range<usize>, plugged: bool) {
        for block in range.start..range.end.min(self.count) {
            let Some(byte) = self.bits.get_mut(block / 8) else { return };
            let bit = 1 << (block % 8);
            *byte = if plugged { *byte | bit } else { *byte & !bit };
        }
    }

    fn is_plugged(&self, block: usize) -> bool {
        self.bits.get(block / 8).is_some_and(|byte| byte & 1 << (block % 8) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_set_and_counted_across_bytes_and_to_the_last() {
        let mut blocks = Blocks::none(19);
        blocks.set(6..17, true);
        assert_eq!((blocks.bytes(), blocks.plugged()), (&[0xC0, 0xFF, 1][..], 11));
        let state = |range| blocks.state(range);
        assert_eq!(
            [state(6..17), state(5..17), state(6..18), state(0..6), state(17..19), state(3..3)],
            [
                BlockState::Plugged,
                BlockState::Mixed,
                BlockState::Mixed,
                BlockState::Unplugged,
                BlockState::Unplugged,
                BlockState::Unplugged
            ]
        );
        blocks.set(7..8, false);
        blocks.set(18..100, true);
        assert_eq!((blocks.bytes(), blocks.plugged()), (&[0x40, 0xFF, 5][..], 11));
    }

    #[test]
    fn what_somebody_left_has_a_bit_for_each_block_and_no_more() {
        let blocks = Blocks::none(19);
        assert_eq!(blocks.like(&[1, 2, 7]).unwrap().bytes(), [1, 2, 7]);
        for bytes in [&[][..], &[0, 0], &[0, 0, 0, 0], &[0, 0, 8], &[0, 0, 0x80]] {
            assert_eq!(blocks.like(bytes), None, "{bytes:?}");
        }
    }
}
