//! The libraries that a program of a package needs, found as its loader would find them, so that it runs with these and none
//! of the host's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::sorted;
use crate::failure::{Failure, Outcome};
use crate::host;

/// Every file below `root` that may be a library, by name.
pub fn libraries_below(root: &Path) -> Outcome<BTreeMap<String, PathBuf>> {
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
pub fn closure(program: &Path, libraries: &BTreeMap<String, PathBuf>) -> Outcome<BTreeMap<String, PathBuf>> {
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
                Failure::new(format!("no package that it depends on holds {name}, which {file} needs"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
