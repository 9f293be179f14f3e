//! virtio-vsock between a guest and programs of the host: one that listens for the guest, and those that ask for its ports.
//! Each packet for the guest is one that it can place, and never more data than it said it has room for.

use super::Bench;
use crate::Input;
use device_backend::Device;
use device_vsock::Vsock;
use protocol::VsockOptions;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use tempfile::TempDir;

const CID: u32 = 3;
/// At which port of the host somebody listens.
const PORT: u32 = 1;
const HEADER: usize = 44;
const REQUEST: u16 = 1;
/// With either a connection begins, and counting: REQUEST and RESPONSE.
const BEGINS: [u16; 2] = [REQUEST, 2];
const RW: u16 = 5;
const MOST_STREAMS: usize = 16;

struct Hosts {
    bench: Bench<Vsock>,
    device_listener: UnixListener,
    listener: UnixListener,
    path: PathBuf,
    streams: Vec<UnixStream>,
    /// What each connection of the guest, by host's port and guest's, may still be sent: as the guest has said, the most.
    room: BTreeMap<(u32, u32), u64>,
    /// Bytes, since it began.
    sent: BTreeMap<(u32, u32), u64>,
    /// Each packet of the guest was counted.
    counts: bool,
    /// Of the host, at which it has asked for connections.
    ports: Vec<u32>,
    _folder: TempDir,
}

impl Hosts {
    fn begin() -> Option<Self> {
        let folder = tempfile::tempdir().ok()?;
        let path = folder.path().join("vm");
        // In the device's own root it would be but the file's name.
        let name = path.to_str()?.trim_start_matches('/').to_owned();
        let bind = |path: PathBuf| -> Option<UnixListener> {
            let listener = UnixListener::bind(path).ok()?;
            listener.set_nonblocking(true).ok()?;
            Some(listener)
        };
        let device_listener = bind(path.clone())?;
        let listener = bind(folder.path().join(format!("vm_{PORT}")))?;
        let vsock = Vsock::new(&VsockOptions { cid: CID, name }, device_listener.try_clone().ok()?.into());
        let bench = Bench::of(vsock.ok())?;
        let (streams, ports) = (Vec::new(), Vec::new());
        let (room, sent) = (BTreeMap::new(), BTreeMap::new());
        let (counts, _folder) = (true, folder);
        Some(Self { bench, device_listener, listener, path, streams, room, sent, counts, ports, _folder })
    }

    fn act(&mut self, input: &mut Input<'_>) {
        let form = input.u8();
        match form % 8 {
            0 | 1 => self.packet(input),
            2 | 3 => self.receive(usize::from(input.u8())),
            4 => {
                if let Ok(mut client) = UnixStream::connect(&self.path)
                    && client.set_nonblocking(true).is_ok()
                {
                    let said = format!("CONNECT {}\n", 1024 + u32::from(form >> 6));
                    let bytes = if form & 8 == 0 { said.as_bytes() } else { input.bytes((form >> 4).into()) };
                    let _ = client.write(bytes);
                    self.keep(client);
                }
            }
            5 => {
                let bytes = input.bytes(usize::from(input.clone().u8()));
                if let Some(stream) = self.streams.get_mut(usize::from(form >> 4)) {
                    let _ = stream.write(bytes);
                }
            }
            6 => {
                let place = usize::from(form >> 4);
                if form & 8 == 0 && place < self.streams.len() {
                    drop(self.streams.swap_remove(place));
                } else if let Some(stream) = self.streams.get_mut(place) {
                    let _ = stream.read(&mut [0; 4096]);
                }
            }
            _ => {
                // What the guest has said is not known from here on.
                self.counts = false;
                self.bench.feed_next(input);
            }
        }
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                self.keep(stream);
            }
        }
    }

    fn keep(&mut self, stream: UnixStream) {
        if self.streams.len() < MOST_STREAMS {
            self.streams.push(stream);
        }
    }

    /// One of the guest's: usually of a connection that there may be.
    fn packet(&mut self, input: &mut Input<'_>) {
        let (form, op) = (input.u8(), u16::from(input.u8()));
        let cid = if form & 1 == 0 { u64::from(CID) } else { input.u64() };
        let to = if form & 2 == 0 { 2 } else { input.u64() };
        let guest = 1024 + u32::from(form >> 6);
        let known = self.ports.get(usize::from(form >> 2) % 4).copied();
        let host = if form & 4 == 0 { known.unwrap_or(PORT) } else { u32::from(form >> 5) };
        let payload = input.bytes(usize::from(input.clone().u8()));
        let mut length = u32::try_from(payload.len()).unwrap_or(0);
        if form & 16 != 0 {
            length = input.u32();
        }
        let kind = if form & 32 == 0 { 1 } else { input.u16() };
        let (flags, allocated, forwarded) = (input.u8(), u32::from(input.u16()), u32::from(input.u8()));
        let ids = [cid, to].map(u64::to_le_bytes).concat();
        let ports = [guest, host, length].map(u32::to_le_bytes).concat();
        let what = [kind, op].map(u16::to_le_bytes).concat();
        let room = [flags.into(), allocated, forwarded].map(u32::to_le_bytes).concat();
        let _ = self.bench.exchange(1, &[&ids, &ports, &what, &room, payload].concat(), 0);
        let room = self.room.entry((host, guest)).or_default();
        *room = (*room).max(u64::from(allocated) + u64::from(forwarded));
        if BEGINS.contains(&op) {
            self.sent.remove(&(host, guest));
        }
    }

    fn receive(&mut self, more: usize) {
        let Some(packet) = self.bench.exchange(0, &[], HEADER + more * 16) else { return };
        assert!(packet.len() >= HEADER, "a packet of {} bytes", packet.len());
        let Some((header, data)) = packet.split_at_checked(HEADER) else { return };
        let word = |at: usize| {
            let bytes = header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes)
        };
        let (src, dst, host, guest, length) = (word(0), word(8), word(16), word(20), word(24));
        let op = u16::try_from(word(28) >> 16).unwrap_or(0);
        assert_eq!(dst, CID, "for somebody else");
        assert_eq!(usize::try_from(length), Ok(data.len()), "op {op}");
        if op == REQUEST && self.ports.len() < 4 {
            self.ports.push(host);
        }
        if BEGINS.contains(&op) {
            self.sent.remove(&(host, guest));
        }
        if op == RW {
            assert_eq!(src, 2, "data of somebody else");
            let sent = self.sent.entry((host, guest)).or_default();
            *sent += u64::from(length);
            let room = self.room.get(&(host, guest)).copied().unwrap_or(0);
            assert!(!self.counts || *sent <= room, "{sent} bytes sent into {room}");
        }
    }

    /// Nobody is connected, or waits to be.
    fn renew(&mut self) {
        self.streams.clear();
        self.ports.clear();
        self.room.clear();
        self.sent.clear();
        self.counts = true;
        while self.device_listener.accept().is_ok() {}
        self.bench.device.reset();
    }
}

/// Packets both ways, and what programs of the host do meanwhile.
pub fn vsock(data: &[u8]) {
    static HOSTS: Mutex<Option<Hosts>> = Mutex::new(None);
    let mut slot = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
    if slot.is_none() {
        *slot = Hosts::begin();
    }
    let Some(hosts) = slot.as_mut() else { return };
    let mut input = Input::new(data);
    while !input.is_empty() {
        hosts.act(&mut input);
    }
    hosts.renew();
}
