//! virtio-console with three ports: a stream whose other end takes all, a file, and a socket to which clients come and go.

use super::Bench;
use crate::{Input, memory};
use device_backend::Device;
use device_console::Console;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket};
use protocol::{ConsoleOptions, ConsolePort, ConsoleSize, Setting};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::{Mutex, OnceLock, PoisonError};

const FILE_LIMIT: u64 = 1 << 16;
/// Where what is sent to a client goes. Nobody reads there, and a device waits for that, once.
const CLIENT_TRANSMIT: u8 = 7;
const QUEUES: u8 = 8;

struct Terminal {
    bench: Bench<Console>,
    file: std::fs::File,
    host: Mutex<Host>,
    address: SocketAddr,
}

struct Host {
    stream: UnixStream,
    client: Option<UnixStream>,
}

impl Terminal {
    fn begin() -> Option<Self> {
        let (ours, theirs) = UnixStream::pair().ok()?;
        theirs.set_nonblocking(true).ok()?;
        let mut reader = ours.try_clone().ok()?;
        std::thread::spawn(move || while reader.read(&mut [0; 1 << 16]).is_ok_and(|bytes| bytes > 0) {});
        let address = SocketAddr::from_abstract_name(format!("vmm-fuzz-{}", std::process::id())).ok()?;
        let listener = UnixListener::bind_addr(&address).ok()?;
        listener.set_nonblocking(true).ok()?;
        let file = memory::file()?;
        fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND)).ok()?;
        let port = |name: &str, console| ConsolePort { name: name.to_owned(), console };
        let ports = vec![port("", true), port("file", false), port("client", false)];
        let options = ConsoleOptions { size: None, file_limit: Some(FILE_LIMIT), ports };
        let mut console = Console::new(theirs.into(), options).ok()?;
        console.add(vec![file.try_clone().ok()?.into(), listener.into()]).ok()?;
        assert_eq!(console.queues(), u16::from(QUEUES));
        let host = Mutex::new(Host { stream: ours, client: None });
        Some(Self { bench: Bench::of(Some(console))?, file, host, address })
    }

    /// As far as there is room: nobody is accepted before the guest has a buffer for what is typed.
    fn connect(&self) -> Option<UnixStream> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let client = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
        let address = UnixAddr::new_abstract(self.address.as_abstract_name()?).ok()?;
        connect(client.as_raw_fd(), &address).ok()?;
        Some(client.into())
    }

    fn act(&self, host: &mut Host, input: &mut Input<'_>) {
        let form = input.u8();
        match form % 8 {
            0 => {
                let typed = input.bytes(usize::from(input.clone().u8()));
                let to = host.client.as_ref().filter(|_| form & 8 != 0).unwrap_or(&host.stream);
                // A guest that takes nothing stops who types, and not the target.
                let _ = send(to.as_raw_fd(), typed, MsgFlags::MSG_DONTWAIT);
            }
            1 => {
                host.client = self.connect();
            }
            2 => host.client = None,
            3 => {
                let (columns, rows) = (input.u8().into(), input.u8().into());
                let _ = self.bench.device.set(Setting::Console(ConsoleSize { columns, rows }));
            }
            4 if form & 0xF0 == 0 => {
                self.bench.device.reset();
            }
            _ => {
                let queue = input.ahead(2) % QUEUES;
                if queue == CLIENT_TRANSMIT {
                    host.client = None;
                }
                self.bench.feed_next(input);
            }
        }
    }
}

/// What is typed, what the guest writes, its control messages, and what becomes of the clients.
pub fn console(data: &[u8]) {
    static TERMINAL: OnceLock<Option<Terminal>> = OnceLock::new();
    let Some(terminal) = TERMINAL.get_or_init(Terminal::begin) else { return };
    let mut host = terminal.host.lock().unwrap_or_else(PoisonError::into_inner);
    let mut input = Input::new(data);
    while !input.is_empty() {
        terminal.act(&mut host, &mut input);
    }
    host.client = None;
    terminal.bench.device.reset();
    let _ = terminal.file.set_len(0);
}
