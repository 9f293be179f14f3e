//! `qemu-img`, which makes qcow2 images and says what is in them, independently of the library that serves them here.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use system_tests::{Error, Result, Running};

/// Makes an image of a disk of `size` bytes with these options of the format.
pub fn create(path: &Path, options: &str, size: u64) -> Result<()> {
    let size = size.to_string();
    let path = path.as_os_str();
    run(&[
        "create".as_ref(),
        "-q".as_ref(),
        "-f".as_ref(),
        "qcow2".as_ref(),
        "-o".as_ref(),
        options.as_ref(),
        path,
        size.as_ref(),
    ])
}

/// Finds the image free of errors and of clusters that are counted and not used.
pub fn clean(path: &Path) -> Result<()> {
    run(&["check".as_ref(), "-q".as_ref(), "-f".as_ref(), "qcow2".as_ref(), path.as_os_str()])
}

/// Finds it free of errors; clusters may be counted and not used.
pub fn clean_but_for_leaks(path: &Path) -> Result<()> {
    let all = ["check", "-q", "-f", "qcow2", "-r", "leaks"];
    run(&all.iter().map(OsStr::new).chain([path.as_os_str()]).collect::<Vec<_>>())?;
    clean(path)
}

/// Writes what is in the one, which is of this format, to the other, which is as `options` say.
pub fn convert(from: &Path, format: &str, to: &Path, options: &[&str]) -> Result<()> {
    let mut words: Vec<&OsStr> = ["convert", "-f", format].into_iter().map(OsStr::new).collect();
    words.extend(options.iter().map(OsStr::new));
    words.extend([from.as_os_str(), to.as_os_str()]);
    run(&words)
}

fn run(words: &[&OsStr]) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(words);
    let ended = Running::start(command)?.wait()?;
    match ended.code() {
        Some(0) => Ok(()),
        _ => Err(Error::Unexpected(format!("qemu-img {words:?}: {}", ended.everything()))),
    }
}
