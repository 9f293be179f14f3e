//! The front end that all device programs are tested with, and what of it is for disks: images, and requests in the
//! form of virtio-blk.

#![expect(dead_code, reason = "each test program uses its own part of this")]

#[path = "../../../backend/tests/front_end/mod.rs"]
mod by_hand;

use std::os::unix::fs::FileExt;
use std::path::Path;

pub use by_hand::*;

use by_hand::driver::{BUFFERS, Driver, Queue, WRITE};

impl Device {
    /// `device-blk` on `disk`.
    pub fn start(disk: &Path, arguments: &[&str]) -> Self {
        let path = format!("--path={}", disk.display());
        Self::spawn(env!("CARGO_BIN_EXE_device-blk"), &[&[path.as_str()], arguments].concat())
    }
}

impl Driver<'_> {
    /// One request to its end: returns (status, used length). `data` is (address, size, flags) each.
    pub fn submit(&self, queue: &mut Queue, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> (u8, u32) {
        let (header, status) = (BUFFERS - 0x1000, BUFFERS - 0x800);
        self.put(header, &header_bytes(kind, sector));
        self.put(status, &[0xff]);
        let mut parts = vec![(header, 16, 0)];
        parts.extend(data);
        parts.push((status, 1, WRITE));
        self.chain(queue.table(), 0, &parts);
        self.offer(queue, &[0]);
        let (head, length) = self.used(queue);
        assert_eq!(head, 0);
        (self.look(status, 1)[0], length)
    }
}

pub fn header_bytes(kind: u32, sector: u64) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    bytes
}

/// A disk image of `size` bytes with a pattern in it.
pub fn image(size: usize) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.as_file().write_all_at(&pattern(0, size), 0).unwrap();
    file
}

/// What [`image`] has from `offset`.
pub fn pattern(offset: usize, size: usize) -> Vec<u8> {
    (offset..offset + size).map(|at| u8::try_from((at / 512 + at) % 251).unwrap()).collect()
}
