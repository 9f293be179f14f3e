//! The core's vhost-user front end, in a conversation with a back end that was taken over.
//!
//! The input says of each answer what is in it, and whether it is well formed, has a byte that is another, is longer than
//! its header says, or is something else. After what the front end may wait behind, the back end hangs up, so that no
//! time passes. The rest of the input is said on the back-end channel.

use crate::Input;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use vmm_core::frontend::backend_channel::BackendChannel;
use vmm_core::frontend::connection::Connection;
use vmm_core::frontend::session::{self, Wanted};
use vmm_core::virtio_pci::DeviceType;

/// Of a request that has an answer of its own (vhost-user, "Front-end message types").
const GET_FEATURES: u32 = 1;
const GET_PROTOCOL_FEATURES: u32 = 15;
const GET_QUEUE_NUM: u32 = 17;
const GET_CONFIG: u32 = 24;
const NEED_REPLY: u32 = 8;
const REPLY: u32 = 5;

/// Nobody waits for so long: a peer that says no more has hung up.
const LIMIT: Duration = Duration::from_secs(30);

/// One handshake, and what is said on the back-end channel.
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
        scope.spawn(move || back_end(theirs, Input::new(conversation)));
        session::handshake(&mut Connection::new(ours.into()), &wanted)
    });
    if let Ok(agreement) = agreement {
        assert!((1..=64).contains(&agreement.queues), "{agreement:?}");
        assert!(queues == 0 || agreement.queues == queues, "{agreement:?}");
        assert_eq!(agreement.config.len(), usize::from(kind.config_size), "{agreement:?}");
    }
    say(&mut channel, input.rest());
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
