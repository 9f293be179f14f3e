//! The core's vhost-user front end, in a conversation with a back end that was taken over.
//!
//! The input says of each answer what is in it, and whether it is well formed, has a byte that is another, is longer than
//! its header says, or is something else. After what the front end may wait behind, the back end hangs up, so that no
//! time passes. The rest of the input is said on the back-end channel.

use crate::Input;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use vmm_core::frontend::backend_channel::BackendChannel;
use vmm_core::frontend::connection::{Connection, Deadline};
use vmm_core::frontend::session::{self, Agreement, From, QueueEvents, Shares, Wanted};
use vmm_core::frontend::{Fault, InflightRegion, MemoryTable};
use vmm_core::interrupts::SharedEventFd;
use vmm_core::virtio_pci::{Activation, DeviceType, Ring};

/// Of a request that has an answer of its own (vhost-user, "Front-end message types").
const GET_FEATURES: u32 = 1;
const GET_PROTOCOL_FEATURES: u32 = 15;
const GET_VRING_BASE: u32 = 11;
const GET_QUEUE_NUM: u32 = 17;
const GET_CONFIG: u32 = 24;
const NEED_REPLY: u32 = 8;
const REPLY: u32 = 5;

/// Most of those that are started.
const QUEUES: u16 = 4;

/// Nobody waits for so long: a peer that says no more has hung up.
const LIMIT: Duration = Duration::from_secs(30);

/// One handshake, what follows it, and what is said on the back-end channel.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(kind) = DeviceType::new(u16::from(input.u8())) else { return };
    let queues = u16::from(input.u8() % 4);
    let length = input.u16();
    let conversation = input.bytes(length.into());
    let Ok((ours, theirs)) = UnixStream::pair() else { return };
    let Ok(mut channel) = BackendChannel::new() else { return };
    let wanted = Wanted { kind, queues, limit: LIMIT, channel: channel.descriptor() };
    let agreement = std::thread::scope(|scope| {
        let peer = scope.spawn(move || back_end(theirs, Input::new(conversation)));
        let mut connection = Connection::new(ours.into());
        let agreement = session::handshake(&mut connection, &wanted);
        if let Ok(agreement) = &agreement {
            // A fault ends it, as it does with the core.
            let _ = live(&connection, &wanted, agreement);
        }
        drop(connection);
        // The scope waits for its work and not for its end, and what a thread that ends still has is a leak to whoever looks
        // for leaks at that moment.
        if let Err(panic) = peer.join() {
            std::panic::resume_unwind(panic);
        }
        agreement
    });
    if let Ok(agreement) = agreement {
        assert!((1..=64).contains(&agreement.queues), "{agreement:?}");
        assert!(queues == 0 || agreement.queues == queues, "{agreement:?}");
        assert_eq!(agreement.config.len(), usize::from(kind.config_size), "{agreement:?}");
    }
    say(&mut channel, input.rest());
}

/// What a device's life has behind the handshake: the driver starts it, changes its configuration, and resets it.
fn live(connection: &Connection, wanted: &Wanted, agreement: &Agreement) -> Result<(), Fault> {
    static SHARES: OnceLock<Option<Shares>> = OnceLock::new();
    let Some(shares) = SHARES.get_or_init(shares) else { return Ok(()) };
    let rings = (0..agreement.queues.min(QUEUES)).map(|index| {
        let start = 0x1000 + u64::from(index) * 0x1000;
        Ring { index, size: 16, descriptors: start, available: start + 0x400, used: start + 0x800 }
    });
    let activation = Activation { features: agreement.features, rings: rings.collect() };
    session::prepare(connection, &activation, shares, LIMIT)?;
    session::start(connection, &activation, shares, From::Predecessor, LIMIT)?;
    if wanted.kind.config_size > 0 {
        session::write_config(connection, 0, &[1], Deadline::after(LIMIT))?;
        let config =
            session::read_config(connection, &wanted.kind, agreement.queues, Deadline::after(LIMIT))?;
        assert_eq!(config.len(), usize::from(wanted.kind.config_size));
    }
    let bases = session::stop(connection, &activation.rings, LIMIT)?;
    assert_eq!(bases.len(), activation.rings.len());
    session::reset(connection, agreement, LIMIT).map(drop)
}

fn shares() -> Option<Shares> {
    let memory = Arc::new(MemoryTable::of(&crate::memory::of_core(2 << 20)?).ok()?);
    let events = |count: u16| (0..count).map(|_| SharedEventFd::new().ok()).collect::<Option<Arc<[_]>>>();
    let events = QueueEvents { kicks: events(QUEUES)?, calls: events(QUEUES + 1)? };
    Some(Shares { memory, events, inflight: Some(InflightRegion::new(QUEUES, 16).ok()?) })
}

/// What of the answers is the input's: nothing, some bytes or all.
fn back_end(mut socket: UnixStream, mut input: Input<'_>) {
    let mut header = [0; 12];
    while socket.read_exact(&mut header).is_ok() {
        let [id, flags, size] = words(header);
        let mut body = vec![0; usize::try_from(size).unwrap_or(0).min(1 << 16)];
        if socket.read_exact(&mut body).is_err() {
            return;
        }
        let body = match id {
            GET_FEATURES => (input.u64() | 1 << 32 | 1 << 30).to_ne_bytes().to_vec(),
            GET_PROTOCOL_FEATURES => (input.u64() | 1 << 9).to_ne_bytes().to_vec(),
            GET_QUEUE_NUM => u64::from(input.u16()).to_ne_bytes().to_vec(),
            GET_VRING_BASE => [input.u32() % 4, input.u32()].map(u32::to_ne_bytes).concat(),
            GET_CONFIG => {
                let config = input.bytes(usize::from(input.clone().u8()));
                for (to, from) in body.iter_mut().skip(12).zip(config) {
                    *to = *from;
                }
                body
            }
            _ if flags & NEED_REPLY != 0 => vec![0; 8],
            _ => continue,
        };
        let mut answer =
            [[id, REPLY, u32::try_from(body.len()).unwrap_or(0)].map(u32::to_ne_bytes).concat(), body]
                .concat();
        let form = input.u8() % 8;
        match form {
            // Some byte is another.
            1 => {
                let (at, value) = (usize::from(input.u8()), input.u8());
                answer.get_mut(at).into_iter().for_each(|byte| *byte = value);
            }
            2 => answer.truncate(usize::from(input.u8())),
            3 => answer.extend_from_slice(input.bytes(usize::from(input.clone().u8()))),
            4 => {
                answer = input.bytes(usize::from(input.clone().u8())).to_vec();
            }
            _ => {}
        }
        // Of a short answer the front end would wait for the end.
        if socket.write_all(&answer).is_err() || matches!(form, 2 | 4) || input.is_empty() {
            return;
        }
    }
}

fn words(bytes: [u8; 12]) -> [u32; 3] {
    let (words, _) = bytes.as_chunks::<4>();
    words.first_chunk().copied().unwrap_or_default().map(u32::from_ne_bytes)
}

/// Says `bytes` on the back-end channel: it is looked at until there is nothing more, or they are a fault.
fn say(channel: &mut BackendChannel, bytes: &[u8]) {
    let Ok(theirs) = channel.back_end().try_clone_to_owned() else { return };
    let mut rest = bytes;
    while !rest.is_empty() {
        match nix::unistd::write(&theirs, rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(_) => break,
        }
    }
    for _ in 0..=bytes.len() {
        match channel.look(Instant::now(), true) {
            Ok(true) => {}
            Ok(false) | Err(_) => break,
        }
    }
    channel.renew();
}
