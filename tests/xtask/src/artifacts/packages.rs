//! Debian packages, fetched by name and never by version: apt finds the version, its signed index
//! says what the file's SHA-256 must be, and the sum is checked again on every later use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt::{Apt, dependencies, field};
use crate::failure::{Failure, Outcome, Tried};
use crate::host;

/// Where fetched packages lie, with the sums that apt's index gave for them.
pub struct Store {
    folder: PathBuf,
    apt: Apt,
}

/// A fetched package: its file and the sum that was verified.
pub struct Package {
    /// The `.deb`.
    pub file: PathBuf,
    /// Its SHA-256 as the archive's index has it.
    pub sha256: String,
}

impl Store {
    /// The store in `folder`, which is made if need be, of packages that `apt` finds.
    pub fn open(folder: PathBuf, apt: Apt) -> Outcome<Self> {
        fs::create_dir_all(&folder).tried(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder, apt })
    }

    /// The package called `name`, from the store or from the archive.
    pub fn package(&self, name: &str) -> Outcome<Package> {
        match self.kept(name)? {
            Some(package) => Ok(package),
            None => self.fetch(name, name, &self.apt.record(name)?),
        }
    }

    /// The package called `name` and all libraries that it depends on, directly or not. Other programs that it depends
    /// on, such as interpreters of its scripts, are left out with all that is theirs.
    pub fn with_libraries(&self, name: &str) -> Outcome<Vec<Package>> {
        let (mut packages, mut names, mut next) = (Vec::new(), vec![name.to_owned()], 0_usize);
        while let Some(name) = names.get(next).cloned() {
            next = next.saturating_add(1);
            // A name that no package has, only packages that provide it, is none that a library needs.
            let record =
                if next == 1 { self.apt.record(&name)? } else { self.apt.known(&name).unwrap_or_default() };
            if next > 1 && field(&record, "Section:") != Some("libs") {
                continue;
            }
            packages.push(match self.kept(&name)? {
                Some(package) => package,
                None => self.fetch(&name, &name, &record)?,
            });
            names.extend(dependencies(&record).filter(|new| !names.contains(new)).collect::<Vec<_>>());
        }
        Ok(packages)
    }

    /// The package that the empty package `meta` stands for: the first of its dependencies whose
    /// name begins with `prefix` (a kernel's version is part of its package's name).
    pub fn behind(&self, meta: &str, prefix: &str) -> Outcome<Package> {
        if let Some(package) = self.kept(meta)? {
            return Ok(package);
        }
        let shown = self.apt.record(meta)?;
        let name = field(&shown, "Depends:")
            .and_then(|depends| depends.split(',').find_map(|one| one.trim().strip_prefix(prefix)))
            .and_then(|rest| rest.split_whitespace().next())
            .map(|rest| format!("{prefix}{rest}"))
            .ok_or_else(|| Failure::new(format!("package {meta} depends on no {prefix}* package")))?;
        self.fetch(&name, meta, &self.apt.record(&name)?)
    }

    /// What was fetched under `key`, if its file still has the sum noted then.
    fn kept(&self, key: &str) -> Outcome<Option<Package>> {
        let Ok(note) = fs::read_to_string(self.note(key)) else { return Ok(None) };
        let Some((sha256, file)) = note.trim_end().split_once("  ") else { return Ok(None) };
        let file = self.folder.join(file);
        if !file.is_file() {
            return Ok(None);
        }
        if host::sha256(&file)? != sha256 {
            return Err(Failure::new(format!(
                "{} is not what was fetched (its SHA-256 changed); remove it and start again",
                file.display()
            )));
        }
        Ok(Some(Package { file, sha256: sha256.to_owned() }))
    }

    /// Fetches the package of which apt says `record`, to be kept under `key`.
    fn fetch(&self, name: &str, key: &str, record: &str) -> Outcome<Package> {
        crate::progress::step(&format!("fetching package {name}"));
        let wanted = |title| {
            field(record, title).ok_or_else(|| Failure::new(format!("apt's entry for {name} has no {title}")))
        };
        let (version, sha256) = (wanted("Version:")?, wanted("SHA256:")?);
        // A folder of its own, so that the one file in it is the package, whatever apt calls it.
        let landing = self.folder.join(format!("{key}.part"));
        let _ = fs::remove_dir_all(&landing);
        fs::create_dir_all(&landing).tried(|| format!("cannot make {}", landing.display()))?;
        host::output_of(
            self.apt
                .command("apt-get")
                .args(["-o", "APT::Sandbox::User=root", "--quiet", "download"])
                .arg(format!("{name}={version}"))
                .current_dir(&landing),
        )?;
        let landed = only_file(&landing)?;
        let got = host::sha256(&landed)?;
        if got != sha256 {
            return Err(Failure::new(format!("package {name}: SHA-256 is {got}, apt's index says {sha256}")));
        }
        let file_name = format!("{name}.deb");
        let file = self.folder.join(&file_name);
        fs::rename(&landed, &file).tried(|| format!("cannot keep {}", file.display()))?;
        let _ = fs::remove_dir_all(&landing);
        let note = self.note(key);
        fs::write(&note, format!("{sha256}  {file_name}\n"))
            .tried(|| format!("cannot write {}", note.display()))?;
        Ok(Package { file, sha256: sha256.to_owned() })
    }

    fn note(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.sha256"))
    }
}

impl Package {
    /// Unpacks the package's files below `folder`, which is emptied first.
    pub fn unpack(&self, folder: &Path) -> Outcome<()> {
        let _ = fs::remove_dir_all(folder);
        self.unpack_over(folder)
    }

    /// Unpacks the package's files below `folder`, beside what is there.
    pub fn unpack_over(&self, folder: &Path) -> Outcome<()> {
        fs::create_dir_all(folder).tried(|| format!("cannot make {}", folder.display()))?;
        host::output_of(Command::new("dpkg-deb").arg("--extract").arg(&self.file).arg(folder)).map(drop)
    }
}

fn only_file(folder: &Path) -> Outcome<PathBuf> {
    let mut entries = fs::read_dir(folder).tried(|| format!("cannot list {}", folder.display()))?;
    match (entries.next(), entries.next()) {
        (Some(Ok(entry)), None) => Ok(entry.path()),
        _ => Err(Failure::new(format!("apt-get left not just one file in {}", folder.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_refused_and_a_missing_one_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_path_buf(), Apt::host()).unwrap();
        let file = folder.path().join("thing.deb");
        fs::write(&file, "content").unwrap();
        let sum = host::sha256(&file).unwrap();
        fs::write(store.note("thing"), format!("{sum}  thing.deb\n")).unwrap();
        assert_eq!(store.kept("thing").unwrap().unwrap().sha256, sum);
        fs::write(&file, "other content").unwrap();
        assert!(store.kept("thing").is_err());
        fs::remove_file(&file).unwrap();
        assert!(store.kept("thing").unwrap().is_none());
    }
}
