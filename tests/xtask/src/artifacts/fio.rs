//! A disk with the distribution's fio on it, for guests that test disks with it.
//!
//! fio links libraries of every storage there is and starts only when all are there: 85 MB, most of which it never touches.
//! So it comes on a disk of its own and not in the initramfs, which each guest would have to unpack: a filesystem of two
//! folders, `bin` with the program and `lib` with its loader and its libraries.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::packages::Store;
use super::{Artifacts, copy, sorted};
use crate::failure::{Failure, Outcome, Tried};
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
        let store = Store::open(rig.join("packages"))?;
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

/// Every file below `root` that may be a library, by name.
fn libraries_below(root: &Path) -> Outcome<BTreeMap<String, PathBuf>> {
    let (mut libraries, mut folders) = (BTreeMap::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for path in sorted(&folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if name.contains(".so") && path.is_file() {
                libraries.insert(name, path);
            }
        }
    }
    Ok(libraries)
}

/// The loader and all libraries that `program` needs, directly or not, out of `libraries`.
fn closure(program: &Path, libraries: &BTreeMap<String, PathBuf>) -> Outcome<BTreeMap<String, PathBuf>> {
    let (mut found, mut files) = (BTreeMap::new(), vec![program.to_path_buf()]);
    while let Some(file) = files.pop() {
        let mut readelf = Command::new("readelf");
        readelf.env("LC_ALL", "C").args(["--wide", "--dynamic", "--program-headers"]).arg(&file);
        for name in needed(&host::text_of(&mut readelf)?) {
            if found.contains_key(&name) {
                continue;
            }
            let library = libraries.get(&name).ok_or_else(|| {
                let file = file.file_name().unwrap_or_default().to_string_lossy();
                Failure::new(format!("no package that fio depends on holds {name}, which {file} needs"))
            })?;
            files.push(library.clone());
            found.insert(name, library.clone());
        }
    }
    Ok(found)
}

/// The names of the libraries and of the loader in what readelf says of a file.
fn needed(said: &str) -> Vec<String> {
    let between = |line: &str, mark: &str| {
        let (_, rest) = line.split_once(mark)?;
        let (name, _) = rest.split_once(']')?;
        Path::new(name.trim()).file_name().map(|name| name.to_string_lossy().into_owned())
    };
    said.lines()
        .filter_map(|line| {
            between(line, "(NEEDED)             Shared library: [")
                .or_else(|| between(line, "[Requesting program interpreter: "))
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    /// In the words of readelf.
    const SAID: &str = "
Elf file type is DYN (Position-Independent Executable file)
  INTERP         0x000318 0x0000000000000318 0x0000000000000318 0x00001c 0x00001c R   0x1
      [Requesting program interpreter: /lib64/ld-linux-x86-64.so.2]
 0x0000000000000001 (NEEDED)             Shared library: [libaio.so.1]
 0x000000000000000e (SONAME)             Library soname: [libself.so.3]
 0x000000000000001d (RUNPATH)            Library runpath: [/usr/lib/ceph]
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
";

    #[test]
    fn what_a_program_needs_is_its_loader_and_its_libraries() {
        assert_eq!(needed(SAID), ["ld-linux-x86-64.so.2", "libaio.so.1", "libc.so.6"]);
        assert_eq!(needed("There is no dynamic section in this file."), Vec::<String>::new());
    }

    /// A program of this host stands in for that of a package.
    #[test]
    fn the_closure_of_a_real_program_is_followed_and_a_missing_library_is_named() {
        let (program, folder) = (Path::new("/usr/bin/objdump"), tempfile::tempdir().unwrap());
        let mut libraries = BTreeMap::new();
        for folder in ["/lib64", "/usr/lib64", "/usr/lib/x86_64-linux-gnu"] {
            libraries.extend(libraries_below(Path::new(folder)).unwrap_or_default());
        }
        let found = closure(program, &libraries).unwrap();
        for (name, library) in &found {
            fs::copy(library, folder.path().join(name)).unwrap();
        }
        // It starts with these and no other.
        let mut command = Command::new(folder.path().join("ld-linux-x86-64.so.2"));
        command.arg("--inhibit-cache").arg("--library-path").arg(folder.path());
        let said = host::text_of(command.arg(program).arg("--version")).unwrap();
        assert!(said.starts_with("GNU objdump"), "{said}");
        libraries.remove("libc.so.6").unwrap();
        let refused = closure(program, &libraries).unwrap_err().to_string();
        assert!(refused.contains("libc.so.6"), "{refused}");
    }
}
