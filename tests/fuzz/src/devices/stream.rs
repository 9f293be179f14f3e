//! virtio-net between a guest and a stream: frames with their lengths, and whatever else a peer says. What comes out is frames
//! of the guest's, each whole, wherever the stream ends.

use super::Bench;
use super::net::MAC;
use crate::Input;
use device_backend::Device;
use device_net::{Host, Net, Stream};
use protocol::{MacAddress, NetOptions, Setting};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

/// Bytes of a length, and of what is in front of a frame's own source.
const LENGTH: usize = 4;
const DESTINATION: usize = 6;

/// The peer, and what came of the device's that is not judged yet.
struct Peer {
    socket: UnixStream,
    come: Vec<u8>,
}

impl Peer {
    /// Takes what has come, and looks at each whole frame.
    fn judge(&mut self) {
        let mut bytes = [0; 1 << 16];
        while let Ok(count @ 1..) = self.socket.read(&mut bytes) {
            self.come.extend_from_slice(bytes.get(..count).unwrap_or_default());
        }
        while let Some((length, rest)) = self.come.split_first_chunk::<LENGTH>() {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            assert!((14..=1 << 16).contains(&length), "a frame of {length} bytes");
            // One call has sent it: there is all of it or nothing.
            assert!(rest.len() >= length, "{} bytes of a frame of {length}", rest.len());
            assert_eq!(rest.get(DESTINATION..DESTINATION + MAC.len()), Some(&MAC[..]), "from somebody else");
            self.come.drain(..LENGTH + length);
        }
        assert!(self.come.is_empty(), "{} bytes behind the last frame", self.come.len());
    }

    fn act(&mut self, bench: &Bench<Net>, input: &mut Input<'_>) {
        let form = input.u8();
        match form % 8 {
            // A stream that is full loses what does not fit, as any peer's would.
            0 => {
                let bytes = input.u16() % 2048;
                let frame = input.bytes(bytes.into());
                let length = u32::try_from(frame.len()).unwrap_or(0).to_be_bytes();
                let _ = self.socket.write(&[&length[..], frame].concat());
            }
            1 => {
                let bytes = input.u8();
                let _ = self.socket.write(input.bytes(bytes.into()));
            }
            2 => {
                let how = [Shutdown::Read, Shutdown::Write, Shutdown::Both];
                if form & 0x18 == 0 {
                    let _ = self
                        .socket
                        .shutdown(how.get(usize::from(form >> 6)).copied().unwrap_or(Shutdown::Both));
                }
            }
            3 => bench.device().ring_enabled((form >> 4).into(), form & 8 != 0, input.u64()),
            4 => {
                let outcome = bench.device().set(Setting::Link(form & 8 != 0));
                assert!(outcome.is_ok(), "{outcome:?}");
            }
            _ => bench.feed_next(input),
        }
        self.judge();
    }
}

fn begin() -> Option<(Bench<Net>, Peer)> {
    let (theirs, ours) = UnixStream::pair().ok()?;
    theirs.set_nonblocking(true).ok()?;
    let mac = MacAddress::new(MAC).ok()?;
    let options =
        NetOptions { mac, any_source: false, mtu: Some(1500), segments_udp: false, pairs: 1, stream: true };
    let net = Net::new(Host::Stream(Stream::new(ours.into()).ok()?), options);
    Some((Bench::of(Some(net))?, Peer { socket: theirs, come: Vec::new() }))
}

/// A stream for each input: what ends it would end it for all that follow.
pub fn net_stream(data: &[u8]) {
    let Some((bench, mut peer)) = begin() else { return };
    let mut input = Input::new(data);
    while !input.is_empty() {
        peer.act(&bench, &mut input);
    }
}
