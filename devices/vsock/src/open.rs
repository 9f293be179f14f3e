//! The socket of a vsock and its directory, for a program that was started by hand.

use std::fs::{remove_file, symlink_metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use device_backend::Error;
use nix::sys::stat::{Mode, umask};
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

/// Listens there, for the user alone.
///
/// # Errors
/// [`Error::Resource`]: somebody does, or it cannot be.
pub fn listen(path: &Path) -> Result<OwnedFd, Error> {
    bind(path).map_err(|error| Error::Resource(format!("cannot listen at {}: {error}", path.display())))
}

fn bind(path: &Path) -> io::Result<OwnedFd> {
    // A socket that nobody listens on is left from before; anything else is not ours to remove.
    let is_socket = symlink_metadata(path).is_ok_and(|entry| entry.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(refused) {
        remove_file(path)?;
    }
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    Ok(listener.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_socket_is_for_its_user_and_takes_the_place_of_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm");
        let first = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(listen(&path).unwrap_err().to_string().contains("in use"), "somebody listens");
        drop(first);
        listen(&path).unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "kept").unwrap();
        assert!(listen(&file).is_err() && std::fs::read(&file).unwrap() == b"kept");
    }

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
