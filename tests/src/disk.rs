//! Disk images on the host, and what the host sees in them.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::tried;
use crate::pattern::{BLOCK, Digest, Stamp};
use crate::{Error, Result, artifact};

/// A raw image in a folder of its own, gone with this value.
pub struct Disk {
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Disk {
    /// A sparse image of `bytes`.
    pub fn empty(bytes: u64) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(tried("cannot make a folder for a disk"))?;
        // mkdtemp's 0700 would keep out the ordinary user as whom some tests run vmm.
        open_to_all(folder.path(), 0o755)?;
        let file = folder.path().join("disk.raw");
        let image = File::create(&file).map_err(tried("cannot make a disk image"))?;
        image.set_len(bytes).map_err(tried("cannot size a disk image"))?;
        open_to_all(&file, 0o666)?;
        Ok(Self { file, _folder: folder })
    }

    /// An image that begins with `content` and is `bytes` long.
    pub fn with(content: &[u8], bytes: u64) -> Result<Self> {
        let disk = Self::empty(bytes)?;
        let mut image =
            File::options().write(true).open(&disk.file).map_err(tried("cannot open a disk image"))?;
        image.write_all(content).map_err(tried("cannot fill a disk image"))?;
        Ok(disk)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Its whole content.
    pub fn content(&self) -> Result<Vec<u8>> {
        fs::read(&self.file).map_err(tried("cannot read a disk image"))
    }

    /// The sum of the whole, each block being whole, written by the guest's checker as disk `number`'s and where it belongs.
    pub fn digest(&self, number: u32) -> Result<String> {
        let content = self.content()?;
        let (blocks, _) = content.as_chunks::<BLOCK>();
        let mut digest = Digest::default();
        for (place, block) in (0_u32..).zip(blocks) {
            let stamp = Stamp::read(block)
                .filter(|stamp| stamp.sequence != 0 && (stamp.disk, stamp.place) == (number, place));
            if stamp.is_none() {
                let found = Stamp::read(block);
                return Err(Error::Unexpected(format!(
                    "block {place} of disk {number} is not what was written: {found:?}"
                )));
            }
            digest.add(block);
        }
        Ok(digest.to_string())
    }

    /// Its MD5 sum in hexadecimal, by the same busybox that the guest uses: a checksum against accidents.
    pub fn md5(&self) -> Result<String> {
        let output = Command::new(artifact("busybox")?)
            .arg("md5sum")
            .arg(&self.file)
            .output()
            .map_err(tried("cannot run busybox md5sum"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let sum = text.split_whitespace().next().map(str::to_owned);
        sum.ok_or_else(|| Error::Unexpected("busybox md5sum printed nothing".to_owned()))
    }
}

fn open_to_all(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(tried("cannot set a mode"))
}
