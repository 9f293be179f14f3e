//! A disk with the distribution's fio on it, for guests that test disks with it.
//!
//! fio links libraries of every storage there is and starts only when all are there: 85 MB, most of which it never touches.
//! So it comes on a disk of its own and not in the initramfs, which each guest would have to unpack: a filesystem of two
//! folders, `bin` with the program and `lib` with its loader and its libraries.

use std::fs;
use std::path::Path;

use super::apt::Apt;
use super::closure::{closure, libraries_below};
use super::packages::Store;
use super::{Artifacts, copy, sorted};
use crate::failure::{Outcome, Tried};
use crate::host;
use crate::workspace::Workspace;

/// Name of the package and of the program in it.
const FIO: &str = "fio";
/// Where the program lies in the package.
const PROGRAM: &str = "usr/bin/fio";
/// The image's file among the artifacts.
const IMAGE: &str = "fio.ext4";
/// What an image was made from, and its own sum.
const MADE_FROM: &str = "fio.made-from";

impl Artifacts {
    /// Fetches fio and makes the disk of it, if that is not there yet, and checks it.
    pub fn prepare_fio(&mut self, workspace: &Workspace) -> Outcome<()> {
        host::need_programs(&[("readelf", "binutils"), ("mkfs.ext4", "e2fsprogs")])?;
        let rig = workspace.rig_folder();
        let store = Store::open(rig.join("packages"), Apt::host())?;
        let fio = store.package(FIO)?;
        let (image, note) = (self.folder.join(IMAGE), self.folder.join(MADE_FROM));
        let made_from = |image: &Path| Ok(format!("fio {}\nimage {}\n", fio.sha256, host::sha256(image)?));
        let known = fs::read_to_string(&note).unwrap_or_default();
        if !image.is_file() || known != made_from(&image)? {
            let unpacked = rig.join("unpacked");
            make(&store, &unpacked, &image)?;
            fs::write(&note, made_from(&image)?).tried(|| format!("cannot write {}", note.display()))?;
            let _ = fs::remove_dir_all(&unpacked);
        }
        if !self.for_guests.contains(&IMAGE) {
            self.for_guests.push(IMAGE);
        }
        Ok(())
    }
}

/// Makes the image from packages, by way of the folder `unpacked`.
fn make(store: &Store, unpacked: &Path, image: &Path) -> Outcome<()> {
    let packages = store.with_libraries(FIO)?;
    crate::progress::step("making a disk of fio");
    let _ = fs::remove_dir_all(unpacked);
    let (root, disk) = (unpacked.join("root"), unpacked.join("disk"));
    for package in &packages {
        package.unpack_over(&root)?;
    }
    for folder in ["bin", "lib"] {
        let folder = disk.join(folder);
        fs::create_dir_all(&folder).tried(|| format!("cannot make {}", folder.display()))?;
    }
    let program = root.join(PROGRAM);
    copy(&program, &disk.join("bin").join(FIO))?;
    for (name, library) in closure(&program, &libraries_below(&root)?)? {
        copy(&library, &disk.join("lib").join(name))?;
    }
    filesystem_of(&disk, image)
}

/// Makes an ext4 image of all below `folder`, without a journal: nobody is to write it.
fn filesystem_of(folder: &Path, image: &Path) -> Outcome<()> {
    let mut bytes = 0_u64;
    for folder in sorted(folder)? {
        for file in sorted(&folder)? {
            let metadata = file.metadata().tried(|| format!("cannot look at {}", file.display()))?;
            bytes = bytes.saturating_add(metadata.len());
        }
    }
    // What the filesystem keeps for itself, and the rounding of each file to blocks.
    let kibibytes = bytes.div_ceil(1024).saturating_mul(17).div_ceil(16).saturating_add(4096);
    let _ = fs::remove_file(image);
    let mut mkfs = host::administrators("mkfs.ext4");
    mkfs.args(["-q", "-F", "-b", "4096", "-m", "0", "-N", "256", "-O", "^has_journal", "-d"]);
    host::output_of(mkfs.arg(folder).arg(image).arg(format!("{kibibytes}k"))).map(drop)
}
