//! Where a virtio console is: opened so that nothing blocks, as an open file description that no other process has, for
//! the flag belongs to the description. A terminal is opened anew for that reason, whoever else has it open.

use std::fs::OpenOptions;
use std::io::{IsTerminal, stdin};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{Mode, umask};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{UnlinkatFlags, ttyname, unlinkat};

use super::{name_of, refuse, wrong};
use crate::device::console::Place;
use crate::error::Error;
use crate::exit_code::Code;

/// Clients that may wait for the one that is served.
const BACKLOG: i32 = 4;
const WHAT: &str = "use console at";

/// A console that is open.
#[derive(Debug)]
pub struct OpenConsole {
    /// What its program is handed.
    pub fd: OwnedFd,
    /// A pseudoterminal's other end and where it is. It stays open as long as the machine runs: a pseudoterminal whose
    /// other end nobody has open says that it was hung up.
    pub other_end: Option<(OwnedFd, PathBuf)>,
}

/// Opens it.
pub fn virtio_console(place: &Place) -> Result<OpenConsole, Error> {
    let fd = match place {
        Place::Pty => return pty().map_err(Error::system("make a pseudoterminal")),
        Place::Path(path) => file(path)?,
        Place::Stdio => terminal()?,
        Place::Connect(path) => connected(path)?,
        Place::Listen(path) => listener(path)?,
    };
    Ok(OpenConsole { fd, other_end: None })
}

fn file(path: &Path) -> Result<OwnedFd, Error> {
    // Before it is opened: opening a tape rewinds it.
    let kind = std::fs::metadata(path).map(|metadata| metadata.file_type()).ok();
    let is_file = kind.is_none_or(|kind| kind.is_file());
    let both_ways = kind.is_some_and(|kind| kind.is_char_device() || kind.is_fifo());
    if let Some(kind) = kind.filter(|_| !is_file && !both_ways) {
        let text =
            format!("it is {}; name a file, a pipe or a terminal, or give connect=PATH", name_of(kind));
        return Err(refuse(WHAT, path, &text, Code::Resource));
    }
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    // A pipe, too: opened for writing alone it must have its reader already, and could not have another later.
    let mut options = OpenOptions::new();
    options.read(both_ways).append(true).create(is_file).mode(0o600).custom_flags(flags.bits());
    options.open(path).map(OwnedFd::from).map_err(|error| wrong(WHAT, path, &error, Code::Resource))
}

/// The terminal on standard input.
fn terminal() -> Result<OwnedFd, Error> {
    let input = stdin();
    let path = ttyname(&input).ok().filter(|_| input.is_terminal());
    let path = path.ok_or_else(|| {
        let text = "stdio=on: standard input is no terminal; give pty=on or path=FILE".to_owned();
        Error::Device { name: "console".to_owned(), text }
    })?;
    file(&path)
}

fn pty() -> Result<OpenConsole, Errno> {
    let pty = openpty(None, None)?;
    for end in [&pty.master, &pty.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    // The guest has a terminal's manners of its own: what it writes must not come back as what somebody typed.
    let mut mode = tcgetattr(&pty.slave)?;
    cfmakeraw(&mut mode);
    tcsetattr(&pty.slave, SetArg::TCSANOW, &mode)?;
    let path = ttyname(&pty.slave)?;
    Ok(OpenConsole { fd: pty.master, other_end: Some((pty.slave, path)) })
}

fn connected(path: &Path) -> Result<OwnedFd, Error> {
    let fd = super::back_end_again(path);
    fd.map_err(|text| refuse(WHAT, path, &text, Code::Resource))
}

/// For our own user. A name on which nobody listens is left from before.
fn listener(path: &Path) -> Result<OwnedFd, Error> {
    let failed = |errno: Errno| refuse("listen for a console at", path, errno.desc(), Code::Resource);
    let address = UnixAddr::new(path).map_err(failed)?;
    let stream = || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socket(AddressFamily::Unix, SockType::Stream, flags, None)
    };
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|entry| entry.file_type().is_socket());
    if is_socket && connect(stream().map_err(failed)?.as_raw_fd(), &address) == Err(Errno::ECONNREFUSED) {
        unlinkat(nix::fcntl::AT_FDCWD, path, UnlinkatFlags::NoRemoveDir).map_err(failed)?;
    }
    let listening = stream().map_err(failed)?;
    protocol::take_no_descriptors(&listening);
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = bind(listening.as_raw_fd(), &address);
    umask(before);
    bound.map_err(failed)?;
    Backlog::new(BACKLOG).and_then(|backlog| listen(&listening, backlog)).map_err(failed)?;
    Ok(listening)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    fn refused(place: &Place) -> String {
        virtio_console(place).unwrap_err().to_string()
    }

    fn flags(fd: &OwnedFd) -> OFlag {
        OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap())
    }

    #[test]
    fn a_file_is_made_and_written_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::Path(folder.path().join("log"));
        for part in [b"one ", b"two "] {
            std::fs::File::from(virtio_console(&place).unwrap().fd).write_all(part).unwrap();
        }
        assert_eq!(std::fs::read(folder.path().join("log")).unwrap(), b"one two ");
        assert!(refused(&Place::Path(folder.path().to_owned())).contains("a directory"));
        assert!(refused(&Place::Path(folder.path().join("no/such"))).contains("no/such"));
    }

    #[test]
    fn a_pseudoterminal_passes_each_byte_on_and_does_not_block() {
        let OpenConsole { fd, other_end } = virtio_console(&Place::Pty).unwrap();
        assert!(flags(&fd).contains(OFlag::O_NONBLOCK));
        let (slave, path) = other_end.unwrap();
        assert_eq!(ttyname(&slave).unwrap(), path);
        let (mut master, mut slave) = (std::fs::File::from(fd), std::fs::File::from(slave));
        master.write_all(b"a\x03\n").unwrap();
        let mut got = [0; 3];
        slave.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"a\x03\n");
        assert_eq!(master.read(&mut got).unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "no echo");
    }

    #[test]
    fn a_listener_is_for_its_user_and_takes_the_place_of_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let place = Place::Listen(path.clone());
        let first = virtio_console(&place).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(refused(&place).contains("in use"), "somebody listens");
        UnixStream::connect(&path).unwrap();
        let client = virtio_console(&Place::Connect(path.clone())).unwrap();
        assert!(flags(&client.fd).contains(OFlag::O_NONBLOCK));
        drop(first);
        assert!(refused(&Place::Connect(path)).contains("refused"));
        virtio_console(&place).unwrap();
    }
}
