//! The only judge of what a guest says about a frame (virtio 1.2, §5.1.6): pure functions from the header and the
//! beginning of a frame to what is passed on, or why it is dropped.
//!
//! What is passed on is the device's own copy: header and Ethernet header are read from guest memory once, judged, and
//! sent from the copy, so that a second processor of the guest cannot change them in between. The frame's rest is
//! the network's to judge, as that of any station's is.
//!
//! The other direction has the host's kernel in front of it, which is trusted; it is judged all the same against what
//! the driver accepted, since frames can wait in a tap from before the driver did.

use crate::wire::{ETHERNET_HEADER, Header, VLAN_TAG, feature, flag, gso};

/// Bytes of the largest frame: one that is segmented by whoever gets it, its packet of 65535 bytes at most.
pub const MOST: usize = ETHERNET_HEADER + VLAN_TAG + 65535;

/// Why a frame of the guest is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No Ethernet frame, or too long for one.
    Length,
    /// Its header asks for what was not negotiated, or does not fit the frame.
    Header,
    /// The link is down.
    Link,
    /// Its source is not the device's address.
    Source([u8; 6]),
}

/// What a guest may send.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// The feature bits that the driver accepted.
    pub features: u64,
    /// The one source, unless any will do.
    pub source: Option<[u8; 6]>,
}

/// The header with which a frame of `length` bytes is sent that the guest sent with `header`.
///
/// # Errors
/// It is not to be sent.
pub fn from_driver(
    rules: Rules,
    header: Header,
    ethernet: [u8; ETHERNET_HEADER],
    length: usize,
) -> Result<Header, Refused> {
    if !(ETHERNET_HEADER..=MOST).contains(&length) {
        return Err(Refused::Length);
    }
    let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = ethernet;
    let source = [a, b, c, d, e, f];
    if rules.source.is_some_and(|only| only != source) {
        return Err(Refused::Source(source));
    }
    checksum(rules.features, header, length).and_then(|sent| segments(rules.features, header, length, sent))
}

/// The checksum's part. Flags that nobody knows are ignored, as the specification wants it.
fn checksum(features: u64, header: Header, length: usize) -> Result<Header, Refused> {
    if header.flags & flag::NEEDS_CSUM == 0 {
        return Ok(Header::default());
    }
    let (start, offset) = (usize::from(header.csum_start), usize::from(header.csum_offset));
    let end = start.saturating_add(offset).saturating_add(2);
    if features & feature::CSUM == 0 || start < ETHERNET_HEADER || end > length {
        return Err(Refused::Header);
    }
    let Header { csum_start, csum_offset, .. } = header;
    Ok(Header { flags: flag::NEEDS_CSUM, csum_start, csum_offset, ..Header::default() })
}

/// The segmentation's part. A segment needs a checksum, so that no frame is segmented that has a whole one (§5.1.6.2).
fn segments(features: u64, header: Header, length: usize, sent: Header) -> Result<Header, Refused> {
    if header.gso_type == gso::NONE {
        return Ok(sent);
    }
    let allowed = match header.gso_type {
        gso::TCPV4 => feature::HOST_TSO4,
        gso::TCPV6 => feature::HOST_TSO6,
        gso::UDP_L4 => feature::HOST_USO,
        kind if kind == gso::TCPV4 | gso::ECN => feature::HOST_TSO4 | feature::HOST_ECN,
        kind if kind == gso::TCPV6 | gso::ECN => feature::HOST_TSO6 | feature::HOST_ECN,
        _ => return Err(Refused::Header),
    };
    let (has_checksum, fits) = (sent.flags == flag::NEEDS_CSUM, usize::from(header.hdr_len) <= length);
    if features & allowed != allowed || !has_checksum || header.gso_size == 0 || !fits {
        return Err(Refused::Header);
    }
    let Header { gso_type, hdr_len, gso_size, .. } = header;
    Ok(Header { gso_type, hdr_len, gso_size, ..sent })
}

/// The header with which the driver gets a frame of the host; None for one that it did not agree to. `num_buffers` is
/// the caller's to set.
#[must_use]
pub fn for_driver(features: u64, header: Header) -> Option<Header> {
    let segmented = match header.gso_type {
        gso::NONE => 0,
        gso::TCPV4 => feature::GUEST_TSO4,
        gso::TCPV6 => feature::GUEST_TSO6,
        // The length of its headers says too little to tell which it is: both are asked for.
        gso::UDP_L4 => feature::GUEST_USO4 | feature::GUEST_USO6,
        kind if kind == gso::TCPV4 | gso::ECN => feature::GUEST_TSO4 | feature::GUEST_ECN,
        kind if kind == gso::TCPV6 | gso::ECN => feature::GUEST_TSO6 | feature::GUEST_ECN,
        _ => return None,
    };
    if features & segmented != segmented {
        return None;
    }
    if features & feature::GUEST_CSUM == 0 {
        // Flags must be zero then (§5.1.6.4.1), and a partial checksum would be taken for a wrong one.
        let whole = header.flags & flag::NEEDS_CSUM == 0;
        return whole.then_some(Header { flags: 0, ..header });
    }
    Some(Header { flags: header.flags & (flag::NEEDS_CSUM | flag::DATA_VALID), ..header })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const ALL: u64 = u64::MAX;

    fn ethernet(source: [u8; 6]) -> [u8; ETHERNET_HEADER] {
        let mut bytes = [0xff; ETHERNET_HEADER];
        bytes[6..12].copy_from_slice(&source);
        bytes
    }

    fn sent(features: u64, header: Header, length: usize) -> Result<Header, Refused> {
        from_driver(Rules { features, source: Some(MAC) }, header, ethernet(MAC), length)
    }

    const CSUM: Header = Header {
        flags: flag::NEEDS_CSUM,
        csum_start: 34,
        csum_offset: 16,
        gso_type: 0,
        gso_size: 0,
        hdr_len: 0,
        num_buffers: 0,
    };
    const TSO: Header = Header { gso_type: gso::TCPV4, gso_size: 1448, hdr_len: 54, ..CSUM };

    #[test]
    fn a_plain_frame_is_sent_with_a_header_of_zeros() {
        let junk = Header {
            hdr_len: 7,
            gso_size: 8,
            csum_start: 9,
            csum_offset: 10,
            num_buffers: 11,
            ..Header::default()
        };
        assert_eq!(sent(ALL, junk, 60), Ok(Header::default()));
        assert_eq!(
            sent(0, Header { flags: 0xfe, ..junk }, 60),
            Ok(Header::default()),
            "flags that nobody knows"
        );
    }

    #[test]
    fn lengths_are_those_of_ethernet() {
        for (length, fine) in [(0, false), (13, false), (14, true), (MOST, true), (MOST + 1, false)] {
            assert_eq!(sent(ALL, Header::default(), length).is_ok(), fine, "{length}");
        }
    }

    #[test]
    fn the_source_is_the_devices_own_unless_any_will_do() {
        let other = [2, 0, 0, 0, 0, 8];
        let send =
            |source, from| from_driver(Rules { features: 0, source }, Header::default(), ethernet(from), 60);
        assert!(send(Some(MAC), MAC).is_ok());
        for forged in [other, [0xff; 6], [0; 6], [3, 0, 0, 0, 0, 9]] {
            assert_eq!(send(Some(MAC), forged), Err(Refused::Source(forged)));
            assert!(send(None, forged).is_ok());
        }
    }

    #[test]
    fn a_checksum_lies_within_its_frame_and_was_agreed_on() {
        assert_eq!(sent(feature::CSUM, CSUM, 52), Ok(CSUM));
        assert_eq!(sent(feature::CSUM, CSUM, 51), Err(Refused::Header), "its last byte is past the end");
        assert_eq!(sent(0, CSUM, 52), Err(Refused::Header));
        for (csum_start, csum_offset) in [(0xffff, 0xffff), (0xffff, 0), (34, 0xffff), (13, 16), (0, 0)] {
            let lie = Header { csum_start, csum_offset, ..CSUM };
            assert_eq!(sent(ALL, lie, 1500), Err(Refused::Header), "{lie:?}");
        }
    }

    #[test]
    fn segments_are_of_a_kind_that_was_agreed_on() {
        let kinds = [
            (gso::TCPV4, feature::HOST_TSO4),
            (gso::TCPV6, feature::HOST_TSO6),
            (gso::UDP_L4, feature::HOST_USO),
            (gso::TCPV4 | gso::ECN, feature::HOST_TSO4 | feature::HOST_ECN),
            (gso::TCPV6 | gso::ECN, feature::HOST_TSO6 | feature::HOST_ECN),
        ];
        for (gso_type, needed) in kinds {
            let header = Header { gso_type, ..TSO };
            assert_eq!(sent(feature::CSUM | needed, header, 9000), Ok(header));
            for bit in (0..64).map(|bit| 1 << bit).filter(|bit| needed & bit != 0) {
                assert_eq!(
                    sent(ALL & !bit, header, 9000),
                    Err(Refused::Header),
                    "{gso_type} without {bit:#x}"
                );
            }
        }
        for gso_type in
            (0..=255).filter(|kind| kinds.iter().all(|(known, _)| known != kind) && *kind != gso::NONE)
        {
            assert_eq!(sent(ALL, Header { gso_type, ..TSO }, 9000), Err(Refused::Header), "{gso_type}");
        }
    }

    #[test]
    fn lies_about_segments_are_not_passed_on() {
        for lie in [
            Header { gso_size: 0, ..TSO },
            Header { flags: 0, ..TSO },
            Header { hdr_len: 9001, ..TSO },
            Header { hdr_len: 0xffff, ..TSO },
        ] {
            assert_eq!(sent(ALL, lie, 9000), Err(Refused::Header), "{lie:?}");
        }
    }

    #[test]
    fn the_driver_gets_what_it_agreed_to() {
        let valid = Header { flags: flag::DATA_VALID, ..Header::default() };
        assert_eq!(for_driver(ALL, CSUM), Some(CSUM));
        assert_eq!(for_driver(ALL, valid), Some(valid));
        assert_eq!(for_driver(!feature::GUEST_CSUM, valid), Some(Header::default()));
        assert_eq!(for_driver(!feature::GUEST_CSUM, CSUM), None);
        for (gso_type, bit) in [
            (gso::TCPV4, feature::GUEST_TSO4),
            (gso::TCPV6, feature::GUEST_TSO6),
            (gso::UDP_L4, feature::GUEST_USO4),
            (gso::UDP_L4, feature::GUEST_USO6),
            (gso::TCPV4 | gso::ECN, feature::GUEST_ECN),
            (gso::TCPV6 | gso::ECN, feature::GUEST_ECN),
        ] {
            let header = Header { gso_type, ..TSO };
            assert_eq!(for_driver(ALL, header), Some(header));
            assert_eq!(for_driver(!bit, header), None, "{gso_type}");
        }
        assert_eq!(for_driver(ALL, Header { gso_type: 3, ..TSO }), None, "UFO is not offered");
    }
}
