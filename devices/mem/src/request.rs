//! What a driver asks for (virtio 1.2, §5.15.6). The only parser of guest bytes, and pure.
//!
//! Addresses and numbers of blocks are allegations: only [`Span::blocks`] makes blocks of them, and only of those that
//! lie in the region.

use std::ops::Range;

use device_backend::Reader;
use protocol::MemOptions;

use crate::wire::{REQUEST, REQUEST_HEAD, kind};

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// These blocks are to be plugged.
    Plug(Span),
    /// These are to be unplugged.
    Unplug(Span),
    /// All are.
    UnplugAll,
    /// What these are.
    State(Span),
}

/// As the driver says: an address, and a number of blocks from there on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Guest-physical.
    pub addr: u64,
    /// How many.
    pub nb_blocks: u16,
}

impl Request {
    /// None for one that does not exist or is cut short.
    #[must_use]
    pub fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        let mut bytes = [0; REQUEST];
        let (head, rest) = bytes.split_at_mut(REQUEST_HEAD);
        reader.read_exact(head).ok()?;
        if head.first_chunk() != Some(&kind::UNPLUG_ALL.to_le_bytes()) {
            reader.read_exact(rest).ok()?;
        }
        Self::parse(bytes)
    }

    /// Padding is no matter.
    #[must_use]
    pub fn parse(bytes: [u8; REQUEST]) -> Option<Self> {
        let [k0, k1, _, _, _, _, _, _, addr @ .., n0, n1, _, _, _, _, _, _] = bytes;
        let span = Span { addr: u64::from_le_bytes(addr), nb_blocks: u16::from_le_bytes([n0, n1]) };
        match u16::from_le_bytes([k0, k1]) {
            kind::PLUG => Some(Self::Plug(span)),
            kind::UNPLUG => Some(Self::Unplug(span)),
            kind::UNPLUG_ALL => Some(Self::UnplugAll),
            kind::STATE => Some(Self::State(span)),
            _ => None,
        }
    }

    /// As a driver writes it.
    #[must_use]
    pub fn bytes(self) -> [u8; REQUEST] {
        let none = Span { addr: 0, nb_blocks: 0 };
        let (kind, Span { addr, nb_blocks }) = match self {
            Self::Plug(span) => (kind::PLUG, span),
            Self::Unplug(span) => (kind::UNPLUG, span),
            Self::UnplugAll => (kind::UNPLUG_ALL, none),
            Self::State(span) => (kind::STATE, span),
        };
        let ([k0, k1], [n0, n1]) = (kind.to_le_bytes(), nb_blocks.to_le_bytes());
        let [a0, a1, a2, a3, a4, a5, a6, a7] = addr.to_le_bytes();
        [k0, k1, 0, 0, 0, 0, 0, 0, a0, a1, a2, a3, a4, a5, a6, a7, n0, n1, 0, 0, 0, 0, 0, 0]
    }
}

impl Span {
    /// The blocks that it is, by their numbers: at least one, each a block of the region. None for anything else.
    #[must_use]
    pub fn blocks(self, options: &MemOptions) -> Option<Range<usize>> {
        let offset = self.addr.checked_sub(options.region.guest_phys)?;
        if self.nb_blocks == 0 || !offset.is_multiple_of(options.block) {
            return None;
        }
        let first = usize::try_from(offset.checked_div(options.block)?).ok()?;
        let end = first.checked_add(self.nb_blocks.into())?;
        (end <= options.blocks()).then_some(first..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::MemoryRegion;
    use vm_memory::VolatileSlice;

    const MIB: u64 = 1 << 20;

    fn of(bytes: &[u8], piece: usize) -> Option<Request> {
        let mut bytes = bytes.to_vec();
        let slices: Vec<_> = bytes.chunks_mut(piece).map(VolatileSlice::from).collect();
        Request::read(&mut Reader::new(&slices))
    }

    #[test]
    fn a_request_is_read_however_it_lies_and_no_other() {
        let span = Span { addr: 0x0807_0605_0403_0201, nb_blocks: 0x0A09 };
        for request in [Request::Plug(span), Request::Unplug(span), Request::UnplugAll, Request::State(span)]
        {
            let bytes = request.bytes();
            for piece in [1, 5, 24] {
                assert_eq!(of(&bytes, piece), Some(request));
            }
            let short = of(&bytes[..23], 24);
            assert_eq!(short, (request == Request::UnplugAll).then_some(request), "cut short");
            assert_eq!(of(&bytes[..7], 7), None);
            assert_eq!(of(&[&bytes[..], &[9; 100]].concat(), 50), Some(request), "longer");
        }
        assert_eq!(of(&[2, 0, 9, 9, 9, 9, 9, 9], 8), Some(Request::UnplugAll));
        for kind in [4u16, 0x100, 0x200, u16::MAX] {
            assert_eq!(of(&[&kind.to_le_bytes()[..], &[0; 22]].concat(), 24), None, "{kind}");
        }
        assert_eq!(of(&[], 1), None);
    }

    #[test]
    fn blocks_outside_the_region_unaligned_or_none_are_no_blocks() {
        let region = MemoryRegion { guest_phys: 20 << 30, size: 64 * MIB };
        let options = MemOptions { region, block: 2 * MIB, requested: 0 };
        let blocks = |addr, nb_blocks| Span { addr, nb_blocks }.blocks(&options);
        let start = region.guest_phys;
        assert_eq!(blocks(start, 1), Some(0..1));
        assert_eq!(blocks(start, 32), Some(0..32));
        assert_eq!(blocks(start + 62 * MIB, 1), Some(31..32));
        for (addr, nb_blocks) in [
            (start, 0),
            (start, 33),
            (start, u16::MAX),
            (start + 2 * MIB, 32),
            (start + 62 * MIB, 2),
            (start + 64 * MIB, 1),
            (start + MIB, 1),
            (start + 4096, 1),
            (start - 2 * MIB, 1),
            (start - 2 * MIB, 2),
            (0, 1),
            (0, u16::MAX),
            (u64::MAX, 1),
            (u64::MAX - 2 * MIB + 1, 1),
            (u64::MAX - 2 * MIB + 1, u16::MAX),
        ] {
            assert_eq!(blocks(addr, nb_blocks), None, "{addr:#x} {nb_blocks}");
        }
    }
}
