//! The frame: a header of 16 bytes, little-endian, and a body.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic, `vmm` and a zero |
//! | 4 | 1 | major version |
//! | 5 | 1 | minor version |
//! | 6 | 2 | kind of message |
//! | 8 | 4 | bytes of body |
//! | 12 | 1 | descriptors |
//! | 13 | 3 | zero; ignored by the receiver |

use crate::{Error, limits};

/// `vmm\0`.
pub const MAGIC: u32 = 0x006d_6d76;
/// Frames of another major version are refused.
pub const MAJOR: u8 = 1;
/// Raised when an optional field or a message is added.
pub const MINOR: u8 = 5;
/// Bytes of the header.
pub const HEADER: usize = 16;

/// The header, parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The sender's minor version.
    pub minor: u8,
    /// Kind of message.
    pub kind: u16,
    /// Bytes of body.
    pub body: u32,
    /// Descriptors that the sender attached.
    pub descriptors: u8,
}

impl Header {
    /// The header's bytes, with this program's version.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let (magic, rest) = bytes.split_at_mut(4);
        magic.copy_from_slice(&MAGIC.to_le_bytes());
        let (version, rest) = rest.split_at_mut(2);
        version.copy_from_slice(&[MAJOR, self.minor]);
        let (kind, rest) = rest.split_at_mut(2);
        kind.copy_from_slice(&self.kind.to_le_bytes());
        let (body, rest) = rest.split_at_mut(4);
        body.copy_from_slice(&self.body.to_le_bytes());
        if let Some(descriptors) = rest.first_mut() {
            *descriptors = self.descriptors;
        }
        bytes
    }

    /// Splits a packet into its header and its body.
    ///
    /// # Errors
    /// Another magic or major version, or a body that is not as long as the header says.
    pub fn parse(packet: &[u8]) -> Result<(Self, &[u8]), Error> {
        let short = Error::Size { size: packet.len(), expected: HEADER };
        let Some((header, body)) = packet.split_first_chunk::<HEADER>() else { return Err(short) };
        let [m0, m1, m2, m3, major, minor, k0, k1, b0, b1, b2, b3, descriptors, ..] = *header;
        let magic = u32::from_le_bytes([m0, m1, m2, m3]);
        if magic != MAGIC {
            return Err(Error::Magic { found: magic });
        }
        if major != MAJOR {
            return Err(Error::Version { theirs: major, ours: MAJOR });
        }
        let length = u32::from_le_bytes([b0, b1, b2, b3]);
        if usize::try_from(length) != Ok(body.len()) {
            let expected = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(HEADER);
            return Err(Error::Size { size: packet.len(), expected });
        }
        Ok((Self { minor, kind: u16::from_le_bytes([k0, k1]), body: length, descriptors }, body))
    }
}

/// The whole packet for a body.
///
/// # Errors
/// A body that makes the frame longer than [`limits::MAX_FRAME`].
pub fn encode(kind: u16, body: &[u8], descriptors: usize) -> Result<Vec<u8>, Error> {
    let too_long = || Error::TooLong { limit: limits::MAX_FRAME };
    let size = body.len().checked_add(HEADER).filter(|size| *size <= limits::MAX_FRAME);
    let size = size.ok_or_else(too_long)?;
    let header = Header {
        minor: MINOR,
        kind,
        body: u32::try_from(body.len()).map_err(|_| too_long())?,
        descriptors: u8::try_from(descriptors).map_err(|_| too_long())?,
    };
    let mut packet = Vec::with_capacity(size);
    packet.extend_from_slice(&header.encode());
    packet.extend_from_slice(body);
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_what_the_table_says() {
        let packet = encode(0x0102, b"abc", 2).unwrap();
        assert_eq!(packet, b"vmm\0\x01\x05\x02\x01\x03\0\0\0\x02\0\0\0abc");
        let (header, body) = Header::parse(&packet).unwrap();
        assert_eq!((header.kind, header.body, header.descriptors, body), (0x0102, 3, 2, &b"abc"[..]));
    }

    #[test]
    fn every_truncation_is_refused() {
        let packet = encode(7, b"abc", 0).unwrap();
        for length in 0..packet.len() {
            assert!(matches!(Header::parse(&packet[..length]), Err(Error::Size { .. })), "{length}");
        }
        let mut longer = packet;
        longer.push(0);
        assert!(matches!(Header::parse(&longer), Err(Error::Size { .. })));
    }

    #[test]
    fn strangers_are_refused_and_minor_neighbours_are_not() {
        let packet = encode(7, b"", 0).unwrap();
        let change = |at: usize, to: u8| {
            let mut packet = packet.clone();
            packet[at] = to;
            packet
        };
        assert!(matches!(Header::parse(&change(0, 0)), Err(Error::Magic { .. })));
        assert!(matches!(Header::parse(&change(4, 2)), Err(Error::Version { theirs: 2, ours: 1 })));
        assert_eq!(Header::parse(&change(5, MINOR + 1)).unwrap().0.minor, MINOR + 1);
        assert!(matches!(Header::parse(&change(11, 0xff)), Err(Error::Size { .. })));
    }

    #[test]
    fn a_frame_beyond_the_limit_is_not_made() {
        assert!(matches!(encode(1, &vec![0; limits::MAX_FRAME], 0), Err(Error::TooLong { .. })));
    }
}
