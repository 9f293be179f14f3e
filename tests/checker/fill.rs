//! A disk filled through the page cache, in large writes from its beginning to its end, and read back.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use system_tests::pattern::{BLOCK, Digest, Stamp};

/// Blocks of one write.
const RUN: u16 = 256;

/// Fills `device` with blocks that say that they are disk `number`'s, and flushes.
pub fn fill(device: &Path, number: u32) -> io::Result<String> {
    let mut file = OpenOptions::new().read(true).write(true).open(device)?;
    let mut digest = Digest::default();
    for places in runs(&mut file)? {
        let mut buffer = vec![0; places.len().saturating_mul(BLOCK)];
        for (place, block) in places.zip(buffer.as_chunks_mut().0) {
            stamp(number, place).write(block);
            digest.add(block);
        }
        file.write_all(&buffer)?;
    }
    file.sync_all()?;
    Ok(format!("filled {digest}"))
}

/// Reads what `fill` wrote. Says how many blocks are not what they ought to be.
pub fn read(device: &Path, number: u32) -> io::Result<String> {
    let mut file = File::open(device)?;
    let (mut digest, mut wrong) = (Digest::default(), 0_u64);
    for places in runs(&mut file)? {
        let mut buffer = vec![0; places.len().saturating_mul(BLOCK)];
        file.read_exact(&mut buffer)?;
        for (place, block) in places.zip(buffer.as_chunks().0) {
            let right = Stamp::read(block) == Some(stamp(number, place));
            wrong = wrong.saturating_add(u64::from(!right));
            digest.add(block);
        }
    }
    Ok(format!("read {digest} wrong={wrong}"))
}

fn stamp(disk: u32, place: u32) -> Stamp {
    Stamp { disk, place, round: 1, sequence: u64::from(place).saturating_add(1) }
}

/// All places of the disk, in runs; the file stands at their beginning.
fn runs(file: &mut File) -> io::Result<impl Iterator<Item = std::ops::Range<u32>> + use<>> {
    let bytes = usize::try_from(file.seek(SeekFrom::End(0))?).unwrap_or_default();
    let blocks = u32::try_from(bytes / BLOCK).map_err(io::Error::other)?;
    file.rewind()?;
    Ok((0..blocks).step_by(RUN.into()).map(move |first| first..blocks.min(first.saturating_add(RUN.into()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_filled_is_read_and_a_changed_block_is_seen() {
        let mut disk = tempfile::NamedTempFile::new().unwrap();
        // Not a whole number of runs.
        disk.as_file().set_len(BLOCK as u64 * 300).unwrap();
        let filled = fill(disk.path(), 7).unwrap();
        let read_back = read(disk.path(), 7).unwrap();
        assert_eq!(read_back, format!("{} wrong=0", filled.replace("filled", "read")));
        assert!(read(disk.path(), 8).unwrap().ends_with("wrong=300"), "another disk's");
        disk.seek(SeekFrom::Start(BLOCK as u64 * 299)).unwrap();
        disk.write_all(b"x").unwrap();
        let changed = read(disk.path(), 7).unwrap();
        assert!(changed.ends_with("wrong=1") && changed != read_back);
    }
}
