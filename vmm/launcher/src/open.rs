//! The one place where a path becomes a descriptor.
//!
//! The launcher opens all that a machine needs, with exactly the rights that its user of the descriptor gets, before
//! anything is spawned; no other process of the machine ever sees a path. Everything is close-on-exec.

mod console;
mod disk;
mod pmem;

use std::fs::{File, Metadata, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::error::Error;
use crate::exit_code::Code;
use crate::listening::Listening;
use crate::size::Size;

pub use console::{OpenConsole, virtio_console};
pub use disk::{Disk, disk};
pub use pmem::{OpenPmem, persistent_memory};

/// KVM's node: the misc major, and its minor (`KVM_MINOR`).
const KVM_NODE: (u64, u64) = (10, 232);
/// How long a listener may leave a connection waiting in its queue.
const CONNECT_SECONDS: i64 = 5;
/// Programs of the host that may wait to be heard by a vsock.
const VSOCK_BACKLOG: i32 = 128;

/// The text of the settings file.
pub fn settings(path: &Path) -> Result<String, Error> {
    let what = "read settings file";
    regular(what, path, Code::Usage)?;
    std::fs::read_to_string(path).map_err(|error| wrong(what, path, &error, Code::Usage))
}

/// Kernel or initrd, for reading: a regular file that holds something, and not more than the guest's `memory`. What it
/// holds, and whether it fits beside the other, the core judges.
pub fn image(what: &'static str, path: &Path, memory: Size) -> Result<OwnedFd, Error> {
    let metadata = regular(what, path, Code::Resource)?;
    if metadata.len() >= memory.0 {
        let text = format!(
            "its {} bytes do not fit into {memory} of guest memory; give more --memory",
            metadata.len()
        );
        return Err(refuse(what, path, &text, Code::Kernel));
    }
    if metadata.len() == 0 {
        return Err(refuse(what, path, "it is empty", Code::Kernel));
    }
    let file = File::open(path).map_err(|error| wrong(what, path, &error, Code::Resource))?;
    Ok(file.into())
}

/// KVM's node, for reading and writing.
pub fn kvm(path: &Path) -> Result<OwnedFd, Error> {
    let what = "use KVM at";
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(|error| {
        let text = match error.kind() {
            ErrorKind::NotFound => {
                "it is not there; load kvm_intel or kvm_amd, and enable virtualization in the firmware"
                    .to_owned()
            }
            ErrorKind::PermissionDenied => "no permission; join the group that owns it, often kvm".to_owned(),
            _ => format!("{}; virtualization may be off in the firmware", reason(&error)),
        };
        Error::Path { what, path: path.to_owned(), text, code: Code::Kvm }
    })?;
    let metadata = file.metadata().map_err(|error| wrong(what, path, &error, Code::Kvm))?;
    let rdev = metadata.rdev();
    let node = (libc::major(rdev), libc::minor(rdev));
    if !metadata.file_type().is_char_device() || (u64::from(node.0), u64::from(node.1)) != KVM_NODE {
        return Err(refuse(what, path, "it is not KVM's device node", Code::Kvm));
    }
    Ok(file.into())
}

/// A program of ours, for executing by descriptor.
pub fn program(path: &Path) -> std::io::Result<OwnedFd> {
    // Not O_PATH: execveat takes that too, but a file that cannot be read could not be checked by a person either.
    let file = File::open(path)?;
    if file.metadata()?.is_file() { Ok(file.into()) } else { Err(ErrorKind::IsADirectory.into()) }
}

/// What no process reads from or writes to.
pub fn null() -> Result<OwnedFd, Error> {
    let path = Path::new("/dev/null");
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.map(OwnedFd::from).map_err(|error| wrong("open", path, &error, Code::Resource))
}

/// The file that gets the console's output, at its end; made if it is not there.
pub fn console(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().append(true).create(true).custom_flags(flags.bits()).open(path);
    file.map(OwnedFd::from).map_err(|error| wrong("write the console to", path, &error, Code::Resource))
}

/// The file that gets the events of devices, at its end; made if it is not there, and never waited for.
pub fn events(path: &Path) -> Result<OwnedFd, Error> {
    let what = "write events to";
    let kind = std::fs::metadata(path).map(|metadata| metadata.file_type());
    if let Some(kind) = kind.as_ref().ok().filter(|kind| kind.is_dir() || kind.is_socket()) {
        let text = format!("it is {}; name a file, a pipe or /dev/fd/N", name_of(*kind));
        return Err(refuse(what, path, &text, Code::Resource));
    }
    // Opened for writing alone a pipe must have its reader already, and could not have another later.
    let pipe = kind.is_ok_and(|kind| kind.is_fifo());
    let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(pipe).append(true).create(!pipe).mode(0o600).custom_flags(flags.bits());
    options.open(path).map(OwnedFd::from).map_err(|error| wrong(what, path, &error, Code::Resource))
}

/// What tells a file that is there from others, by whatever path: file system and inode. `what` was tried with it.
pub fn file_identity(what: &'static str, path: &Path) -> Result<(u64, u64), Error> {
    let metadata = std::fs::metadata(path).map_err(|error| wrong(what, path, &error, Code::Resource))?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A directory to be a program's root: to be walked, and no more, so that it can be one that its user may not list.
pub fn directory(path: &Path) -> Result<OwnedFd, Error> {
    let what = "open directory";
    let metadata = std::fs::metadata(path).map_err(|error| wrong(what, path, &error, Code::Resource))?;
    if !metadata.is_dir() {
        let text = format!("it is {}, and no directory", name_of(metadata.file_type()));
        return Err(refuse(what, path, &text, Code::Resource));
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    file.map(OwnedFd::from).map_err(|error| wrong(what, path, &error, Code::Resource))
}

/// The socket of a vsock, where programs of the host ask for ports of the guest.
pub fn vsock(path: &Path) -> Result<Listening, Error> {
    let listening = Listening::make("listen for a vsock at", path, SockType::Stream, VSOCK_BACKLOG)?;
    // For what is accepted from it as well.
    protocol::take_no_descriptors(&listening);
    Ok(listening)
}

/// A generator of the host, for reading. Any number of devices may share it.
pub fn generator(path: &Path) -> Result<OwnedFd, Error> {
    let what = "read entropy from";
    let metadata = std::fs::metadata(path).map_err(|error| wrong(what, path, &error, Code::Resource))?;
    // A file would give each guest the same bytes, and opening a pipe would wait for its other end.
    if !metadata.file_type().is_char_device() {
        let kind = name_of(metadata.file_type());
        let text =
            format!("it is {kind}; a generator is a character device, as /dev/urandom and /dev/hwrng are");
        return Err(refuse(what, path, &text, Code::Resource));
    }
    let file = File::open(path).map_err(|error| wrong(what, path, &error, Code::Resource))?;
    Ok(file.into())
}

/// The host's machine id (machine-id(5)), its first and its second half; zeros where it has none.
pub fn machine_id() -> [u64; 2] {
    let text = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let half = |digits: Option<&str>| u64::from_str_radix(digits.unwrap_or_default(), 16).unwrap_or(0);
    [half(text.get(..16)), half(text.get(16..32))]
}

/// What tells a file or socket that is there from others: file system and inode.
pub fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

const TO_BACK_END: &str = "connect to back end";
const TO_STREAM: &str = "connect to stream";

/// The socket of a back end that somebody else runs: checked to be one, and what tells it from others.
pub fn back_end_identity(path: &Path) -> Result<(u64, u64), Error> {
    socket_identity(TO_BACK_END, path)
}

/// The same of whoever takes a network's frames on a stream.
pub fn stream_identity(path: &Path) -> Result<(u64, u64), Error> {
    socket_identity(TO_STREAM, path)
}

fn socket_identity(what: &'static str, path: &Path) -> Result<(u64, u64), Error> {
    let metadata = std::fs::metadata(path).map_err(|error| wrong(what, path, &error, Code::Resource))?;
    let kind = metadata.file_type();
    if !kind.is_socket() {
        return Err(refuse(what, path, &format!("it is {}, not a socket", name_of(kind)), Code::Resource));
    }
    Ok((metadata.dev(), metadata.ino()))
}

/// A connection to a back end that somebody else runs.
pub fn back_end(path: &Path) -> Result<OwnedFd, Error> {
    connected(TO_BACK_END, path, "start the back end first")
}

/// A connection to whoever takes a network's frames on a stream.
pub fn stream(path: &Path) -> Result<OwnedFd, Error> {
    connected(TO_STREAM, path, "start what the network is to be first, passt --socket PATH for one")
}

fn connected(what: &'static str, path: &Path, advice: &str) -> Result<OwnedFd, Error> {
    let failed = |errno: Errno| {
        let text = match errno {
            Errno::ECONNREFUSED => format!("nobody listens there; {advice}"),
            Errno::EAGAIN => {
                format!("it accepts no connection within {CONNECT_SECONDS} s; is it serving another?")
            }
            Errno::EPROTOTYPE => "it is not a stream socket".to_owned(),
            errno => errno.desc().to_owned(),
        };
        Error::Path { what, path: path.to_owned(), text, code: Code::Resource }
    };
    let address = UnixAddr::new(path).map_err(failed)?;
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    // connect(2) waits for room in the listener's queue as long as the socket's time limit for sending says.
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::seconds(CONNECT_SECONDS)).map_err(failed)?;
    protocol::take_no_descriptors(&fd);
    connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &address).map_err(failed)?;
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::seconds(0)).map_err(failed)?;
    Ok(fd)
}

/// The same again, once the machine runs: without waiting for a listener that is busy. The answer is one line.
pub fn back_end_again(path: &Path) -> Result<OwnedFd, String> {
    let failed = |errno: Errno| errno.desc().to_owned();
    let address = UnixAddr::new(path).map_err(failed)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed)?;
    protocol::take_no_descriptors(&fd);
    connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &address).map_err(failed)?;
    Ok(fd)
}

fn regular(what: &'static str, path: &Path, code: Code) -> Result<Metadata, Error> {
    let metadata = std::fs::metadata(path).map_err(|error| wrong(what, path, &error, code))?;
    if metadata.is_file() {
        return Ok(metadata);
    }
    Err(refuse(what, path, &format!("it is {}, not a file", name_of(metadata.file_type())), code))
}

fn name_of(kind: std::fs::FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_block_device() => "a block device",
        _ => "a regular file",
    }
}

fn refuse(what: &'static str, path: &Path, text: &str, code: Code) -> Error {
    Error::Path { what, path: path.to_owned(), text: text.to_owned(), code }
}

fn wrong(what: &'static str, path: &Path, error: &std::io::Error, code: Code) -> Error {
    refuse(what, path, &reason(error), code)
}

/// The kernel's words without "(os error N)".
fn reason(error: &std::io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    /// Whether somebody who is connected with us can send a descriptor.
    fn takes_descriptors(peer: &UnixStream) -> bool {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        use std::os::fd::AsRawFd;
        let (parts, fds) = ([std::io::IoSlice::new(b"x")], [peer.as_raw_fd()]);
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(peer.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).is_ok()
    }

    #[test]
    fn nobody_sends_descriptors_over_what_is_opened_here() {
        let kernel_has_it = protocol::take_no_descriptors(&UnixStream::pair().unwrap().0);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let ours = [back_end(&path).unwrap(), back_end_again(&path).unwrap(), stream(&path).unwrap()];
        for _ in &ours {
            let (peer, _) = listener.accept().unwrap();
            assert_eq!(takes_descriptors(&peer), !kernel_has_it);
        }
        let path = folder.path().join("vsock");
        let _listening = vsock(&path).unwrap();
        assert_eq!(takes_descriptors(&UnixStream::connect(&path).unwrap()), !kernel_has_it);
        let path = folder.path().join("console");
        let place = crate::device::console::Place::Listen(path.clone());
        let _listening = virtio_console(&place).unwrap();
        assert_eq!(takes_descriptors(&UnixStream::connect(&path).unwrap()), !kernel_has_it);
    }

    #[test]
    fn a_back_end_is_a_socket_on_which_somebody_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blk.sock");
        let listener = UnixListener::bind(&path).unwrap();
        assert!(back_end(&path).is_ok() && back_end_again(&path).is_ok());
        drop(listener);
        assert_eq!(back_end_again(&path).unwrap_err(), "Connection refused");
        assert!(back_end_identity(&path).is_ok());
        let said = back_end(&path).unwrap_err().to_string();
        assert!(said.contains("nobody listens"), "{said}");
        assert!(
            back_end_identity(folder.path()).unwrap_err().to_string().contains("a directory, not a socket")
        );
    }
}
