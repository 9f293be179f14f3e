//! The words of FUSE as a virtio-fs driver sends and gets them (`linux/fuse.h`, version 7.31; virtio 1.2, §5.11.6): little
//! endian, here, as every guest's are. Only what this device understands.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// What this device speaks: the driver of a newer kernel takes it for what it is.
pub const MAJOR: u32 = 7;
/// Every layout here is that of this minor version; virtio-fs drivers have at least it.
pub const MINOR: u32 = 31;

/// Bytes of `fuse_in_header`.
pub const IN_HEADER: usize = 40;
/// Bytes of `fuse_out_header`.
pub const OUT_HEADER: usize = 16;
/// Bytes of `fuse_write_in`, behind which the data lie.
pub const WRITE_IN: usize = 40;
/// Bytes of a tag in the configuration (virtio 1.2, §5.11.4), padded with zeros.
pub const TAG: usize = 36;
/// The root's node.
pub const ROOT: u64 = 1;
/// Seconds for which the driver may believe what it was told of a name or a file.
const VALID: u64 = 1;

/// Operations (`enum fuse_opcode`).
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const RENAME2: u32 = 45;
}

/// Flags of `fuse_init_out`.
mod init {
    pub(super) const ASYNC_READ: u32 = 1;
    pub(super) const BIG_WRITES: u32 = 1 << 5;
    pub(super) const AUTO_INVAL_DATA: u32 = 1 << 12;
    pub(super) const PARALLEL_DIROPS: u32 = 1 << 18;
    pub(super) const MAX_PAGES: u32 = 1 << 22;
}

/// Most pages of 4 KiB, and bytes, of one read or write.
const MAX_PAGES: u16 = 64;
/// The same in bytes.
pub const MAX_TRANSFER: u32 = 64 * 4096;

/// Bits of `fuse_setattr_in.valid`, by the names of linux/fuse.h without FATTR_.
pub mod set {
    pub const MODE: u32 = 1;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
}

/// `fuse_in_header`, as far as it is used: who asks is not, for there is one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InHeader {
    /// Bytes of the request, this header included.
    pub length: u32,
    /// Which operation.
    pub opcode: u32,
    /// Which request.
    pub unique: u64,
    /// On which node.
    pub node: u64,
}

impl InHeader {
    /// Takes it from its bytes.
    pub fn from_bytes(bytes: &[u8; IN_HEADER]) -> Self {
        let mut fields = Fields(bytes);
        let mut word = || fields.u32().unwrap_or_default();
        let (length, opcode) = (word(), word());
        let mut long = || fields.u64().unwrap_or_default();
        Self { length, opcode, unique: long(), node: long() }
    }
}

/// Bytes from the driver, which can only be gone through forward. `None`: there are not so many.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// The bytes up to the next zero, which is skipped.
    pub fn text(&mut self) -> Option<&'a std::ffi::CStr> {
        let text = std::ffi::CStr::from_bytes_until_nul(self.0).ok()?;
        self.0 = self.0.get(text.to_bytes_with_nul().len()..)?;
        Some(text)
    }
}

/// Bytes for the driver.
#[derive(Debug, Default)]
pub struct Words(pub Vec<u8>);

impl Words {
    /// Appends four bytes each.
    pub fn u32(mut self, values: &[u32]) -> Self {
        self.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    /// Appends eight bytes each.
    pub fn u64(mut self, values: &[u64]) -> Self {
        self.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }
}

/// `fuse_out_header` of an answer with so many bytes behind it; `error` is the number of one, or 0.
pub fn out_header(length: u32, error: i32, unique: u64) -> [u8; OUT_HEADER] {
    let negative = error.wrapping_neg().cast_unsigned();
    (u128::from(length) | u128::from(negative) << 32 | u128::from(unique) << 64).to_le_bytes()
}

/// `fuse_init_out`.
pub fn init_out(readahead: u32) -> Vec<u8> {
    let flags =
        init::ASYNC_READ | init::BIG_WRITES | init::AUTO_INVAL_DATA | init::PARALLEL_DIROPS | init::MAX_PAGES;
    // max_background and congestion_threshold: the driver's own defaults.
    let words = Words::default().u32(&[MAJOR, MINOR, readahead, flags, 0, MAX_TRANSFER, 1]);
    words.u32(&[u32::from(MAX_PAGES)]).u64(&[0; 4]).0
}

/// Whom the guest sees a file belong to: its root, or nobody.
#[derive(Debug, Clone, Copy)]
pub struct Owners {
    /// Who this process is: its files are root's in the guest.
    pub uid: u32,
    /// The same of its group.
    pub gid: u32,
}

/// What the guest sees in place of an owner that is neither: `overflowuid`.
const NOBODY: u32 = 65534;

impl Owners {
    /// The user and group that the guest sees.
    pub fn seen(self, file: &Metadata) -> (u32, u32) {
        let seen = |is_ours| if is_ours { 0 } else { NOBODY };
        (seen(file.uid() == self.uid), seen(file.gid() == self.gid))
    }
}

/// `fuse_attr`.
fn attributes(words: Words, file: &Metadata, owners: Owners) -> Words {
    let (uid, gid) = owners.seen(file);
    // Times before 1970 are their two's complement, as everywhere in FUSE; nanoseconds are below 2^30.
    let time = [file.atime(), file.mtime(), file.ctime()].map(i64::cast_unsigned);
    let part = [file.atime_nsec(), file.mtime_nsec(), file.ctime_nsec()].map(low);
    words.u64(&[file.ino(), file.size(), file.blocks()]).u64(&time).u32(&part).u32(&[
        file.mode(),
        saturated(file.nlink()),
        uid,
        gid,
        0,
        saturated(file.blksize()),
        0,
    ])
}

fn low(nanoseconds: i64) -> u32 {
    u32::try_from(nanoseconds).unwrap_or_default()
}

fn saturated(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// `fuse_attr_out`.
pub fn attr_out(file: &Metadata, owners: Owners) -> Vec<u8> {
    attributes(Words::default().u64(&[VALID]).u32(&[0, 0]), file, owners).0
}

/// `fuse_entry_out`. Nodes are never numbered twice, so the generation is always the same.
pub fn entry_out(node: u64, file: &Metadata, owners: Owners) -> Vec<u8> {
    attributes(Words::default().u64(&[node, 0, VALID, VALID]).u32(&[0, 0]), file, owners).0
}

/// `fuse_open_out`.
pub fn open_out(handle: u64) -> Vec<u8> {
    Words::default().u64(&[handle]).u32(&[0, 0]).0
}

/// `fuse_write_out`.
pub fn write_out(size: u32) -> Vec<u8> {
    Words::default().u32(&[size, 0]).0
}

/// Bytes of one `fuse_dirent` with a name of so many.
pub fn directory_entry_size(name: usize) -> usize {
    24_usize.saturating_add(name).next_multiple_of(8)
}

/// Appends a `fuse_dirent`: where to go on behind it is `next`.
pub fn directory_entry(to: &mut Vec<u8>, inode: u64, next: u64, kind: u32, name: &[u8]) {
    let end = to.len().saturating_add(directory_entry_size(name.len()));
    let length = u32::try_from(name.len()).unwrap_or_default();
    to.extend(Words::default().u64(&[inode, next]).u32(&[length, kind]).0);
    to.extend(name);
    to.resize(end, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_the_sizes_of_the_header() {
        let owners = Owners { uid: 0, gid: 0 };
        let file = std::fs::metadata("/").unwrap();
        assert_eq!(attr_out(&file, owners).len(), 104);
        assert_eq!(entry_out(7, &file, owners).len(), 128);
        assert_eq!((open_out(1).len(), write_out(1).len(), init_out(0).len()), (16, 8, 64));
        assert_eq!(out_header(16, 2, 9), [16, 0, 0, 0, 254, 255, 255, 255, 9, 0, 0, 0, 0, 0, 0, 0]);
        let mut entries = Vec::new();
        directory_entry(&mut entries, 5, 1, 4, b"name");
        assert_eq!(
            (entries.len(), directory_entry_size(4), entries[24..].to_vec()),
            (32, 32, b"name\0\0\0\0".to_vec())
        );
    }

    #[test]
    fn fields_end_where_the_bytes_end() {
        let mut fields = Fields(b"\x01\0\0\0ab\0c");
        assert_eq!((fields.u32(), fields.text()), (Some(1), Some(c"ab")));
        assert_eq!((fields.text(), fields.u32(), fields.u64()), (None, None, None));
    }
}
