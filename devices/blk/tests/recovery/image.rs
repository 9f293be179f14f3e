//! What the writes leave on the disk, and what of it is wrong: each sector of a slot says which write it is from.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::front_end::bytes_of;

pub const SECTOR: usize = 512;
/// What one write covers.
pub const SLOT: usize = 8 * SECTOR;
pub const SLOTS: usize = 32;
const MAGIC: u64 = 0x6576_6572_7972_6f77;

/// What is known of one slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slot {
    /// The newest write that the device has reported done; 0 is what the image began with.
    pub done: u64,
    /// The write that is in flight.
    pub writing: Option<u64>,
    /// The newest write that was done when a flush began that is done.
    pub flushed: u64,
    /// `done` was seen on the disk after it was reported.
    pub seen: bool,
    /// Reads that are in flight.
    pub reading: usize,
}

/// The bytes that write `sequence` puts into slot `slot`.
pub fn content(slot: usize, sequence: u64) -> Vec<u8> {
    let sectors = SLOT / SECTOR;
    (slot * sectors..(slot + 1) * sectors).flat_map(|sector| sector_of(sector as u64, sequence)).collect()
}

fn sector_of(sector: u64, sequence: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = [MAGIC, sector, sequence].iter().flat_map(|word| word.to_le_bytes()).collect();
    let filler = (sector << 32 ^ sequence).to_le_bytes();
    bytes.extend(filler.iter().cycle().take(SECTOR - 32));
    let sum = checksum(&bytes);
    bytes.extend(sum.to_le_bytes());
    bytes
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// An image on which each slot has write 0.
pub fn prepare(disk: &File) {
    for slot in 0..SLOTS {
        disk.write_all_at(&content(slot, 0), (slot * SLOT) as u64).unwrap();
    }
}

/// The write that each sector of `bytes`, read from `slot`, is from.
fn sequences(slot: usize, bytes: &[u8]) -> Result<Vec<u64>, String> {
    let sectors = bytes.chunks(SECTOR).zip(slot * (SLOT / SECTOR)..);
    sectors
        .map(|(bytes, sector)| {
            let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            let whole = word(SECTOR - 8) == checksum(&bytes[..SECTOR - 8]);
            if whole && (word(0), word(8)) == (MAGIC, sector as u64) {
                Ok(word(16))
            } else {
                Err(format!("sector {sector} holds what nobody wrote there: {:x?}", &bytes[..32]))
            }
        })
        .collect()
}

/// What is wrong with `bytes`, read from `slot` when that much was known of it.
pub fn verify(slot: usize, known: Slot, bytes: &[u8]) -> Result<(), String> {
    for (sector, found) in sequences(slot, bytes)?.into_iter().enumerate() {
        if found == known.done || Some(found) == known.writing {
            continue;
        }
        let wrong = if found > known.done {
            "a write came from nowhere"
        } else if found < known.flushed {
            "reordered across a flush: what it made durable is not there"
        } else if known.seen {
            "repeated: an older write was applied again"
        } else {
            "lost: a write that was reported done is not there"
        };
        return Err(format!(
            "slot {slot}, sector {sector}: {wrong}: found write {found}, known is {known:?}"
        ));
    }
    Ok(())
}

/// Looks at `slot` on the disk itself.
pub fn verify_on_disk(disk: &File, slot: usize, known: &mut Slot) -> Result<(), String> {
    verify(slot, *known, &bytes_of(disk, (slot * SLOT) as u64, SLOT))?;
    known.seen = true;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: Slot = Slot { done: 7, writing: None, flushed: 5, seen: false, reading: 0 };

    fn wrong(sequence: u64, known: Slot) -> String {
        verify(3, known, &content(3, sequence)).unwrap_err()
    }

    #[test]
    fn every_wrong_effect_is_seen_and_named() {
        verify(3, KNOWN, &content(3, 7)).unwrap();
        assert!(wrong(6, KNOWN).contains("lost"));
        assert!(wrong(6, Slot { seen: true, ..KNOWN }).contains("repeated"));
        assert!(wrong(4, Slot { seen: true, ..KNOWN }).contains("reordered"));
        assert!(wrong(8, KNOWN).contains("nowhere"));
        let mut torn = content(3, 7);
        torn[5 * SECTOR..].copy_from_slice(&content(3, 8)[5 * SECTOR..]);
        verify(3, Slot { writing: Some(8), ..KNOWN }, &torn).unwrap();
        assert!(verify(3, KNOWN, &torn).unwrap_err().contains("sector 5"));
        assert!(verify(2, KNOWN, &content(3, 7)).unwrap_err().contains("nobody"));
        torn[SECTOR - 20] ^= 1;
        assert!(verify(3, Slot { writing: Some(8), ..KNOWN }, &torn).is_err());
    }
}
