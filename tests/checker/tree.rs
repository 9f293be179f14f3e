//! What exercises a file system: files are written, cut, renamed, linked and removed at random, and what is found is
//! compared with what was done; and a writer of files that outlives deaths of who serves them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::say;

/// Directories that the files are in.
const FOLDERS: u64 = 4;
/// Names in each.
const NAMES: u64 = 12;
/// No file grows beyond this.
const LARGEST: u64 = 96 << 10;
/// No write is longer.
const LONGEST: u64 = 24 << 10;
/// Bytes of a file of the writer's.
const FILE: usize = 9000;
/// After so many files it says that it is alive.
const TOLD: u64 = 10;

/// Numbers that are the same each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.checked_rem(limit).unwrap_or_default()
    }

    fn bytes(&mut self, count: u64) -> Vec<u8> {
        (0..count).map(|_| u8::try_from(self.below(256)).unwrap_or_default()).collect()
    }
}

/// What ought to be there, by path below the directory.
struct Tree<'a> {
    directory: &'a Path,
    files: BTreeMap<String, Vec<u8>>,
    numbers: Numbers,
    wrong: u64,
}

/// Does so many things in a new directory, and says what was not as it should be.
pub fn check(directory: &Path, operations: u64) -> io::Result<String> {
    for folder in 0..FOLDERS {
        fs::create_dir_all(directory.join(folder.to_string()))?;
    }
    let mut tree = Tree { directory, files: BTreeMap::new(), numbers: Numbers(0x9e37_79b9), wrong: 0 };
    for done in 0..operations {
        tree.operate()?;
        if done.is_multiple_of(64) {
            tree.list()?;
        }
    }
    // Twice: by what the guest remembers, and as the host has it.
    tree.compare_all()?;
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    tree.compare_all()?;
    Ok(format!("tree operations={operations} files={} wrong={}", tree.files.len(), tree.wrong))
}

impl Tree<'_> {
    fn name(&mut self) -> String {
        format!("{}/{}", self.numbers.below(FOLDERS), self.numbers.below(NAMES))
    }

    fn place(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn blame(&mut self, what: &str, name: &str) {
        self.wrong = self.wrong.saturating_add(1);
        say(&format!("finding tree: {what} {name}"));
    }

    fn operate(&mut self) -> io::Result<()> {
        let name = self.name();
        let path = self.place(&name);
        match self.numbers.below(10) {
            0..=3 => self.write(&name),
            4 if self.files.contains_key(&name) => {
                let size = self.numbers.below(LARGEST);
                OpenOptions::new().write(true).open(path)?.set_len(size)?;
                self.change(&name, |content| content.resize(usize::try_from(size).unwrap_or_default(), 0));
                Ok(())
            }
            5 => {
                let to = self.name();
                match (fs::rename(path, self.place(&to)), self.files.remove(&name)) {
                    (Ok(()), Some(content)) => drop(self.files.insert(to, content)),
                    (Err(error), None) if error.kind() == io::ErrorKind::NotFound => {}
                    (outcome, _) => self.blame(&format!("rename answered {outcome:?}:"), &name),
                }
                Ok(())
            }
            6 => {
                match (fs::remove_file(path), self.files.remove(&name)) {
                    (Ok(()), Some(_)) => {}
                    (Err(error), None) if error.kind() == io::ErrorKind::NotFound => {}
                    (outcome, _) => self.blame(&format!("remove answered {outcome:?}:"), &name),
                }
                Ok(())
            }
            7 if self.files.contains_key(&name) => self.removed_while_open(&name),
            _ => self.compare(&name),
        }
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        change(self.files.entry(name.to_owned()).or_default());
    }

    fn write(&mut self, name: &str) -> io::Result<()> {
        let (offset, count) = (self.numbers.below(LARGEST), self.numbers.below(LONGEST));
        let data = self.numbers.bytes(count);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(self.place(name))?;
        file.write_all_at(&data, offset)?;
        if self.numbers.below(8) == 0 {
            file.sync_all()?;
        }
        let start = usize::try_from(offset).unwrap_or_default();
        self.change(name, |content| {
            let end = start.saturating_add(data.len());
            // A write of nothing makes a file no longer.
            if !data.is_empty() && content.len() < end {
                content.resize(end, 0);
            }
            if let Some(place) = content.get_mut(start..end) {
                place.copy_from_slice(&data);
            }
        });
        Ok(())
    }

    /// A file that is open has its content until it is closed.
    fn removed_while_open(&mut self, name: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).write(true).open(self.place(name))?;
        fs::remove_file(self.place(name))?;
        file.set_len(5)?;
        let mut found = Vec::new();
        file.read_to_end(&mut found)?;
        let mut wanted = self.files.remove(name).unwrap_or_default();
        wanted.resize(5, 0);
        if found != wanted || file.metadata()?.len() != 5 {
            self.blame("removed while it was open:", name);
        }
        Ok(())
    }

    fn compare(&mut self, name: &str) -> io::Result<()> {
        match (fs::read(self.place(name)), self.files.get(name)) {
            (Ok(found), Some(wanted)) if found == *wanted => {}
            (Err(error), None) if error.kind() == io::ErrorKind::NotFound => {}
            (Err(error), _) => return Err(error),
            (Ok(_), _) => self.blame("content of", name),
        }
        Ok(())
    }

    fn compare_all(&mut self) -> io::Result<()> {
        self.list()?;
        let names: Vec<String> = self.files.keys().cloned().collect();
        names.iter().try_for_each(|name| self.compare(name))
    }

    fn list(&mut self) -> io::Result<()> {
        let mut found = Vec::new();
        for folder in 0..FOLDERS {
            for entry in fs::read_dir(self.place(&folder.to_string()))? {
                found.push(format!("{folder}/{}", entry?.file_name().display()));
            }
        }
        found.sort();
        if !found.iter().eq(self.files.keys()) {
            self.blame("names:", &found.join(" "));
        }
        Ok(())
    }
}

/// Makes files until there is a file `end`, each written, made durable and renamed. One that was acknowledged in each step
/// must be there, whole; an error is one step that was not, and the file is made again under its number.
pub fn survive(directory: &Path, end: &Path) -> io::Result<String> {
    let (mut files, mut failed) = (0u64, 0u64);
    while !end.exists() {
        match make(directory, files) {
            Ok(()) => files = files.saturating_add(1),
            Err(error) => {
                failed = failed.saturating_add(1);
                say(&format!("once {error}"));
            }
        }
        if files.is_multiple_of(TOLD) {
            say(&format!("made {files}"));
        }
    }
    let lost = lost(directory, files);
    Ok(format!("files made={files} failed={failed} lost={lost}"))
}

/// How many of the first `files` are not there as they were made.
fn lost(directory: &Path, files: u64) -> usize {
    let is_lost =
        |file: &u64| !fs::read(directory.join(file.to_string())).is_ok_and(|found| found == content(*file));
    let lost = (0..files).filter(is_lost);
    lost.inspect(|file| say(&format!("finding files: {file} is not what was acknowledged"))).count()
}

fn content(file: u64) -> Vec<u8> {
    let line = format!("file {file}\n").into_bytes();
    line.iter().copied().cycle().take(FILE).collect()
}

fn make(directory: &Path, file: u64) -> io::Result<()> {
    let new = directory.join("new");
    let mut open = File::create(&new)?;
    content(file).chunks(1000).try_for_each(|part| open.write_all(part))?;
    open.sync_all()?;
    drop(open);
    fs::rename(new, directory.join(file.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_another_changed_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree =
            Tree { directory: folder.path(), files: BTreeMap::new(), numbers: Numbers(7), wrong: 0 };
        for number in 0..FOLDERS {
            fs::create_dir(folder.path().join(number.to_string())).unwrap();
        }
        for _ in 0..500 {
            tree.operate().unwrap();
        }
        tree.compare_all().unwrap();
        assert!(tree.wrong == 0 && tree.files.len() > 5);
        let name = tree.files.keys().next().unwrap().clone();
        tree.change(&name, |content| content.push(1));
        tree.compare_all().unwrap();
        assert_eq!(tree.wrong, 1);
        fs::write(folder.path().join("0/stranger"), "").unwrap();
        tree.list().unwrap();
        assert_eq!(tree.wrong, 2);
    }

    #[test]
    fn a_file_that_was_lost_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        (0..4).for_each(|file| make(folder.path(), file).unwrap());
        assert_eq!(lost(folder.path(), 4), 0);
        fs::write(folder.path().join("1"), "other").unwrap();
        fs::remove_file(folder.path().join("3")).unwrap();
        assert_eq!(lost(folder.path(), 4), 2);
    }
}
