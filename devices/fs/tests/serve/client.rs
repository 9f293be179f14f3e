//! A FUSE client by hand: what a guest's kernel says, and what it would not.

use crate::front_end::driver::{BUFFERS, Driver, Queue, WRITE};

/// Where requests and answers lie in guest memory.
const REQUEST: u64 = BUFFERS;
pub const ANSWER: u64 = BUFFERS + 0x20_0000;
const ROOM: u32 = 0x10_0000;

/// Answers: what is behind the header, or the number of an error.
pub type Answer = Result<Vec<u8>, i32>;

/// A mount.
pub struct Client<'d> {
    pub driver: Driver<'d>,
    pub queue: Queue,
    unique: u64,
}

/// What LOOKUP and the like answer, in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub node: u64,
    pub size: u64,
    pub mode: u32,
    pub owner: (u32, u32),
}

pub fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Fields of eight bytes, and then text.
pub fn body(fields: &[u64], text: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
    bytes.extend(text);
    bytes
}

/// Two fields of four bytes as one of eight.
pub fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn attributes(bytes: &[u8], at: usize, node: u64) -> Entry {
    let owner = (word(bytes, at + 68), word(bytes, at + 72));
    Entry { node, size: long(bytes, at + 8), mode: word(bytes, at + 60), owner }
}

impl<'d> Client<'d> {
    /// On a started device, whose driver has said INIT if `mounts`.
    pub fn new(driver: Driver<'d>, mounts: bool) -> Self {
        let queue = driver.queue(1, 64, 0);
        let mut client = Self { driver, queue, unique: 0 };
        if mounts {
            let answer = client.ask(26, 0, &body(&[pair(7, 38), pair(1 << 20, u32::MAX)], b"")).unwrap();
            assert_eq!((answer.len(), word(&answer, 0), word(&answer, 4)), (64, 7, 31));
        }
        client
    }

    /// One request.
    pub fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> Answer {
        self.unique += 2;
        let length = u32::try_from(40 + body.len()).unwrap();
        let mut request: Vec<u8> = [length, opcode].iter().flat_map(|word| word.to_le_bytes()).collect();
        request
            .extend([self.unique, node, pair(1000, 1000), 4711].iter().flat_map(|field| field.to_le_bytes()));
        request.extend(body);
        let (used, answer) = self.raw(&request);
        assert!(used >= 16, "no answer to {opcode}");
        assert_eq!((word(&answer, 0), long(&answer, 8)), (used, self.unique), "of request {opcode}");
        match word(&answer, 4).cast_signed() {
            0 => Ok(answer[16..].to_vec()),
            error => Err(-error),
        }
    }

    /// A request without an answer.
    pub fn tell(&mut self, opcode: u32, node: u64, body: &[u8]) {
        let mut request = vec![0; 40];
        request[4..8].copy_from_slice(&opcode.to_le_bytes());
        request[16..24].copy_from_slice(&node.to_le_bytes());
        request.extend(body);
        self.driver.put(REQUEST, &request);
        let length = u32::try_from(request.len()).unwrap();
        self.driver.chain(self.queue.table(), 0, &[(REQUEST, length, 0)]);
        self.driver.offer(&mut self.queue, &[0]);
        assert_eq!(self.driver.used(&mut self.queue), (0, 0));
    }

    /// These bytes as a request, and the bytes that were used for the answer.
    pub fn raw(&mut self, request: &[u8]) -> (u32, Vec<u8>) {
        self.driver.put(REQUEST, request);
        let length = u32::try_from(request.len()).unwrap();
        // Header and body apart, as a driver lays them out.
        let (first, rest) = (length.min(40), length.saturating_sub(40));
        let parts = [(REQUEST, first, 0), (REQUEST + 40, rest, 0), (ANSWER, ROOM, WRITE)];
        let parts: Vec<_> = parts.into_iter().filter(|(_, size, _)| *size > 0).collect();
        self.driver.chain(self.queue.table(), 0, &parts);
        self.driver.offer(&mut self.queue, &[0]);
        let (_, used) = self.driver.used(&mut self.queue);
        (used, self.driver.look(ANSWER, used as usize))
    }

    /// A request of which these parts are behind its header and those in its answer, wherever they lie. The error of the
    /// answer.
    pub fn ask_of(&mut self, opcode: u32, node: u64, behind: &[(u64, u32, u16)]) -> i32 {
        self.unique += 2;
        let mut request: Vec<u8> = [0, opcode].iter().flat_map(|word| word.to_le_bytes()).collect();
        request
            .extend([self.unique, node, pair(1000, 1000), 4711].iter().flat_map(|field| field.to_le_bytes()));
        self.driver.put(REQUEST, &request);
        self.driver.chain(self.queue.table(), 0, &[&[(REQUEST, 40, 0)], behind].concat());
        self.driver.offer(&mut self.queue, &[0]);
        assert_eq!(self.driver.used(&mut self.queue), (0, 16));
        let answer = self.driver.look(ANSWER, 16);
        assert_eq!((word(&answer, 0), long(&answer, 8)), (16, self.unique));
        word(&answer, 4).cast_signed()
    }

    fn entry(&mut self, opcode: u32, node: u64, body: &[u8]) -> Result<Entry, i32> {
        self.ask(opcode, node, body).map(|bytes| attributes(&bytes, 40, long(&bytes, 0)))
    }

    pub fn lookup(&mut self, node: u64, name: &str) -> Result<Entry, i32> {
        self.entry(1, node, &body(&[], format!("{name}\0").as_bytes()))
    }

    pub fn attributes(&mut self, node: u64) -> Result<Entry, i32> {
        self.ask(3, node, &[0; 16]).map(|bytes| attributes(&bytes, 16, node))
    }

    pub fn mkdir(&mut self, node: u64, name: &str, mode: u32) -> Result<Entry, i32> {
        self.entry(9, node, &body(&[pair(mode, 0)], format!("{name}\0").as_bytes()))
    }

    pub fn symlink(&mut self, node: u64, name: &str, target: &str) -> Result<Entry, i32> {
        self.entry(6, node, format!("{name}\0{target}\0").as_bytes())
    }

    /// The entry and the open file.
    pub fn create(&mut self, node: u64, name: &str, flags: i32, mode: u32) -> Result<(Entry, u64), i32> {
        let fields = [pair(flags.cast_unsigned(), mode), 0];
        let answer = self.ask(35, node, &body(&fields, format!("{name}\0").as_bytes()))?;
        Ok((attributes(&answer, 40, long(&answer, 0)), long(&answer, 128)))
    }

    pub fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        self.ask(14, node, &body(&[pair(flags.cast_unsigned(), 0)], b"")).map(|answer| long(&answer, 0))
    }

    pub fn read(&mut self, node: u64, handle: u64, offset: u64, size: u32) -> Answer {
        self.ask(15, node, &body(&[handle, offset, pair(size, 0), 0, 0], b""))
    }

    pub fn write(&mut self, node: u64, handle: u64, offset: u64, data: &[u8]) -> Result<u32, i32> {
        let size = u32::try_from(data.len()).unwrap();
        let answer = self.ask(16, node, &body(&[handle, offset, pair(size, 0), 0, 0], data));
        answer.map(|bytes| word(&bytes, 0))
    }

    pub fn release(&mut self, node: u64, handle: u64) {
        assert_eq!(self.ask(18, node, &body(&[handle, 0, 0], b"")), Ok(Vec::new()));
    }

    pub fn unlink(&mut self, node: u64, name: &str) -> Answer {
        self.ask(10, node, format!("{name}\0").as_bytes())
    }

    pub fn rmdir(&mut self, node: u64, name: &str) -> Answer {
        self.ask(11, node, format!("{name}\0").as_bytes())
    }

    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str), flags: u32) -> Answer {
        let text = format!("{}\0{}\0", from.1, to.1);
        self.ask(45, from.0, &body(&[to.0, pair(flags, 0)], text.as_bytes()))
    }

    pub fn link(&mut self, of: u64, node: u64, name: &str) -> Result<Entry, i32> {
        self.entry(13, node, &body(&[of], format!("{name}\0").as_bytes()))
    }

    /// `valid` bits, with size, seconds of the modification, mode and owner.
    pub fn set(&mut self, node: u64, valid: u32, handle: u64, size: u64, mode: u32) -> Result<Entry, i32> {
        let fields = [pair(valid, 0), handle, size, 0, 0, 86_400, 0, 0, pair(0, mode), 0, 0];
        self.ask(4, node, &body(&fields, b"")).map(|bytes| attributes(&bytes, 16, node))
    }

    /// Names in a directory, sorted, read in pieces of so many bytes.
    pub fn list(&mut self, node: u64, piece: u32) -> Result<Vec<String>, i32> {
        let handle = self.ask(27, node, &[0; 8]).map(|answer| long(&answer, 0))?;
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let bytes = self.ask(28, node, &body(&[handle, offset, pair(piece, 0), 0, 0], b""))?;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                offset = long(rest, 8);
                let length = word(rest, 16) as usize;
                names.push(String::from_utf8(rest[24..24 + length].to_vec()).unwrap());
                rest = &rest[(24 + length).next_multiple_of(8)..];
            }
            if bytes.is_empty() {
                break;
            }
        }
        assert_eq!(self.ask(29, node, &body(&[handle, 0, 0], b"")), Ok(Vec::new()));
        names.sort();
        Ok(names)
    }
}
