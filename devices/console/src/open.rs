//! Opening what a console is connected to, for a program that was started by hand: so that nothing blocks, as an open
//! file description that no other process has.

use std::fs::{OpenOptions, metadata};
use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use device_backend::{Error, listen_for_user, log_line};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::ttyname;

/// Where the console is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file, a pipe or a terminal.
    Path(PathBuf),
    /// A pseudoterminal that is made.
    Pty,
    /// Whoever listens there.
    Connect(PathBuf),
    /// Whoever connects there.
    Listen(PathBuf),
}

/// Opens it.
///
/// # Errors
/// It cannot be used, in one line.
pub fn open(place: &Place) -> Result<OwnedFd, Error> {
    let failed = |path: &Path, what: &str| Error::Resource(format!("cannot use {}: {what}", path.display()));
    match place {
        Place::Path(path) => open_path(path).map_err(|what| failed(path, &what)),
        Place::Pty => {
            pty().map_err(|errno| Error::Resource(format!("cannot make a pseudoterminal: {}", errno.desc())))
        }
        Place::Connect(path) => connect(path).map_err(|error| failed(path, &error.to_string())),
        Place::Listen(path) => listen_for_user(path).map(OwnedFd::from),
    }
}

fn open_path(path: &Path) -> Result<OwnedFd, String> {
    // Before it is opened: opening a tape rewinds it.
    let kind = match metadata(path) {
        Ok(metadata) => Some(metadata.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.to_string()),
    };
    let is_file = kind.is_none_or(|kind| kind.is_file());
    let both_ways = kind.is_some_and(|kind| kind.is_char_device() || kind.is_fifo());
    if kind.is_some_and(|kind| kind.is_socket()) {
        return Err("it is a socket; give --connect=PATH".to_owned());
    }
    if !is_file && !both_ways {
        return Err("it is neither a file, a pipe nor a terminal".to_owned());
    }
    // A pipe, too: opened for writing alone it would have to have its reader already, and could not have another later.
    let mut options = OpenOptions::new();
    options.read(both_ways).append(true).create(is_file).mode(0o600);
    options.custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits());
    options.open(path).map(OwnedFd::from).map_err(|error| error.to_string())
}

/// A pseudoterminal's master, and a line that says where its other end is.
fn pty() -> Result<OwnedFd, Errno> {
    let pty = openpty(None, None)?;
    for end in [&pty.master, &pty.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    // The guest has a terminal's manners of its own: what it writes must not come back as what somebody typed.
    let mut mode = tcgetattr(&pty.slave)?;
    cfmakeraw(&mut mode);
    tcsetattr(&pty.slave, SetArg::TCSANOW, &mode)?;
    log_line(format_args!("the console is at {}", ttyname(&pty.slave)?.display()));
    // Open until this process ends: a master whose other end nobody has open says that it was hung up.
    let _until_the_end = pty.slave.into_raw_fd();
    Ok(pty.master)
}

fn connect(path: &Path) -> io::Result<OwnedFd> {
    let stream = UnixStream::connect(path)?;
    protocol::take_no_descriptors(&stream);
    stream.set_nonblocking(true)?;
    Ok(stream.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    use nix::sys::stat::Mode;

    fn refused(place: &Place) -> String {
        open(place).unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_made_and_written_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::Path(folder.path().join("log"));
        for part in [b"one ", b"two "] {
            File::from(open(&place).unwrap()).write_all(part).unwrap();
        }
        assert_eq!(std::fs::read(folder.path().join("log")).unwrap(), b"one two ");
    }

    #[test]
    fn a_pipe_needs_no_reader_to_be_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let mut pipe = File::from(open(&Place::Path(path.clone())).unwrap());
        pipe.write_all(b"kept").unwrap();
        let mut got = [0; 4];
        File::open(path).unwrap().read_exact(&mut got).unwrap();
        assert_eq!(&got, b"kept");
    }

    #[test]
    fn a_listener_is_for_its_user_and_takes_the_place_of_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let place = Place::Listen(path.clone());
        let first = open(&place).unwrap();
        assert_eq!(metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(refused(&place).contains("in use"), "somebody listens");
        let (client, both) = (open(&Place::Connect(path.clone())), Place::Path(path.clone()));
        assert!(client.is_ok() && refused(&both).contains("--connect"));
        drop(first);
        assert!(refused(&Place::Connect(path)).contains("refused"));
        open(&place).unwrap();
    }

    #[test]
    fn what_is_no_place_for_a_console_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(refused(&Place::Path(folder.path().to_owned())).contains("neither"));
        assert!(refused(&Place::Path(folder.path().join("no/such"))).contains("No such file"));
        assert!(refused(&Place::Listen(folder.path().join("x".repeat(200)))).contains("xxx"));
    }
}
