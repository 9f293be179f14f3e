//! A Unix socket of the host's on which a program that was started by hand listens.
//!
//! A name that a socket left behind shows by nobody listening, and is replaced; anything else is not ours to remove.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::stat::{Mode, umask};

use crate::Error;

/// Listens at `path`, for whom the user's umask lets.
///
/// # Errors
/// [`Error::Resource`]: somebody does, or it cannot be.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, Error> {
    bind(path).map_err(|error| Error::Resource(format!("cannot listen at {}: {error}", path.display())))
}

/// Listens at `path` for the user alone, without blocking, and for no descriptors. There is one thread.
///
/// # Errors
/// As above.
pub fn listen_for_user(path: &Path) -> Result<UnixListener, Error> {
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = listen(path);
    umask(before);
    let listener = listener?;
    protocol::take_no_descriptors(&listener);
    listener.set_nonblocking(true).map_err(|error| Error::Resource(format!("cannot listen: {error}")))?;
    Ok(listener)
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|entry| entry.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(refused) {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_socket_is_for_its_user_and_takes_the_place_of_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let first = listen_for_user(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(first.accept().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
        assert!(listen_for_user(&path).unwrap_err().to_string().contains("in use"), "somebody listens");
        drop(first);
        listen(&path).unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "kept").unwrap();
        assert!(listen(&file).is_err() && std::fs::read(&file).unwrap() == b"kept");
    }
}
