//! The path of a vsock's socket, for a program that was started by hand.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use device_backend::Error;
use protocol::limits::MAX_VSOCK_PATH;

/// The directory that `path` is in.
///
/// # Errors
/// [`Error::Usage`]: it names no file.
pub fn folder(path: &Path) -> Result<&Path, Error> {
    let _ = name(path)?;
    match path.parent() {
        Some(parent) if parent != Path::new("") => Ok(parent),
        _ => Ok(Path::new(".")),
    }
}

/// The name of `path` in its directory.
///
/// # Errors
/// [`Error::Usage`]: it names no file, or is longer than a socket's path can be with a port behind it.
pub fn name(path: &Path) -> Result<String, Error> {
    let wrong = |what: &str| Error::Usage(format!("--path={}: {what}", path.display()));
    if path.as_os_str().as_bytes().len() > MAX_VSOCK_PATH {
        return Err(wrong(&format!("it is longer than {MAX_VSOCK_PATH} bytes, and a port comes behind it")));
    }
    let name = path.file_name().ok_or_else(|| wrong("it does not end with a name"))?;
    name.to_str().map(str::to_owned).ok_or_else(|| wrong("it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_directory_and_a_name() {
        for (path, parent, last) in [("/run/vm", "/run", "vm"), ("vm", ".", "vm"), ("./a/b", "./a", "b")] {
            let path = Path::new(path);
            assert_eq!((folder(path).unwrap(), name(path).unwrap().as_str()), (Path::new(parent), last));
        }
        let long = "x".repeat(MAX_VSOCK_PATH);
        assert!(name(Path::new(&long)).is_ok() && name(Path::new(&format!("/{long}"))).is_err());
        assert!(name(Path::new("/")).is_err() && folder(Path::new("a/..")).is_err());
    }
}
