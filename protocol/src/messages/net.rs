//! What a network device is told, and the one type of it that others need: a MAC address that a device can have.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};

use super::within;
use crate::{Error, limits};

/// An Ethernet address of one station: neither a group's nor zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacAddress([u8; 6]);

/// Not the address of one station.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is not six pairs of hexadecimal digits with colons between them, the first one even, not all zero"
)]
pub struct NoMacAddress;

impl MacAddress {
    /// From its bytes in the order in which they are sent.
    ///
    /// # Errors
    /// A group's address, which has the lowest bit of the first byte, or zero.
    pub fn new(bytes: [u8; 6]) -> Result<Self, NoMacAddress> {
        let [first, ..] = bytes;
        if first & 1 == 1 || bytes == [0; 6] { Err(NoMacAddress) } else { Ok(Self(bytes)) }
    }

    /// One that nobody assigned, of these bytes but for the two bits that say so: it is locally administered (the second
    /// lowest of the first byte), and no group's (the lowest).
    #[must_use]
    pub fn local([first, rest @ ..]: [u8; 6]) -> Self {
        let [b, c, d, e, f] = rest;
        Self([first & 0xFC | 2, b, c, d, e, f])
    }

    /// In the order in which they are sent.
    #[must_use]
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = NoMacAddress;

    fn from_str(text: &str) -> Result<Self, NoMacAddress> {
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next().filter(|pair| pair.len() == 2).ok_or(NoMacAddress)?;
            // A sign would be taken for a number's.
            let digits = pair.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = u8::from_str_radix(pair, 16).ok().filter(|_| digits).ok_or(NoMacAddress)?;
        }
        if pairs.next().is_some() { Err(NoMacAddress) } else { Self::new(bytes) }
    }
}

/// A network. The resource is a queue of a tap interface for each pair, whose frames have a virtio-net header of 12 bytes, all
/// but the first detached from the interface; or a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetOptions {
    /// The driver's own address.
    pub mac: MacAddress,
    /// Whether the driver may send from other addresses than its own, as a bridge in the guest does.
    pub any_source: bool,
    /// The largest packet that the driver is told of, in bytes without the Ethernet header.
    pub mtu: Option<u16>,
    /// Whether the host segments UDP (USO): asked by whoever opened the tap, since to ask a tap changes it, and this
    /// one may be served while a device is being prepared.
    pub segments_udp: bool,
    /// Pairs of virtqueues, 1 to [`limits::MAX_NET_PAIRS`]. Optional field, since minor version 5, sent only when there
    /// are several: a program that does not know of it serves one, so a launcher whose user asked for more has to look at
    /// the version of its peer. The queues of the tap beyond the first follow by `More`.
    pub pairs: u16,
    /// The resource is no tap but a connected stream socket of the Unix family, and each frame on it, which has no virtio-net
    /// header, has its length in front, as big-endian u32. There is one pair then, an MTU of at most
    /// [`limits::MAX_STREAM_MTU`], and no segmentation. Optional field, since minor version 5, sent only when it is true: a
    /// program that does not know of it looks for a tap, so a launcher has to look at the version of its peer.
    pub stream: bool,
}

/// The required part as it stands on the wire.
#[derive(Encode, Decode)]
pub(super) struct Wire {
    mac: [u8; 6],
    any_source: bool,
    mtu: u16,
    segments_udp: bool,
}

impl NetOptions {
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.stream {
            let most = limits::MAX_STREAM_MTU.into();
            within("pairs of queues", self.pairs.into(), 1, 1, "1 on a stream")?;
            within("segmentation", self.segments_udp.into(), 0, 0, "none on a stream")?;
            let mtu = self.mtu.unwrap_or(0).into();
            return within("MTU", mtu, limits::MIN_MTU.into(), most, "68 to 32746 on a stream");
        }
        let most = limits::MAX_NET_PAIRS.into();
        within("pairs of queues", self.pairs.into(), 1, most, "1 to 16")?;
        let Some(mtu) = self.mtu else { return Ok(()) };
        within("MTU", mtu.into(), limits::MIN_MTU.into(), limits::MAX_MTU.into(), "68 to 65521")
    }

    pub(super) fn wire(&self) -> Wire {
        let mtu = self.mtu.unwrap_or(0);
        Wire { mac: self.mac.0, any_source: self.any_source, mtu, segments_udp: self.segments_udp }
    }

    pub(super) fn from_wire(wire: &Wire, pairs: u16, stream: bool) -> Result<Self, Error> {
        let Wire { mac, any_source, mtu, segments_udp } = *wire;
        let [first, ..] = mac;
        let (what, allowed) = ("MAC address", "that of one station");
        let mac = MacAddress::new(mac).map_err(|_| Error::Limit { what, value: first.into(), allowed })?;
        Ok(Self { mac, any_source, mtu: Some(mtu).filter(|mtu| *mtu > 0), segments_udp, pairs, stream })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_one_station() {
        let mac: MacAddress = "52:54:00:aB:cd:01".parse().unwrap();
        assert_eq!(mac.bytes(), [0x52, 0x54, 0, 0xab, 0xcd, 1]);
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:01");
        for wrong in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:01:02",
            "52-54-00-ab-cd-01",
            "5:254:00:ab:cd:01",
            "52:54:00:ab:cd:+1",
            "53:54:00:ab:cd:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
        ] {
            assert_eq!(wrong.parse::<MacAddress>(), Err(NoMacAddress), "{wrong}");
        }
    }

    #[test]
    fn any_bytes_make_a_local_address_of_one_station() {
        for bytes in [[0; 6], [0xFF; 6], [1, 2, 3, 4, 5, 6]] {
            let mac = MacAddress::local(bytes);
            assert_eq!((mac.bytes()[0] & 3, &mac.bytes()[1..]), (2, &bytes[1..]));
            assert_eq!(MacAddress::new(mac.bytes()), Ok(mac));
        }
    }

    #[test]
    fn a_peer_cannot_make_a_group_a_station() {
        let wire = Wire { mac: [1, 0, 0, 0, 0, 1], any_source: false, mtu: 0, segments_udp: false };
        assert!(matches!(NetOptions::from_wire(&wire, 1, false), Err(Error::Limit { .. })));
    }
}
