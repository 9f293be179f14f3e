//! How large the disk is by now: found out, and made larger, while it is served.
//!
//! By reading, not by asking for the size: that takes no system call which serving has not anyway. A block that can be
//! read whole is there, one of which nothing can be read lies behind the end, and as there is one end, it is found in
//! some sixty reads at most, and in two if it is where it was. A file is made larger by writing its last block: what lies
//! between reads as zeroes and takes no space yet.

use std::fmt::Display;

use device_backend::{Durability, read_at, write_at};
use nix::errno::Errno;
use protocol::limits::MAX_DISK;

use crate::disk::Disk;

/// What the user wants, for a disk that the guest knows with `known` bytes: the size from now on.
///
/// # Errors
/// Why not, in one line. What the guest knows is as it was.
pub fn resized(disk: &Disk, known: u64, wanted: Option<u64>, readonly: bool) -> Result<u64, String> {
    let present = present(disk, known)?;
    let Some(wanted) = wanted else {
        return match present {
            smaller if smaller < known => Err(shrinking(known, smaller)),
            same if same == known => Err(format!(
                "the disk has the {known} bytes that the guest knows: make it larger first, or say how large it is to be"
            )),
            larger => Ok(larger),
        };
    };
    let block = disk.unit();
    match wanted {
        odd if !odd.is_multiple_of(block) => {
            Err(format!("{odd} bytes are not a multiple of the disk's block of {block}"))
        }
        smaller if smaller < known => Err(shrinking(known, smaller)),
        smaller if smaller < present => Err(format!(
            "the disk has {present} bytes, more than {smaller}: without a size the guest gets them all"
        )),
        same if same == present => Ok(same),
        _ if readonly => Err(format!("the disk has {present} bytes and is read-only: make it larger first")),
        larger => grow(disk, larger).map(|()| larger).map_err(|errno| {
            format!(
                "the disk has {present} bytes and cannot be given {larger} from here ({errno}): make it larger first"
            )
        }),
    }
}

/// A guest that uses the disk has something everywhere on it, for all that anybody knows.
fn shrinking(known: u64, wanted: u64) -> String {
    format!(
        "the guest knows {known} bytes of the disk, and {wanted} are fewer: a disk is not made smaller under a guest, which \
         would lose what is there"
    )
}

/// The size in bytes, which was `near` when it was last looked at.
///
/// # Errors
/// Why it is not known, or cannot be used.
pub fn present(disk: &Disk, near: u64) -> Result<u64, String> {
    let block = disk.unit();
    let number = |bytes: u64| bytes.checked_div(block).unwrap_or(0);
    let whole = usize::try_from(block).unwrap_or(usize::MAX);
    let read = |number: u64| {
        let at = number.saturating_mul(block);
        read_block(disk, at).map_err(|errno| unknown(&format!("byte {at} cannot be read: {errno}")))
    };
    let blocks = end(number(near), number(MAX_DISK), |number| read(number).map(|bytes| bytes == whole))?;
    let size = blocks.saturating_mul(block);
    match read(blocks) {
        _ if size >= MAX_DISK => Err(unknown(&"it has no end")),
        Ok(0) => Ok(size),
        Ok(rest) => Err(format!(
            "the disk ends {rest} bytes behind its last whole block of {block}: make its size a multiple of that"
        )),
        Err(error) => Err(error),
    }
}

fn unknown(why: &dyn Display) -> String {
    format!("the size of the disk cannot be found out: {why}")
}

/// How many blocks there are, fewer than `most`, if `is_there` says of each whether it is. At first near `near`.
fn end<E>(near: u64, most: u64, mut is_there: impl FnMut(u64) -> Result<bool, E>) -> Result<u64, E> {
    // All below `low` are there, and `high` is not.
    let (mut low, mut high) = (0, most);
    let (mut at, mut step) = (near.saturating_sub(1), 0u64);
    while at < high {
        if is_there(at)? {
            low = at.saturating_add(1);
            at = low.saturating_add(step);
            step = step.saturating_mul(2).max(1);
        } else {
            high = at;
        }
    }
    while low < high {
        let middle = low.midpoint(high);
        if is_there(middle)? {
            low = middle.saturating_add(1);
        } else {
            high = middle;
        }
    }
    Ok(low)
}

fn read_block(disk: &Disk, at: u64) -> Result<usize, Errno> {
    disk.with_block(|fd, block| read_at(fd, block, at))
}

/// The size is on the medium before anybody hears of it: a driver may write there at once, and what it flushes has to be
/// found again.
fn grow(disk: &Disk, size: u64) -> Result<(), Errno> {
    let at = size.saturating_sub(disk.unit());
    disk.with_block(|fd, block| {
        block.fill(0);
        let written = write_at(fd, block, at, Durability::Immediate)?;
        if written == block.len() { Ok(()) } else { Err(Errno::ENOSPC) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::fs::File;
    use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

    fn disk(size: u64) -> (Disk, File) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        (Disk::new(file.try_clone().unwrap().into(), false).unwrap(), file)
    }

    #[test]
    fn the_end_is_found_wherever_it_is_and_at_once_where_it_was() {
        for size in [0, 1, 2, 3, 7, 8, 1000, 1 << 20, (1 << 40) + 5, (1 << 53) - 2, (1 << 53) - 1] {
            for near in [0, 1, 2, 999, 1000, 1001, 1 << 20, 1 << 52, size, size + 1] {
                let mut looks = 0;
                let found = end(near, 1 << 53, |number| {
                    looks += 1;
                    Ok::<_, Infallible>(number < size)
                });
                assert_eq!(found, Ok(size), "near {near}");
                assert!(looks <= 108 && (looks <= 2 || near != size), "{looks} looks from {near} to {size}");
            }
        }
        assert_eq!(end(5, 100, |_| Ok::<_, Infallible>(true)), Ok(100));
        assert_eq!(end(5, 100, |_| Err(Errno::EIO)), Err(Errno::EIO));
    }

    #[test]
    fn what_the_host_made_larger_is_taken_whole() {
        let (disk, file) = disk(8192);
        for size in [8704, 1 << 20, 3 << 30, (1 << 40) + 512] {
            file.set_len(size).unwrap();
            assert_eq!(resized(&disk, 8192, None, true), Ok(size));
            assert_eq!(resized(&disk, 8192, Some(size), true), Ok(size));
        }
        assert_eq!(file.metadata().unwrap().len(), (1 << 40) + 512);
    }

    #[test]
    fn a_file_is_made_larger_and_keeps_what_it_has() {
        let (disk, file) = disk(8192);
        file.write_all_at(&[0x5A; 8192], 0).unwrap();
        for size in [8704, 1 << 20, 5 << 30] {
            assert_eq!(resized(&disk, 8192, Some(size), false), Ok(size));
            assert_eq!(file.metadata().unwrap().len(), size);
        }
        let mut begin = vec![0; 1 << 20];
        file.read_exact_at(&mut begin, 0).unwrap();
        assert!(begin[..8192].iter().all(|byte| *byte == 0x5A));
        assert!(begin[8192..].iter().all(|byte| *byte == 0));
        assert!(file.metadata().unwrap().blocks() < 1024, "it is sparse");
    }

    #[test]
    fn direct_io_looks_and_grows_by_its_own_blocks() {
        // Beside this program: the folder for temporary files may be in memory, where old kernels have no direct I/O.
        let program = std::env::current_exe().unwrap();
        let file = tempfile::NamedTempFile::new_in(program.parent().unwrap()).unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let mut options = File::options();
        let direct = options.read(true).write(true).custom_flags(nix::libc::O_DIRECT);
        let disk = Disk::new(direct.open(file.path()).unwrap().into(), true).unwrap();
        assert_eq!(resized(&disk, 1 << 20, Some(2 << 20), false), Ok(2 << 20));
        assert_eq!(file.as_file().metadata().unwrap().len(), 2 << 20);
        file.as_file().set_len(3 << 20).unwrap();
        assert_eq!(resized(&disk, 2 << 20, None, false), Ok(3 << 20));
        file.as_file().set_len((3 << 20) + 100).unwrap();
        let why = resized(&disk, 2 << 20, None, false).unwrap_err();
        assert!(why.contains("ends 100 bytes behind its last whole block"), "{why}");
    }

    #[test]
    fn what_cannot_be_is_refused_in_one_line_and_changes_nothing() {
        let (disk, file) = disk(1 << 20);
        let known = 1 << 20;
        let refused = |wanted, readonly, part: &str| {
            let before = file.metadata().unwrap().len();
            let why = resized(&disk, known, wanted, readonly).unwrap_err();
            assert!(why.contains(part) && !why.contains('\n'), "{why}");
            assert_eq!(file.metadata().unwrap().len(), before);
        };
        refused(None, false, "has the 1048576 bytes that the guest knows");
        refused(Some(known - 512), false, "not made smaller under a guest");
        refused(Some(0), false, "not made smaller under a guest");
        refused(Some(known + 1), false, "not a multiple of the disk's block of 512");
        refused(Some(known + 512), true, "read-only");
        refused(Some(u64::MAX - 511), false, "cannot be given 18446744073709551104 from here");
        file.set_len(known + 4096).unwrap();
        refused(Some(known + 512), false, "has 1052672 bytes, more than");
        for end in [known + 100, 100, 512 * 3 + 511] {
            file.set_len(end).unwrap();
            refused(None, false, "make its size a multiple");
            refused(Some(known + 512), false, "make its size a multiple");
        }
        file.set_len(known / 2).unwrap();
        refused(None, false, "524288 are fewer");
        assert_eq!(resized(&disk, known, Some(known), false), Ok(known), "what the host took away is back");
        assert_eq!(file.metadata().unwrap().len(), known);
    }

    #[test]
    fn an_error_of_the_medium_is_no_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let unreadable = File::options().write(true).open(file.path()).unwrap();
        let disk = Disk::new(unreadable.into(), false).unwrap();
        let why = resized(&disk, 4096, None, false).unwrap_err();
        assert!(why.contains("byte 3584 cannot be read"), "{why}");
    }
}
