//! A QEMU of the next release, for what the host's own does not have: a front end for vhost-user devices of any type, which
//! that of Debian 12 lacks.
//!
//! It runs with a loader and libraries of its own release, all in one folder: `bin` with the program, `lib`, and `firmware`
//! with what a machine needs that boots a kernel by itself.

use std::fs;
use std::path::Path;

use super::apt::Apt;
use super::closure::{closure, libraries_below};
use super::packages::Store;
use super::{Artifacts, copy};
use crate::failure::{Outcome, Tried};
use crate::host;
use crate::workspace::Workspace;

/// The package, and suites that have it.
const QEMU: &str = "qemu-system-x86";
const SUITES: [&str; 2] = ["trixie", "trixie-backports"];
/// Where the program lies in the package.
const PROGRAM: &str = "usr/bin/qemu-system-x86_64";
/// The firmware: packages, and where the files lie in them.
const FIRMWARE: [(&str, &str); 3] = [
    ("seabios", "usr/share/seabios/bios-256k.bin"),
    ("qemu-system-data", "usr/share/qemu/kvmvapic.bin"),
    ("qemu-system-data", "usr/share/qemu/linuxboot_dma.bin"),
];
/// The folder among the artifacts, and in it what it was made from.
const FOLDER: &str = "qemu";
const MADE_FROM: &str = "made-from";

impl Artifacts {
    /// Fetches it and makes the folder, if that is not there yet.
    pub fn prepare_qemu(&self, workspace: &Workspace) -> Outcome<()> {
        host::need_programs(&[("readelf", "binutils")])?;
        let rig = workspace.rig_folder();
        let [release, _] = SUITES;
        let apt = Apt::of(&SUITES, &rig.join("apt").join(release))?;
        let store = Store::open(rig.join("packages").join(release), apt)?;
        let sum = store.package(QEMU)?.sha256;
        let folder = self.folder.join(FOLDER);
        if fs::read_to_string(folder.join(MADE_FROM)).is_ok_and(|known| known == sum) {
            return Ok(());
        }
        let unpacked = rig.join("unpacked");
        let _ = fs::remove_dir_all(&unpacked);
        make(&store, &unpacked, &folder)?;
        let _ = fs::remove_dir_all(&unpacked);
        // Last: a folder without it is made again.
        fs::write(folder.join(MADE_FROM), sum).tried(|| format!("cannot write into {}", folder.display()))
    }
}

/// Makes the folder from packages, by way of the folder `unpacked`.
fn make(store: &Store, unpacked: &Path, folder: &Path) -> Outcome<()> {
    for package in store.with_libraries(QEMU)? {
        package.unpack_over(unpacked)?;
    }
    for (package, _) in FIRMWARE {
        store.package(package)?.unpack_over(unpacked)?;
    }
    let _ = fs::remove_dir_all(folder);
    for part in ["bin", "lib", "firmware"] {
        let part = folder.join(part);
        fs::create_dir_all(&part).tried(|| format!("cannot make {}", part.display()))?;
    }
    let program = unpacked.join(PROGRAM);
    copy(&program, &folder.join("bin/qemu-system-x86_64"))?;
    for (name, library) in closure(&program, &libraries_below(unpacked)?)? {
        copy(&library, &folder.join("lib").join(name))?;
    }
    for (_, path) in FIRMWARE {
        let name = Path::new(path).file_name().unwrap_or_default();
        copy(&unpacked.join(path), &folder.join("firmware").join(name))?;
    }
    Ok(())
}
