//! The back end of the device programs, in a conversation with a hostile front end: against the block device, with its
//! queues on threads as in the program.
//!
//! The input is guest memory, with a ring in it, and then messages: well-formed ones with any numbers and descriptors,
//! the whole set-up of a ring, and raw bytes. Each message is answered before the next is sent, so that nothing hangs on who
//! is faster; only what the queue's thread does meanwhile does.

use crate::devices::disk_options;
use crate::{Input, memory};
use device_backend::direct::{Conversation, DirectBackend};
use device_blk::{Blk, Disk};
use nix::sys::eventfd::EventFd;
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};
use std::fs::File;
use std::io::IoSlice;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

/// Bytes of guest memory, at 0 in the guest and at [`USER`] in the front end.
const MEMORY: u64 = 1 << 16;
const USER: u64 = 0x7000_0000;
/// Requests that have no answer of their own.
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;
/// Those that have one (vhost-user, "Front-end message types"): GET_FEATURES, GET_VRING_BASE, GET_PROTOCOL_FEATURES,
/// GET_QUEUE_NUM, GET_CONFIG, GET_INFLIGHT_FD.
const ANSWERED: [u32; 6] = [1, 11, 15, 17, 24, 31];
const NEED_REPLY: u32 = 8;
const MOST_FDS: usize = 40;

type Back = DirectBackend<Blk>;

/// One conversation.
pub fn run(data: &[u8]) {
    /// Between conversations.
    static BACK_END: Mutex<Option<Back>> = Mutex::new(None);
    let mut slot = BACK_END.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(back_end) = slot.take().or_else(begin) else { return };
    let Ok((ours, theirs)) = UnixStream::pair() else { return };
    let Ok(conversation) = back_end.connect(theirs.into()) else { return };
    let mut input = Input::new(data);
    let Some(pool) = Pool::new(&mut input) else { return };
    let mut front_end = FrontEnd { socket: ours, conversation, pool };
    while !input.is_empty() && front_end.act(&mut input) {}
    let ended = front_end.conversation.end();
    assert!(ended.is_ok(), "a device that keeps nothing does not end its conversation");
    *slot = ended.ok();
}

fn begin() -> Option<Back> {
    let file = memory::file()?;
    file.set_len(1 << 16).ok()?;
    let options = disk_options(false, 2, Vec::new());
    DirectBackend::new(Blk::new(&options, Disk::new(file.into(), false).ok()?).ok()?).ok()
}

/// What a front end may send a descriptor of.
struct Pool(Vec<OwnedFd>);

impl Pool {
    fn new(input: &mut Input<'_>) -> Option<Self> {
        let length = input.u16() % 1024;
        let guest = memory::sealed(MEMORY)?;
        guest.write_all_at(input.bytes(length.into()), 0).ok()?;
        let available = input.u8();
        guest.write_all_at(input.bytes(available.into()), 0x1000).ok()?;
        let unsealed = memory::file()?;
        unsealed.set_len(MEMORY).ok()?;
        let event = || EventFd::from_value(1).ok().map(OwnedFd::from);
        let (read, write) = nix::unistd::pipe().ok()?;
        let null = File::open("/dev/null").ok()?;
        let small = memory::sealed(4096)?;
        let of_memory: [OwnedFd; 3] = [guest.into(), small.into(), unsealed.into()];
        let others = [event()?, event()?, read, write, null.into()];
        Some(Self(of_memory.into_iter().chain(others).collect()))
    }

    fn raw(&self, choice: u8) -> Option<RawFd> {
        self.0.get(usize::from(choice).checked_rem(self.0.len())?).map(AsRawFd::as_raw_fd)
    }
}

struct FrontEnd {
    socket: UnixStream,
    conversation: Conversation<Blk>,
    pool: Pool,
}

impl FrontEnd {
    /// Sends what comes next. Whether the back end listens still.
    fn act(&mut self, input: &mut Input<'_>) -> bool {
        let form = input.u8();
        let queue = u32::from(form >> 6) % 3;
        match form & 7 {
            0 => self.set_up(queue, input),
            1 => {
                let memory = input.u8();
                self.memory_table(1, memory, input)
            }
            2 => {
                let count = input.u8();
                self.memory_table(count, count, input)
            }
            3 => {
                let bytes = input.bytes(usize::from(input.clone().u8()));
                self.raw(bytes, input.u8())
            }
            4 => {
                let (number, value) = (input.u8().into(), input.u32());
                let body = [queue, value].map(u32::to_ne_bytes).concat();
                self.message(number, form & 8 != 0, &body, &[])
            }
            5 => {
                let (number, value, fd) = (u32::from(input.u8()), input.u64(), input.u8());
                let fds = if form & 16 != 0 { vec![fd] } else { Vec::new() };
                self.message(number, form & 8 != 0, &value.to_ne_bytes(), &fds)
            }
            _ => {
                let (number, size) = (input.u8().into(), input.u8());
                let body = input.bytes(size.into());
                let fds = input.bytes(usize::from(form >> 4));
                self.message(number, form & 8 != 0, body, fds)
            }
        }
    }

    /// All that a front end says before a ring is served.
    fn set_up(&mut self, queue: u32, input: &mut Input<'_>) -> bool {
        let (features, size, base) = (input.u64(), 1_u32 << (input.u8() % 12), u32::from(input.u16()));
        let table = u64::from(input.u8()) * 64;
        let state = |value: u32| [queue, value].map(u32::to_ne_bytes).concat();
        let address = [u64::from(queue), USER + table, USER + 0x2000, USER + 0x1000, 0];
        let event = u64::from(queue).to_ne_bytes().to_vec();
        let words = |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|word| word.to_ne_bytes()).collect() };
        let said = [
            (SET_OWNER, Vec::new(), None),
            (SET_PROTOCOL_FEATURES, words(&[1 << 3 | 1 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 5]), None),
            (SET_FEATURES, words(&[features | 1 << 30 | 1 << 32]), None),
            (SET_FEATURES, words(&[1 << 30 | 1 << 32]), None),
            (SET_MEM_TABLE, words(&[1, 0, MEMORY, USER, 0]), Some(0)),
            (SET_VRING_NUM, state(size), None),
            (SET_VRING_ADDR, words(&address), None),
            (SET_VRING_BASE, state(base), None),
            (SET_VRING_CALL, event.clone(), Some(3)),
            (SET_VRING_KICK, event, Some(4)),
            (SET_VRING_ENABLE, state(1), None),
        ];
        said.iter().all(|(number, body, fd)| self.message(*number, true, body, fd.as_slice()))
    }

    fn memory_table(&mut self, count: u8, fds: u8, input: &mut Input<'_>) -> bool {
        let mut body = u64::from(count % 34).to_ne_bytes().to_vec();
        for _ in 0..count % 34 {
            let form = input.u8();
            let mut word = |usual: u64, bit: u8| if form & bit == 0 { usual } else { input.u64() };
            let region = [word(0, 1), word(MEMORY, 2), word(USER, 4), word(0, 8)];
            body.extend(region.into_iter().flat_map(u64::to_ne_bytes));
        }
        let fds = input.bytes(usize::from(fds % 36));
        self.message(SET_MEM_TABLE, true, &body, fds)
    }

    /// A message whose header fits, and what comes back.
    fn message(&mut self, number: u32, acknowledged: bool, body: &[u8], fds: &[u8]) -> bool {
        let flags = 1 | if acknowledged { NEED_REPLY } else { 0 };
        let size = u32::try_from(body.len()).unwrap_or(0);
        let bytes = [&[number, flags, size].map(u32::to_ne_bytes).concat()[..], body].concat();
        self.send(&bytes, fds) && self.serve() && self.judge(number, acknowledged)
    }

    /// What may be no message at all, or only a part of one. Behind it nothing is said.
    fn raw(&mut self, bytes: &[u8], fd: u8) -> bool {
        if self.send(bytes, &[fd]) && self.socket.shutdown(Shutdown::Write).is_ok() {
            while self.serve() {}
        }
        false
    }

    fn send(&self, bytes: &[u8], fds: &[u8]) -> bool {
        let fds: Vec<RawFd> = fds.iter().take(MOST_FDS).filter_map(|fd| self.pool.raw(*fd)).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
        let slices = [IoSlice::new(bytes)];
        sendmsg::<()>(self.socket.as_raw_fd(), &slices, rights, MsgFlags::MSG_NOSIGNAL, None).is_ok()
    }

    fn serve(&mut self) -> bool {
        matches!(self.conversation.serve_one(), Ok(true))
    }

    /// One answer at most, to what asked for one, whole, and with the number that it answers.
    fn judge(&self, number: u32, acknowledged: bool) -> bool {
        let mut answer = [0; 1024];
        let got = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT).unwrap_or(0);
        let answer = answer.get(..got).unwrap_or_default();
        if let Some((header, body)) = answer.split_at_checked(12) {
            let (words, _) = header.as_chunks::<4>();
            let words: Vec<u32> = words.iter().copied().map(u32::from_ne_bytes).collect();
            let size = u32::try_from(body.len()).unwrap_or(0);
            assert_eq!(words, [number, 5, size], "an answer that is none to request {number}");
            assert!(acknowledged || ANSWERED.contains(&number), "nobody asked for an answer to {number}");
        } else {
            assert!(answer.is_empty(), "an answer of {got} bytes");
            assert!(!ANSWERED.contains(&number), "no answer to request {number}");
        }
        true
    }
}
