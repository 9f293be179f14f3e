//! What an image says of itself (the format's specification, "Header"), checked before `imago` sees any of it.
//!
//! An image may come from anywhere. What is refused here is what this program does not serve, what no correct image has,
//! and what would have it allocate without bound. Each is one line that says what to do.

use std::ops::Range;

use device_backend::Error;
use nix::errno::Errno;
use protocol::limits::MAX_DISK;

use crate::file::ImageFile;

const MAGIC: u32 = 0x5146_49fb;
/// Bytes of a header of version 3; one of version 2 has 72.
pub const VERSION_3: usize = 104;
/// 512 bytes to 2 MiB, as QEMU has it.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Of the L1 and of the refcount table, as QEMU has it: 32 MiB each.
const MAX_ENTRIES: u64 = 4 << 20;
const ENTRY: u64 = 8;
/// The host's largest offset (bits 9 to 55 of an entry).
const MAX_OFFSET: u64 = 1 << 56;

/// Bits of `incompatible_features`, and what to say of an image that has one.
const INCOMPATIBLE: [&str; 5] = [
    "is marked dirty: whoever had it open did not close it; repair it with qemu-img check -r all",
    "is marked corrupt: repair it with qemu-img check -r all",
    "has its data in another file, which is not served: qemu-img convert -O qcow2 makes one image of it",
    "is compressed by another method than deflate: qemu-img convert -O qcow2 makes one that can be served",
    "has extended L2 entries, which are not served: qemu-img convert -O qcow2 makes one without",
];

/// Header extensions whose form matters here.
const FEATURE_NAMES: u32 = 0x6803_f857;
const FEATURE_NAME: usize = 48;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const DATA_FILE: u32 = 0x4441_5441;

/// Bytes of a backing file's name that are shown.
const SHOWN: u64 = 100;

/// What an image is there for.
#[derive(Debug, Clone, Copy)]
pub struct Role {
    /// Nothing in it is changed.
    pub readonly: bool,
    /// Another file is below it, which its user named.
    pub backed: bool,
}

/// What is needed of a header that was found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the guest sees, in bytes.
    pub size: u64,
    pub cluster_bits: u32,
    /// Where the L1 table is. It covers `size`, so that it never has to move.
    pub l1: Range<u64>,
    /// Where the refcount table is; its clusters, to the end.
    pub refcounts: Range<u64>,
}

impl Header {
    /// Reads that of the image in `file`, which has `file_size` bytes.
    ///
    /// # Errors
    /// [`Error::Resource`]: what is wrong with it, in one line.
    pub fn of(file: &ImageFile, file_size: u64, role: Role) -> Result<Self, Error> {
        let mut bytes = [0; VERSION_3];
        file.read(&mut bytes, 0).map_err(unread)?;
        let header = Self::parse(&bytes, file_size)?;
        check_backing(file, &bytes, role)?;
        if word(&bytes, 4) != Some(2) {
            header.check_extensions(file, word(&bytes, 100).unwrap_or(0), role.backed)?;
        }
        if !role.readonly {
            header.check_entries(file)?;
        }
        Ok(header)
    }

    /// Where the tables are by these bytes of a header that `imago` writes.
    pub fn refcounts(bytes: &[u8], cluster_bits: u32) -> Option<Range<u64>> {
        let at = long(bytes, 48)?;
        let length = u64::from(word(bytes, 56)?).checked_shl(cluster_bits)?;
        Some(at..at.checked_add(length)?)
    }

    fn parse(bytes: &[u8], file_size: u64) -> Result<Self, Error> {
        let (word, long) = (|at| word(bytes, at).unwrap_or(0), |at| long(bytes, at).unwrap_or(0));
        let version = word(4);
        if word(0) != MAGIC || (version != 2 && version != 3) {
            return Err(refused("is none, or of another version than 2 and 3; a raw disk is device-blk's"));
        }
        let (cluster_bits, size) = (word(20), long(24));
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(refused(format!(
                "has clusters of 2^{cluster_bits} bytes: 2^9 to 2^21 can be served"
            )));
        }
        if word(32) != 0 {
            return Err(refused("is encrypted, which is not served: qemu-img convert -O qcow2 decrypts it"));
        }
        if word(60) != 0 {
            return Err(refused(
                "has internal snapshots, which are not served: delete them with qemu-img snapshot -d",
            ));
        }
        if version == 3 {
            check_version_3(bytes, 1 << cluster_bits)?;
        }
        if size == 0 || !size.is_multiple_of(512) || size >= MAX_DISK {
            return Err(refused(format!(
                "is of a disk of {size} bytes, which is none, no multiple of 512 or more than {MAX_DISK}"
            )));
        }
        let refcounts = Self::refcounts(bytes, cluster_bits).unwrap_or(0..0);
        let l1_end = long(40).checked_add(u64::from(word(36)).saturating_mul(ENTRY));
        let l1 = long(40)..l1_end.unwrap_or(0);
        let header = Self { size, cluster_bits, l1, refcounts };
        header.check_tables(file_size)?;
        Ok(header)
    }

    /// Bytes of a cluster.
    pub fn cluster(&self) -> u64 {
        1u64.checked_shl(self.cluster_bits).unwrap_or(u64::MAX)
    }

    fn check_tables(&self, file_size: u64) -> Result<(), Error> {
        let cluster = self.cluster();
        // A table of L2 entries has a cluster, and each entry stands for one.
        let covered = cluster.saturating_mul(cluster / ENTRY);
        let needed = self.size.div_ceil(covered.max(1));
        for (name, table, least) in [("L1 table", &self.l1, needed), ("refcount table", &self.refcounts, 1)] {
            let entries = table.end.saturating_sub(table.start) / ENTRY;
            if !(least..=MAX_ENTRIES).contains(&entries) {
                return Err(refused(format!(
                    "has {entries} entries in its {name}: {least} to {MAX_ENTRIES} can be served"
                )));
            }
            let inside = table.start >= cluster && table.end <= file_size.min(MAX_OFFSET);
            if !inside || !table.start.is_multiple_of(cluster) {
                return Err(refused(format!(
                    "is cut off or corrupt: its {name}, at {} to {} of {file_size} bytes, is not in it",
                    table.start, table.end
                )));
            }
        }
        if self.l1.start < self.refcounts.end && self.refcounts.start < self.l1.end {
            return Err(refused("is corrupt: its L1 table and its refcount table are in one place"));
        }
        Ok(())
    }

    /// `imago` indexes into the feature names without looking, and takes the names of files for text.
    fn check_extensions(&self, file: &ImageFile, header_length: u32, backed: bool) -> Result<(), Error> {
        let mut at = u64::from(header_length);
        loop {
            let mut start = [0; 8];
            if at.saturating_add(8) > self.cluster() {
                return Err(refused("is corrupt: its header extensions do not end within the first cluster"));
            }
            file.read(&mut start, at).map_err(unread)?;
            let (kind, length) = (word(&start, 0).unwrap_or(0), word(&start, 4).unwrap_or(0));
            match kind {
                0 => return Ok(()),
                // How its user says that it is.
                BACKING_FORMAT if backed => {}
                BACKING_FORMAT | DATA_FILE => {
                    return Err(refused(
                        "names a second file, and is not served: qemu-img convert -O qcow2 leaves it out",
                    ));
                }
                FEATURE_NAMES
                    if !usize::try_from(length).is_ok_and(|length| length.is_multiple_of(FEATURE_NAME)) =>
                {
                    return Err(refused(format!(
                        "is corrupt: its table of feature names has {length} bytes"
                    )));
                }
                _ => {}
            }
            at = at.saturating_add(8).saturating_add(u64::from(length).next_multiple_of(8));
        }
    }

    /// What `imago` would say of a table only when requests come, and what it could not change in an order that we could wait
    /// in: an L2 table that something else refers to as well would have to be copied, and its count to go down after that.
    fn check_entries(&self, file: &ImageFile) -> Result<(), Error> {
        let shared = |entry: u64| entry != 0 && entry >> 63 == 0;
        if Self::any(file, &self.l1, shared)? {
            return Err(refused(
                "has an L2 table that is shared, or not marked as its own: repair it with qemu-img check -r all",
            ));
        }
        if Self::any(file, &self.refcounts, |entry| !entry.is_multiple_of(self.cluster()))? {
            return Err(refused(
                "is corrupt: its refcount table refers to no block; repair it with qemu-img check -r all",
            ));
        }
        // To allocate a block for the beginning of the image `imago` looks for a cluster behind it, for which it would have
        // to have that block: it would call itself until the stack ends.
        let mut first = [0; 8];
        file.read(&mut first, self.refcounts.start).map_err(unread)?;
        if first == [0; 8] {
            return Err(refused(
                "is corrupt: it does not count its own header; repair it with qemu-img check -r all",
            ));
        }
        Ok(())
    }

    /// Whether an entry of `table` is as `wrong` says.
    fn any(file: &ImageFile, table: &Range<u64>, wrong: impl Fn(u64) -> bool) -> Result<bool, Error> {
        let mut entries = [0; 4096];
        let mut at = table.start;
        while at < table.end {
            let length =
                usize::try_from(table.end.saturating_sub(at)).unwrap_or(usize::MAX).min(entries.len());
            let part = entries.get_mut(..length).unwrap_or_default();
            file.read(part, at).map_err(unread)?;
            if part.chunks(8).filter_map(|entry| long(entry, 0)).any(&wrong) {
                return Ok(true);
            }
            at = at.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        }
        Ok(false)
    }
}

/// A name that stands in an image is shown, and never opened. The user has to have named a file for each that there is.
fn check_backing(file: &ImageFile, bytes: &[u8], role: Role) -> Result<(), Error> {
    let (at, length) = (long(bytes, 8).unwrap_or(0), word(bytes, 16).unwrap_or(0));
    if at == 0 {
        let needless =
            "has no backing file, and one was named for it: leave that out, or name the right image";
        return if role.backed { Err(refused(needless)) } else { Ok(()) };
    }
    if !role.backed {
        let mut name = vec![0; usize::try_from(SHOWN.min(length.into())).unwrap_or(0)];
        file.read(&mut name, at).map_err(unread)?;
        let name = String::from_utf8_lossy(&name).escape_debug().to_string();
        return Err(refused(format!(
            "has a backing file, which it calls '{name}', and none is opened by a name that stands in an image: say \
             which that is, with backing=PATH, or make one image of both, with qemu-img convert -O qcow2"
        )));
    }
    if !role.readonly && word(bytes, 4) == Some(2) {
        return Err(refused(
            "has a backing file and is of version 2, in which zeroes cannot hide what that has: qemu-img amend -o \
             compat=1.1 makes it version 3",
        ));
    }
    Ok(())
}

fn check_version_3(bytes: &[u8], cluster: u64) -> Result<(), Error> {
    let features = long(bytes, 72).unwrap_or(0);
    if features != 0 {
        let bit = usize::try_from(features.trailing_zeros()).unwrap_or(usize::MAX);
        return Err(refused(INCOMPATIBLE.get(bit).map_or_else(
            || format!("has the incompatible feature of bit {bit}, which is not known"),
            |why| (*why).to_owned(),
        )));
    }
    let (order, length) = (word(bytes, 96).unwrap_or(0), word(bytes, 100).unwrap_or(0));
    if order > 6 {
        return Err(refused(format!("is corrupt: its counts have 2^{order} bits, and 2^6 is the most")));
    }
    let least = u32::try_from(VERSION_3).unwrap_or(0);
    if length < least || u64::from(length) > cluster || !length.is_multiple_of(8) {
        return Err(refused(format!("is corrupt: its header has {length} bytes")));
    }
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

fn refused(what: impl std::fmt::Display) -> Error {
    Error::Resource(format!("the qcow2 image {what}"))
}

fn unread(errno: Errno) -> Error {
    Error::Resource(format!("the qcow2 image cannot be read: {errno}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_file::{Shape, name_backing};

    const ALONE: Role = Role { readonly: false, backed: false };
    const SHAPE: Shape = Shape { cluster_bits: 12, refcount_order: 4, size: 1 << 20 };

    fn header(bytes: &[u8]) -> Result<Header, String> {
        let size = u64::try_from(bytes.len()).unwrap();
        Header::of(&ImageFile::with(bytes), size, ALONE).map_err(|error| error.to_string())
    }

    /// What is said of an image with `value` at `at`.
    fn with(at: usize, value: &[u8]) -> String {
        let mut bytes = SHAPE.empty();
        bytes[at..at + value.len()].copy_from_slice(value);
        let said = header(&bytes).unwrap_err();
        assert!(said.starts_with("the qcow2 image ") && !said.contains('\n'), "{said}");
        said
    }

    #[test]
    fn a_good_header_is_what_it_says() {
        for (cluster_bits, refcount_order) in [(9, 0), (12, 4), (16, 6), (21, 4)] {
            let shape = Shape { cluster_bits, refcount_order, size: 1 << 20 };
            let header = header(&shape.empty()).unwrap();
            assert_eq!((header.size, header.cluster_bits), (1 << 20, cluster_bits));
            assert_eq!(header.refcounts, shape.cluster()..2 * shape.cluster());
            assert_eq!(header.l1.start, 3 * shape.cluster());
        }
        let mut old = SHAPE.empty();
        old[7] = 2;
        // In version 2 there is nothing behind the 72nd byte.
        old[72..104].fill(0xff);
        assert!(header(&old).is_ok());
    }

    #[test]
    fn each_thing_that_is_not_served_is_named() {
        let cases: [(usize, &[u8], &str); 24] = [
            (0, &[0; 4], "device-blk's"),
            (7, &[1], "device-blk's"),
            (7, &[4], "device-blk's"),
            (23, &[8], "2^8"),
            (20, &[0xff; 4], "2^4294967295"),
            (15, &[1], "with backing=PATH"),
            (35, &[1], "encrypted"),
            (63, &[1], "snapshots"),
            (79, &[1], "marked dirty"),
            (79, &[2], "marked corrupt"),
            (79, &[4], "another file"),
            (79, &[8], "another method"),
            (79, &[16], "extended L2"),
            (72, &[0x80], "bit 63"),
            (99, &[7], "2^7"),
            (102, &[0, 100], "100 bytes"),
            (102, &[0x10, 8], "4104 bytes"),
            (24, &[0; 8], "0 bytes"),
            (31, &[1], "multiple of 512"),
            (24, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0], "more than"),
            (36, &[0, 0, 0, 0], "0 entries in its L1 table"),
            (36, &[0xff; 4], "4294967295 entries"),
            (56, &[0xff; 4], "in its refcount table"),
            (40, &[0, 0, 0, 0, 0, 0, 0x10, 0], "in one place"),
        ];
        for (at, value, word) in cases {
            let said = with(at, value);
            assert!(said.contains(word), "{at}: {said}");
        }
        for (at, value) in [(40, [0u8; 8]), (48, [0; 8]), (40, [0x7f; 8]), (40, [0, 0, 0, 0, 0, 1, 0, 0])] {
            assert!(with(at, &value).contains("corrupt"), "{at}");
        }
        assert!(with(4096 + 8, &[0, 0, 0, 0, 0, 0, 2, 0]).contains("refers to no block"));
        assert!(with(4096, &[0; 8]).contains("does not count its own header"));
        assert!(with(3 * 4096, &[0, 0, 0, 0, 0, 0, 0x40, 0]).contains("L2 table that is shared"));
    }

    #[test]
    fn a_backing_file_is_named_by_its_user_where_there_is_one_and_nowhere_else() {
        let said = |bytes: &[u8], readonly, backed| {
            let size = u64::try_from(bytes.len()).unwrap();
            let role = Role { readonly, backed };
            Header::of(&ImageFile::with(bytes), size, role).map(drop).map_err(|error| error.to_string())
        };
        let mut bytes = SHAPE.empty();
        assert!(said(&bytes, false, true).unwrap_err().contains("leave that out"));
        name_backing(&mut bytes, "a\n\u{1b}[2Jbase");
        let text = said(&bytes, false, false).unwrap_err();
        assert!(text.contains(r"calls 'a\n\u{1b}[2Jbase', and none is opened"), "{text}");
        assert_eq!(said(&bytes, false, true), Ok(()));
        // How its user says that it is, whatever stands here.
        bytes[104..120]
            .copy_from_slice(&[0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 3, b'r', b'a', b'w', 0, 0, 0, 0, 0]);
        assert!(said(&bytes, false, true).is_err_and(|text| text.contains("do not end")));
        bytes[104..120].fill(0);
        name_backing(&mut bytes, "b");
        bytes[7] = 2;
        assert!(said(&bytes, false, true).unwrap_err().contains("compat=1.1"));
        assert_eq!(said(&bytes, true, true), Ok(()));
        // A name without an end, or past that of the file.
        bytes[16..20].fill(0xff);
        assert!(said(&bytes, false, false).unwrap_err().len() < 1000);
        bytes[8..16].fill(0xff);
        assert!(said(&bytes, false, false).unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn extensions_end_and_name_no_file() {
        assert!(with(104, &[0x68, 0x03, 0xf8, 0x57, 0, 0, 0, 47]).contains("47 bytes"));
        assert!(with(104, &[0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 3]).contains("second file"));
        assert!(with(104, &[0x44, 0x41, 0x54, 0x41, 0, 0, 0, 3]).contains("second file"));
        assert!(with(104, &[1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff]).contains("do not end"));
        let mut bytes = SHAPE.empty();
        bytes[104..112].copy_from_slice(&[1, 2, 3, 4, 0, 0, 0, 5]);
        assert!(header(&bytes).is_ok());
    }

    #[test]
    fn a_file_that_is_cut_off_is_refused() {
        let bytes = SHAPE.empty();
        for length in [0, 4, 72, 103, 104, 4096, 3 * 4096] {
            assert!(header(&bytes[..length]).is_err(), "{length}");
        }
    }
}
