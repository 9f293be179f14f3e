//! virtio-net between a guest and its network: two pairs of queues, each on a socket of packets in place of a tap. Every
//! frame of the guest that comes out is what a device may pass on.

use super::Bench;
use crate::Input;
use device_backend::Device;
use device_net::{Host, Net, Tap};
use protocol::{MacAddress, NetOptions, Setting};
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;

pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
/// Bytes of the header in front of a frame, and of the frame's own.
const FRONT: usize = 12 + 14;

struct Network {
    bench: Bench<Net>,
    /// The other ends of the taps, by pair.
    hosts: [UnixDatagram; 2],
}

impl Network {
    fn begin() -> Option<Self> {
        let pair = || -> Option<(UnixDatagram, UnixDatagram)> {
            let (ours, theirs) = UnixDatagram::pair().ok()?;
            ours.set_nonblocking(true).ok()?;
            theirs.set_nonblocking(true).ok()?;
            Some((ours, theirs))
        };
        let ((first, tap), (second, other)) = (pair()?, pair()?);
        let mac = MacAddress::new(MAC).ok()?;
        let options = NetOptions {
            mac,
            any_source: false,
            mtu: Some(1500),
            segments_udp: true,
            pairs: 2,
            stream: false,
        };
        let mut net = Net::new(Host::tap(Tap::stand_in(tap.into())), options);
        net.add([Tap::stand_in(other.into())]);
        Some(Self { bench: Bench::of(Some(net))?, hosts: [first, second] })
    }

    fn act(&self, input: &mut Input<'_>) {
        let form = input.u8();
        match form % 8 {
            0 => {
                let length = input.u16() % 2048;
                let frame = input.bytes(length.into());
                // A network that is full loses frames.
                let _ = self.hosts.get(usize::from(form >> 7)).map(|host| host.send(frame));
            }
            1 => {
                let outcome = self.bench.device.set(Setting::Link(form & 8 != 0));
                assert!(outcome.is_ok(), "{outcome:?}");
            }
            2 => self.bench.device.ring_enabled((form >> 4).into(), form & 8 != 0, input.u64()),
            3 => {
                self.bench.device.reset();
            }
            _ => self.bench.feed_next(input),
        }
        self.hosts.iter().for_each(judge);
    }

    /// As a device begins.
    fn renew(&self) {
        let _ = self.bench.device.set(Setting::Link(true));
        self.bench.device.reset();
    }
}

/// What the guest sent: a frame of its own, whose header asks for nothing that is not in it.
fn judge(host: &UnixDatagram) {
    let mut frame = [0; 1 << 17];
    while let Ok(length) = host.recv(&mut frame) {
        let frame = frame.get(..length).unwrap_or_default();
        assert!(length >= FRONT, "{length} bytes are no frame");
        let Some((header, ethernet)) = frame.split_at_checked(12) else { return };
        assert_eq!(ethernet.get(6..12), Some(&MAC[..]), "from somebody else");
        let &[
            flags,
            kind,
            hdr_len,
            hdr_len_high,
            size,
            size_high,
            start,
            start_high,
            offset,
            offset_high,
            _,
            _,
        ] = header
        else {
            return;
        };
        let word = |low, high| usize::from(u16::from_le_bytes([low, high]));
        let (start, offset) = (word(start, start_high), word(offset, offset_high));
        assert!(flags & !1 == 0, "flags {flags:#x}");
        assert!(flags == 0 || start >= 14 && start + offset + 2 <= ethernet.len(), "{header:?}");
        assert!(kind == 0 || flags == 1 && word(size, size_high) > 0, "{header:?}");
        assert!(word(hdr_len, hdr_len_high) <= ethernet.len(), "{header:?}");
    }
}

/// Frames both ways, commands, and what becomes of the link.
pub fn net(data: &[u8]) {
    static NETWORK: OnceLock<Option<Network>> = OnceLock::new();
    let Some(network) = NETWORK.get_or_init(Network::begin) else { return };
    let mut input = Input::new(data);
    while !input.is_empty() {
        network.act(&mut input);
    }
    network.renew();
}
