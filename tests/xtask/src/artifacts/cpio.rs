//! A writer of cpio archives in the "new ASCII" format (magic 070701), the one that Linux unpacks as
//! an initramfs (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Entries get inode numbers of their own, owner 0:0 and time 0: the same input gives the same bytes.
//! Archives may be laid one after the other; the kernel unpacks them in order.

/// An archive being written.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl Archive {
    /// Adds a folder; its parents must have been added.
    pub fn folder(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, &[], (0, 0));
    }

    /// Adds a file with permission bits `mode`.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, REGULAR | mode, content, (0, 0));
    }

    /// Adds a symbolic link to `target`.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, SYMLINK | 0o777, target.as_bytes(), (0, 0));
    }

    /// Adds a character device with its major and minor number.
    pub fn character_device(&mut self, path: &str, device: (u32, u32)) {
        self.entry(path, CHARACTER_DEVICE | 0o600, &[], device);
    }

    /// The archive, closed with its trailer and padded to 512 bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.pad(512);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8], device: (u32, u32)) {
        self.entries = self.entries.saturating_add(1);
        let links = if mode & DIRECTORY != 0 && mode & REGULAR == 0 { 2 } else { 1 };
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name = u32::try_from(path.len()).unwrap_or(u32::MAX).saturating_add(1);
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor,
        // namesize, check: thirteen numbers of eight digits after the magic.
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad(4);
        self.bytes.extend_from_slice(content);
        self.pad(4);
    }

    fn pad(&mut self, boundary: usize) {
        let length = self.bytes.len().next_multiple_of(boundary);
        self.bytes.resize(length, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::Archive;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.folder("etc");
        archive.file("etc/greeting", 0o644, b"hello\n");
        archive.symlink("etc/link", "greeting");
        archive.finish()
    }

    #[test]
    fn the_header_is_as_long_as_the_format_says() {
        let bytes = sample();
        assert_eq!(&bytes[..6], b"070701");
        // 6 of magic and 13 × 8 digits, then the name.
        assert_eq!(&bytes[110..114], b"etc\0");
        assert_eq!(bytes.len() % 512, 0);
    }

    #[test]
    fn an_independent_reader_finds_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let busybox_or_cpio =
            if crate::host::has("cpio") { ("cpio", None) } else { ("busybox", Some("cpio")) };
        if !crate::host::has(busybox_or_cpio.0) {
            panic!("neither cpio nor busybox on this host: install one of them");
        }
        let mut reader = Command::new(busybox_or_cpio.0)
            .args(busybox_or_cpio.1)
            .args(["-i", "-d"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        reader.stdin.take().unwrap().write_all(&sample()).unwrap();
        assert!(reader.wait().unwrap().success());
        assert_eq!(std::fs::read(folder.path().join("etc/link")).unwrap(), b"hello\n");
    }
}
