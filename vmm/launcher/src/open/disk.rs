//! Images and block devices: checked, opened with the rights of whoever gets them, and claimed.
//!
//! A claim is a lock of the open file description: it goes with the descriptor to the device program and ends with the last
//! copy, so that no crash leaves it behind. What is in a file is its program's to read: an image may be made to harm whoever
//! parses it.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use protocol::DiskFormat;

use super::{name_of, reason, refuse, wrong};
use crate::device::Blk;
use crate::error::Error;
use crate::exit_code::Code;

/// Sectors of virtio-blk (virtio 1.3, 5.2.4).
const SECTOR: u64 = 512;

/// A disk that is open.
#[derive(Debug)]
pub struct Disk {
    /// Opened with the rights of the device.
    pub fd: OwnedFd,
    /// Bytes of the file.
    pub size: u64,
    /// The files below an image, for reading, and the bytes of each.
    pub backing: Vec<(OwnedFd, u64)>,
}

/// A disk, and what is below it.
pub fn disk(blk: &Blk) -> Result<Disk, Error> {
    let what = if blk.options.readonly { "open disk for reading" } else { "open disk" };
    let wanted = Wanted {
        what,
        path: &blk.path,
        readonly: blk.options.readonly,
        direct: blk.options.direct,
        lock: blk.lock,
    };
    let (file, size) = wanted.open()?;
    check_size(size, blk.format).map_err(|why| refuse(what, &blk.path, &why, Code::Resource))?;
    let below = |(path, format): (&PathBuf, DiskFormat)| {
        let what = "open backing file";
        let wanted = Wanted { what, path, readonly: true, direct: false, lock: blk.lock };
        let (file, size) = wanted.open()?;
        if size == 0 && format == DiskFormat::Qcow2 {
            return Err(refuse(what, path, "it is empty, and no image", Code::Resource));
        }
        Ok((file.into(), size))
    };
    let backing = blk.layers().map(below).collect::<Result<_, _>>()?;
    Ok(Disk { fd: file.into(), size, backing })
}

/// A file or block device as a device is to have it.
pub(super) struct Wanted<'a> {
    /// What is tried, for whoever is told that it failed.
    pub what: &'static str,
    pub path: &'a Path,
    pub readonly: bool,
    pub direct: bool,
    /// Claimed against other programs.
    pub lock: bool,
}

impl Wanted<'_> {
    /// The file, and its size in bytes.
    pub fn open(&self) -> Result<(File, u64), Error> {
        let Self { what, path, readonly, direct, lock } = *self;
        let refused = |text: &str| refuse(what, path, text, Code::Resource);
        let io = |error: std::io::Error| wrong(what, path, &error, Code::Resource);
        let kind = std::fs::metadata(path).map_err(io)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(refused(&format!("it is {}; name a file or a block device", name_of(kind))));
        }
        let mut flags = OFlag::O_CLOEXEC;
        flags.set(OFlag::O_DIRECT, direct);
        // On a block device alone: refused if it is mounted or another has claimed it (open(2)).
        flags.set(OFlag::O_EXCL, lock && !readonly && kind.is_block_device());
        let mut file = OpenOptions::new()
            .read(true)
            .write(!readonly)
            .custom_flags(flags.bits())
            .open(path)
            .map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) if direct => refused("its file system has no direct I/O; give direct=off"),
            Some(libc::EBUSY) => refused("the host has it mounted or in use; unmount it, or give lock=off"),
            Some(libc::EACCES | libc::EROFS | libc::EPERM) if !readonly => {
                refused(&format!("{}; with readonly=on it need not be writable", reason(&error)))
            }
            _ => io(error),
        })?;
        let size = file.seek(SeekFrom::End(0)).map_err(io)?;
        file.rewind().map_err(io)?;
        if lock {
            claim(&file, readonly).map_err(|errno| match errno {
                Errno::EAGAIN | Errno::EACCES => {
                    refused("another program uses it; end that one, or give lock=off if both may")
                }
                errno => refused(&format!("it cannot be locked: {errno}; lock=off goes without")),
            })?;
        }
        Ok((file, size))
    }
}

fn check_size(size: u64, format: DiskFormat) -> Result<(), String> {
    match format {
        DiskFormat::Raw if size == 0 => {
            Err("it is empty; make it as large as the disk shall be, with truncate -s".to_owned())
        }
        DiskFormat::Raw if !size.is_multiple_of(SECTOR) => Err(format!(
            "its size of {size} bytes is not a multiple of {SECTOR}; is it a raw image, or is format=qcow2 missing?"
        )),
        DiskFormat::Qcow2 if size == 0 => {
            Err("it is empty; make an image of it with qemu-img create -f qcow2".to_owned())
        }
        DiskFormat::Raw | DiskFormat::Qcow2 => Ok(()),
    }
}

/// Locks the whole file for this open file description: shared by readers, or for one writer. QEMU and Cloud
/// Hypervisor lock bytes of the same kind of lock, so that each sees the others.
fn claim(file: &File, readonly: bool) -> Result<(), Errno> {
    let kind = if readonly { libc::F_RDLCK } else { libc::F_WRLCK };
    let lock = libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::BlkOptions;
    use std::io::Write;

    fn blk(path: &Path, readonly: bool, lock: bool) -> Blk {
        let options = BlkOptions {
            readonly,
            direct: false,
            serial: String::new(),
            queues: 1,
            queue_size: 256,
            discard: true,
            backing: Vec::new(),
        };
        Blk { path: path.to_owned(), format: DiskFormat::Raw, backing: Vec::new(), lock, options }
    }

    #[test]
    fn readers_share_a_disk_and_a_writer_has_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        std::fs::write(&path, [0; 1024]).unwrap();
        let reader = disk(&blk(&path, true, true)).unwrap();
        assert_eq!(reader.size, 1024);
        assert!(disk(&blk(&path, true, true)).is_ok());
        assert!(disk(&blk(&path, false, true)).unwrap_err().to_string().contains("another program uses it"));
        assert!(disk(&blk(&path, false, false)).is_ok());
        drop(reader);
        let writer = disk(&blk(&path, false, true)).unwrap();
        let copy = writer.fd.try_clone().unwrap();
        drop(writer);
        assert!(disk(&blk(&path, true, true)).is_err(), "the claim ended before its last copy");
        drop(copy);
        assert!(disk(&blk(&path, true, true)).is_ok());
    }

    #[test]
    fn a_reader_cannot_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        std::fs::write(&path, [0; 512]).unwrap();
        let mut file = File::from(disk(&blk(&path, true, true)).unwrap().fd);
        assert!(file.write(b"x").is_err());
    }

    #[test]
    fn images_share_what_is_below_them_which_nobody_writes_to_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["one", "two", "base"].map(|name| folder.path().join(name));
        for path in &paths {
            std::fs::write(path, [0; 512]).unwrap();
        }
        let [one, two, base] = &paths;
        let over = |path: &Path| {
            let Blk { options, .. } = blk(path, false, true);
            let options = BlkOptions { backing: vec![DiskFormat::Qcow2], ..options };
            let backing = vec![base.clone()];
            Blk { format: DiskFormat::Qcow2, backing, options, ..blk(path, false, true) }
        };
        let (first, second) = (disk(&over(one)).unwrap(), disk(&over(two)).unwrap());
        assert!(disk(&blk(base, false, true)).unwrap_err().to_string().contains("another program uses it"));
        drop((first.fd, second.fd));
        for (fd, size) in first.backing.into_iter().chain(second.backing) {
            assert_eq!(size, 512);
            assert!(File::from(fd).write(b"x").is_err());
        }
        let writer = disk(&blk(base, false, true)).unwrap();
        let said = disk(&over(one)).unwrap_err().to_string();
        assert!(said.contains("backing file") && said.contains("another program uses it"), "{said}");
        drop(writer);
        std::fs::write(base, []).unwrap();
        assert!(disk(&over(one)).unwrap_err().to_string().contains("it is empty"));
    }
}
