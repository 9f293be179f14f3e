//! What a driver says: on `inflateq` page numbers of 32 bits, one after the other (virtio 1.2, §5.5.6), on `statsq` numbers of
//! 64 bits behind a tag (§5.5.6.3). The only parser of guest bytes, and pure.
//!
//! Page numbers are allegations: the same page twice, pages outside memory and numbers in any order are all no more than what
//! they are, and lead to runs of pages that somebody else checks against the regions. The others are passed on to whoever
//! asked, unknown tags too, and nothing is done by them.

use device_backend::Reader;
use protocol::{Statistic, limits};

use crate::wire::{PAGE, STATISTIC};

/// Most page numbers that are looked at in one request: Linux sends 256. What is beyond them stays with the guest, which
/// costs the host memory and nobody else anything; each could be a system call of its own, and a ring is not stopped
/// in the middle of a request.
pub const MOST: usize = 16_384;

/// Most statistics that are passed on: Linux knows 16.
pub const MOST_STATISTICS: usize = limits::MAX_ENTRIES;

/// Pages one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Guest-physical, of the first.
    pub address: u64,
    /// In bytes, a whole number of pages.
    pub length: u64,
}

/// The pages of a request, each once, as few runs as there can be. A number that is cut off at the end is none.
#[must_use]
pub fn runs(mut reader: Reader<'_, '_>) -> Vec<Run> {
    let mut pages = Vec::new();
    let mut number = [0; 4];
    while pages.len() < MOST && reader.read_exact(&mut number).is_ok() {
        pages.push(u64::from(u32::from_le_bytes(number)));
    }
    pages.sort_unstable();
    pages.dedup();
    let mut runs: Vec<Run> = Vec::new();
    for address in pages.into_iter().map(|page| page.saturating_mul(PAGE)) {
        match runs.last_mut() {
            Some(run) if run.address.saturating_add(run.length) == address => {
                run.length = run.length.saturating_add(PAGE);
            }
            _ => runs.push(Run { address, length: PAGE }),
        }
    }
    runs
}

/// The statistics of a buffer, in its order. One that is cut off at the end is none.
#[must_use]
pub fn statistics(mut reader: Reader<'_, '_>) -> Vec<Statistic> {
    let mut told = Vec::new();
    let mut bytes = [0; STATISTIC];
    while told.len() < MOST_STATISTICS && reader.read_exact(&mut bytes).is_ok() {
        let [t0, t1, value @ ..] = bytes;
        told.push(Statistic { tag: u16::from_le_bytes([t0, t1]), value: u64::from_le_bytes(value) });
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::VolatileSlice;

    fn of(bytes: &[u8]) -> Vec<(u64, u64)> {
        let mut bytes = bytes.to_vec();
        let slices = [VolatileSlice::from(&mut bytes[..])];
        runs(Reader::new(&slices)).iter().map(|run| (run.address / PAGE, run.length / PAGE)).collect()
    }

    fn numbers(pages: &[u32]) -> Vec<u8> {
        pages.iter().flat_map(|page| page.to_le_bytes()).collect()
    }

    #[test]
    fn pages_in_any_order_and_twice_are_runs() {
        assert_eq!(of(&numbers(&[7, 3, 5, 4, 3, 7, 9])), [(3, 3), (7, 1), (9, 1)]);
        assert_eq!(of(&numbers(&[u32::MAX, u32::MAX - 1, 0])), [(0, 1), (u64::from(u32::MAX) - 1, 2)]);
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[1, 0, 0, 0, 2, 0, 0]), [(1, 1)], "half a number is none");
    }

    /// The buffer in pieces of `piece` bytes.
    fn told(bytes: &[u8], piece: usize) -> Vec<(u16, u64)> {
        let mut bytes = bytes.to_vec();
        let slices: Vec<_> = bytes.chunks_mut(piece).map(VolatileSlice::from).collect();
        statistics(Reader::new(&slices)).iter().map(|it| (it.tag, it.value)).collect()
    }

    #[test]
    fn statistics_are_what_they_are_however_they_lie() {
        let mut bytes = Vec::new();
        for (tag, value) in [(4u16, 300u64), (0xFFFF, u64::MAX), (4, 0)] {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        let all = [(4, 300), (0xFFFF, u64::MAX), (4, 0)];
        for piece in [1, 3, 10, 11, 30] {
            assert_eq!(told(&bytes, piece), all, "{piece}");
        }
        assert_eq!(told(&bytes[..29], 7), all[..2], "one that is cut off is none");
        assert_eq!(told(&bytes[..9], 9), []);
        assert_eq!(told(&[], 1), []);
        assert_eq!(told(&vec![0xFF; 100_000], 4096).len(), MOST_STATISTICS);
    }

    #[test]
    fn a_request_without_end_has_one() {
        let many: Vec<u32> = (0..100_000).map(|page| page * 2).collect();
        assert_eq!(of(&numbers(&many)).len(), MOST);
    }
}
