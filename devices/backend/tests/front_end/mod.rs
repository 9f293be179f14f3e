//! A vhost-user front end and a split-ring driver, written by hand: what plays the other side of a device program in
//! its tests. It says what it is told to say, right or wrong. Test programs include it by path, and each uses its
//! own part.

pub mod driver;

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read};
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, recvmsg, sendmsg};

/// Requests, by their numbers in the specification.
pub mod request {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const GET_CONFIG: u32 = 24;
    pub const SET_CONFIG: u32 = 25;
    pub const GET_INFLIGHT_FD: u32 = 31;
    pub const SET_INFLIGHT_FD: u32 = 32;
    pub const RESET_DEVICE: u32 = 34;
}

/// Added to guest-physical addresses to make user addresses.
pub const USER: u64 = 0x7000_0000_0000;
pub const NEED_REPLY: u32 = 8;

/// The front end's end of a connection.
pub struct Connection {
    pub socket: UnixStream,
}

/// The program under test, and the connection to it.
pub struct Device {
    pub child: Child,
    connection: Connection,
}

impl Deref for Device {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Device {
    /// Starts the real `program` (CARGO_BIN_EXE_…), stand-alone, with its confinement.
    pub fn spawn(program: &str, arguments: &[&str]) -> Self {
        let (socket, theirs) = UnixStream::pair().unwrap();
        // An answer that does not come fails instead of hanging.
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        // As an event loop that made the socket would have left it: the device must not count on blocking.
        theirs.set_nonblocking(true).unwrap();
        let child = Command::new(program)
            .arg(format!("--fd={}", theirs.as_raw_fd()))
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, connection: Connection { socket } }
    }

    /// The pid of the confined process: the only child of the one that was started.
    pub fn confined_pid(&self) -> i32 {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().next().expect("a confined child").parse().unwrap()
    }

    /// Its open descriptors.
    pub fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.confined_pid());
        // Since Linux 6.2 the folder's size is their number, which an ordinary user may see of a process that is
        // not dumpable. Before, only root can look.
        match std::fs::metadata(&folder).unwrap().len() {
            0 => std::fs::read_dir(folder).unwrap().count(),
            number => usize::try_from(number).unwrap(),
        }
    }

    /// The next line of the log, awaited; [`Device::end`] returns what comes after it.
    pub fn line(&self) -> String {
        let log = self.child.stderr.as_ref().unwrap();
        let (mut line, mut byte) = (Vec::new(), [0]);
        while nix::unistd::read(log, &mut byte) == Ok(1) && byte != *b"\n" {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    /// Hangs up, and returns the exit code and the log.
    pub fn end(mut self) -> (Option<i32>, String) {
        drop(self.connection);
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Connection {
    pub fn send(&self, request: u32, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        let size = u32::try_from(body.len()).unwrap();
        self.send_raw([request, flags, size], body, fds);
    }

    pub fn send_raw(&self, header: [u32; 3], body: &[u8], fds: &[BorrowedFd<'_>]) {
        let head: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.send_bytes(&[&head, body].concat(), fds);
    }

    pub fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
        let parts = [IoSlice::new(bytes)];
        // The device may have hung up: the test looks at what it reads.
        let _ = sendmsg::<()>(self.socket.as_raw_fd(), &parts, rights, MsgFlags::MSG_NOSIGNAL, None);
    }

    /// The payload of the next reply, or None when the device hung up.
    pub fn reply(&self, request: u32) -> Option<Vec<u8>> {
        let mut head = [0; 12];
        (&self.socket).read_exact(&mut head).ok()?;
        let word = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(4)), (request, 5), "the reply's number and flags");
        let mut body = vec![0; word(8) as usize];
        (&self.socket).read_exact(&mut body).ok()?;
        Some(body)
    }

    /// Sends a request that asks for an acknowledgement. True: accepted; false: refused.
    pub fn ask(&self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        self.send(request, 1 | NEED_REPLY, body, fds);
        let reply = self.reply(request).expect("an acknowledgement");
        u64::from_ne_bytes(reply.try_into().unwrap()) == 0
    }

    /// Sends a request that has an answer of one number.
    pub fn get(&self, request: u32) -> u64 {
        self.send(request, 1, &[], &[]);
        u64::from_ne_bytes(self.reply(request).unwrap().try_into().unwrap())
    }

    /// Sends a request whose reply carries a descriptor.
    pub fn get_with_fd(&self, request: u32, body: &[u8], size: usize) -> (Vec<u8>, OwnedFd) {
        self.send(request, 1, body, &[]);
        let mut bytes = vec![0; 12 + size];
        let mut control = nix::cmsg_space!([RawFd; 1]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let raw = self.socket.as_raw_fd();
        let message = recvmsg::<()>(raw, &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
        let received = message.cmsgs().unwrap().next();
        let Some(nix::sys::socket::ControlMessageOwned::ScmRights(fds)) = received else {
            panic!("no descriptor came with the reply")
        };
        // Reopened rather than adopted: a test has no unsafe code.
        let fd = File::options().read(true).write(true).open(format!("/proc/self/fd/{}", fds[0])).unwrap();
        nix::unistd::close(fds[0]).unwrap();
        (bytes.split_off(12), fd.into())
    }

    /// Negotiates everything that is offered, and returns it.
    pub fn negotiate(&self, refuse: u64) -> u64 {
        let features = self.get(request::GET_FEATURES) & !refuse;
        let protocol = self.get(request::GET_PROTOCOL_FEATURES);
        self.send(request::SET_PROTOCOL_FEATURES, 1, &protocol.to_ne_bytes(), &[]);
        assert!(self.ask(request::SET_OWNER, &[], &[]));
        assert!(self.ask(request::SET_FEATURES, &features.to_ne_bytes(), &[]));
        features
    }
}

/// A memfd of `size` bytes, sealed with `seals`.
pub fn memfd(size: u64, seals: SealFlag) -> File {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create("guest", flags).unwrap());
    file.set_len(size).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file
}

pub fn sealed(size: u64) -> File {
    memfd(size, SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)
}

/// The body of SET_MEM_TABLE for regions of (guest address, size, file offset).
pub fn memory_table(regions: &[(u64, u64, u64)]) -> Vec<u8> {
    let mut body = u32::try_from(regions.len()).unwrap().to_ne_bytes().to_vec();
    body.extend([0; 4]);
    for (guest, size, offset) in regions {
        for word in [*guest, *size, guest.wrapping_add(USER), *offset] {
            body.extend(word.to_ne_bytes());
        }
    }
    body
}

/// Two 32-bit words, as most ring requests have.
pub fn state(index: u32, value: u32) -> Vec<u8> {
    [index.to_ne_bytes(), value.to_ne_bytes()].concat()
}

/// The body of SET_VRING_ADDR for guest-physical addresses.
pub fn ring_address(index: u32, descriptors: u64, available: u64, used: u64) -> Vec<u8> {
    let mut body = state(index, 0);
    for word in [descriptors + USER, used + USER, available + USER, 0] {
        body.extend(word.to_ne_bytes());
    }
    body
}

pub fn bytes_of(file: &File, offset: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

pub fn borrow<T: AsFd>(fds: &[T]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}
