//! The distribution's passt, for machines whose network is a user's.
//!
//! It is linked to the C library of its distribution. A host that boots guests itself has that; the nested rig's outer guest
//! gets it where the loader looks, as on any host.

use std::fs;
use std::path::PathBuf;

use super::apt::Apt;
use super::closure::{closure, libraries_below};
use super::packages::Store;
use super::{Artifacts, copy};
use crate::failure::{Outcome, Tried};
use crate::host;
use crate::workspace::Workspace;

/// Name of the package, of the program's file among the artifacts, and of what that was made from.
const PASST: &str = "passt";
const MADE_FROM: &str = "passt.made-from";
/// Where the program lies in the package.
const PROGRAM: &str = "usr/bin/passt";
/// The folder of its libraries among the artifacts.
const LIBRARIES: &str = "passt.libraries";

impl Artifacts {
    /// Fetches passt, if it is not there yet.
    pub fn prepare_passt(&mut self, workspace: &Workspace) -> Outcome<()> {
        host::need_programs(&[("readelf", "binutils")])?;
        let rig = workspace.rig_folder();
        let store = Store::open(rig.join("packages"), Apt::host())?;
        let sum = store.package(PASST)?.sha256;
        let (note, libraries) = (self.folder.join(MADE_FROM), self.folder.join(LIBRARIES));
        if !fs::read_to_string(&note).is_ok_and(|known| known == sum) {
            let unpacked = rig.join("unpacked");
            let _ = fs::remove_dir_all(&unpacked);
            for package in store.with_libraries(PASST)? {
                package.unpack_over(&unpacked)?;
            }
            let _ = fs::remove_dir_all(&libraries);
            fs::create_dir_all(&libraries).tried(|| format!("cannot make {}", libraries.display()))?;
            let program = unpacked.join(PROGRAM);
            copy(&program, &self.folder.join(PASST))?;
            for (name, library) in closure(&program, &libraries_below(&unpacked)?)? {
                copy(&library, &libraries.join(name))?;
            }
            let _ = fs::remove_dir_all(&unpacked);
            fs::write(&note, sum).tried(|| format!("cannot write {}", note.display()))?;
        }
        if !self.for_guests.contains(&PASST) {
            self.for_guests.push(PASST);
            self.for_outer.extend(placed(super::sorted(&libraries)?));
        }
        Ok(())
    }
}

/// Each library with the path at which a loader of the distribution's finds it.
fn placed(libraries: Vec<PathBuf>) -> impl Iterator<Item = (String, PathBuf)> {
    libraries.into_iter().map(|library| {
        let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = if name.starts_with("ld-linux") { "lib64" } else { "lib/x86_64-linux-gnu" };
        (format!("{folder}/{name}"), library)
    })
}
