//! virtio-fs on a directory that is made anew for each input, beside which lies what the guest must neither change nor read.
//!
//! The process has its own root here, which the device program has not: what keeps the guest in the directory is the
//! program's own care alone. The input names nodes and open files by their place among those that the device has told of.

use super::Bench;
use super::exchange::MOST;
use crate::Input;
use device_backend::Device;
use device_fs::Fs;
use protocol::FsOptions;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use tempfile::TempDir;

const ROOT: u64 = 1;
const HEADER: usize = 40;
const ANSWER: usize = 16;
const SECRET: &[u8] = b"what no guest may read";
const NAMES: [&str; 8] = ["file", "folder", "link", "up", "new", "other", "..", "folder/.."];
const FALLOCATE: u32 = 43;
/// How a request goes on behind its header, by its number.
const WITH_ENTRY: [u32; 5] = [1, 6, 8, 9, 35];
const WITH_HANDLE: [u32; 3] = [14, 27, 35];

struct Share {
    bench: Bench<Fs>,
    folder: TempDir,
    nodes: Vec<u64>,
    handles: Vec<u64>,
}

impl Share {
    fn begin() -> Option<Self> {
        let folder = tempfile::tempdir().ok()?;
        fs::create_dir(folder.path().join("share")).ok()?;
        fs::write(folder.path().join("secret"), SECRET).ok()?;
        let directory = File::open(folder.path().join("share")).ok()?;
        let options = FsOptions { tag: "fuzz".to_owned(), readonly: false, queues: 1 };
        let bench = Bench::of(Fs::at(directory, options).ok())?;
        Some(Self { bench, folder, nodes: Vec::new(), handles: Vec::new() })
    }

    fn share(&self) -> PathBuf {
        self.folder.path().join("share")
    }

    fn renew(&mut self) -> Option<()> {
        self.bench.device.reset();
        self.nodes = vec![ROOT];
        self.handles.clear();
        for entry in fs::read_dir(self.share()).ok()? {
            let entry = entry.ok()?;
            if entry.file_type().ok()?.is_dir() {
                let _ =
                    fs::set_permissions(entry.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700));
                fs::remove_dir_all(entry.path()).ok()?;
            } else {
                fs::remove_file(entry.path()).ok()?;
            }
        }
        fs::write(self.share().join("file"), b"contents").ok()?;
        fs::create_dir(self.share().join("folder")).ok()?;
        symlink("../secret", self.share().join("link")).ok()?;
        symlink("..", self.share().join("up")).ok()
    }

    fn act(&mut self, input: &mut Input<'_>) {
        let (opcode, form) = (u32::from(input.u8()) % 50, input.u8());
        let node = self.node(form);
        let body = match form >> 6 {
            0 | 1 => self.body(opcode, input),
            2 => self.by_handle(input),
            _ if opcode == FALLOCATE => return,
            _ => input.bytes(usize::from(input.clone().u8())).to_vec(),
        };
        let length = u32::try_from(HEADER + body.len()).unwrap_or(0);
        let mut request = [length, opcode].map(u32::to_le_bytes).concat();
        request.extend([7, node].into_iter().flat_map(u64::to_le_bytes));
        request.resize(HEADER, 0);
        request.extend(body);
        request.truncate(MOST);
        let room = if form & 32 == 0 { 4096 } else { input.u16().into() };
        if let Some(answer) = self.bench.exchange(1, &request, room) {
            self.hear(opcode, &answer);
        }
    }

    fn node(&self, choice: u8) -> u64 {
        let count = self.nodes.len().max(1);
        self.nodes.get(usize::from(choice & 15) % count).copied().unwrap_or(ROOT)
    }

    fn handle(&self, choice: u8) -> u64 {
        let count = self.handles.len().max(1);
        self.handles.get(usize::from(choice) % count).copied().unwrap_or(0)
    }

    /// As the operation has it.
    fn body(&self, opcode: u32, input: &mut Input<'_>) -> Vec<u8> {
        let mut name = || {
            let form = input.u8();
            let fixed = NAMES.get(usize::from(form)).map(|name| name.as_bytes().to_vec());
            let mut name = fixed.unwrap_or_else(|| input.bytes((form & 63).into()).to_vec());
            name.push(0);
            name
        };
        let names = [name(), name()];
        let [first, second] = &names;
        let words = |count: usize, input: &mut Input<'_>| -> Vec<u8> {
            (0..count).flat_map(|_| u32::from(input.u16()).to_le_bytes()).collect()
        };
        let other = self.node(input.u8()).to_le_bytes();
        match opcode {
            1 | 10 | 11 => first.clone(),
            6 => [&first[..], second].concat(),
            8 | 35 => [&words(4, input)[..], first].concat(),
            9 => [&words(2, input)[..], first].concat(),
            12 => [&other[..], first, second].concat(),
            13 => [&other[..], first].concat(),
            45 => [&other[..], &words(2, input), first, second].concat(),
            2 => u64::from(input.u8()).to_le_bytes().to_vec(),
            4 => {
                let handle = self.handle(input.u8()).to_le_bytes();
                let (valid, rest) = (words(1, input), words(20, input));
                let mut body = [&valid[..], &[0; 4], &handle, &rest].concat();
                body.resize(88, 0);
                body
            }
            _ => words(16, input),
        }
    }

    /// An open file, an offset, a size, and bytes.
    fn by_handle(&self, input: &mut Input<'_>) -> Vec<u8> {
        let handle = self.handle(input.u8()).to_le_bytes();
        let (offset, size) = (u64::from(input.u16()).to_le_bytes(), u32::from(input.u16()).to_le_bytes());
        let data = input.bytes(usize::from(input.clone().u8()));
        [&handle[..], &offset, &size, &[0; 20], data].concat()
    }

    /// The answer has the length that it says, and what it tells of is known from now on.
    fn hear(&mut self, opcode: u32, answer: &[u8]) {
        let unanswered = answer.is_empty();
        let Some((header, body)) = answer.split_at_checked(ANSWER) else {
            assert!(unanswered, "an answer of {} bytes", answer.len());
            return;
        };
        let length = header.first_chunk().copied().map_or(0, u32::from_le_bytes);
        assert_eq!(usize::try_from(length), Ok(answer.len()), "operation {opcode}");
        assert!(
            body.windows(SECRET.len()).all(|bytes| bytes != SECRET),
            "operation {opcode} reads what is outside"
        );
        let number = |at: usize| {
            let bytes = body.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u64::from_le_bytes)
        };
        if WITH_ENTRY.contains(&opcode) {
            self.nodes.extend(number(0));
        }
        if WITH_HANDLE.contains(&opcode) {
            self.handles.extend(number(if opcode == 35 { 128 } else { 0 }));
        }
    }

    fn look(&self) -> Option<(Vec<u8>, u32, i64, i64, u64, usize)> {
        let secret = self.folder.path().join("secret");
        let data = fs::metadata(&secret).ok()?;
        let beside = fs::read_dir(self.folder.path()).ok()?.count();
        Some((fs::read(secret).ok()?, data.mode(), data.ctime(), data.ctime_nsec(), data.nlink(), beside))
    }
}

/// Requests, one after the other, by a driver that goes on from the answers.
pub fn fs(data: &[u8]) {
    static SHARE: Mutex<Option<Share>> = Mutex::new(None);
    let mut slot = SHARE.lock().unwrap_or_else(PoisonError::into_inner);
    if slot.is_none() {
        *slot = Share::begin();
    }
    let Some(share) = slot.as_mut() else { return };
    let renewed = share.renew();
    assert!(renewed.is_some(), "the directory cannot be made anew");
    let before = share.look();
    let mut input = Input::new(data);
    while !input.is_empty() {
        share.act(&mut input);
    }
    assert_eq!(share.look(), before, "something outside of the directory is another");
}
