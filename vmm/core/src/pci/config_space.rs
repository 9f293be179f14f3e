//! Configuration space of one type-0 function (PCI 3.0, 6.1 and 6.2): 256 bytes, a mask of what the guest may
//! write, and nothing else. Sizing a BAR needs no code: its low address bits are not writable.
//!
//! No interrupt pin: our functions raise interrupts by MSI-X only.

/// Bytes of a conventional function's space; what PCI Express has beyond reads as all ones.
pub const SIZE: usize = 256;

/// Offset of the command register.
pub const COMMAND: usize = 0x04;
/// Offset of the first BAR.
pub const BAR0: usize = 0x10;

const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const SUBSYSTEM_VENDOR: usize = 0x2C;
const CAPABILITIES: usize = 0x34;
const FIRST_CAPABILITY: usize = 0x40;

const MEMORY_ENABLE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const INTERRUPT_DISABLE: u16 = 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;
/// A 64-bit BAR that is not prefetchable: reading the ISR register has an effect.
const BAR_64: u64 = 0b100;
const BAR_FLAGS: u64 = 0xF;

/// What a function says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class, subclass and programming interface, as 0xCCSSPP.
    pub class: u32,
    /// Subsystem of the same vendor.
    pub subsystem: u16,
}

/// See above.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    last_capability: usize,
    free: usize,
}

impl ConfigSpace {
    /// A function with no BAR and no capability.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            last_capability: CAPABILITIES,
            free: FIRST_CAPABILITY,
        };
        space.put(0, &identity.vendor.to_le_bytes());
        space.put(2, &identity.device.to_le_bytes());
        space.put(REVISION, &(identity.class << 8 | u32::from(identity.revision)).to_le_bytes());
        space.put(SUBSYSTEM_VENDOR, &identity.vendor.to_le_bytes());
        space.put(SUBSYSTEM_VENDOR + 2, &identity.subsystem.to_le_bytes());
        space.allow(COMMAND, &(MEMORY_ENABLE | BUS_MASTER | INTERRUPT_DISABLE).to_le_bytes());
        space.allow(0x3C, &[0xFF]); // interrupt line: the operating system's scratch byte
        space
    }

    /// Makes BAR 0 a 64-bit memory BAR of `size` bytes, a power of two of at least 16, decoded at `address`
    /// once the guest enables it.
    pub fn set_bar(&mut self, address: u64, size: u64) {
        let mask = size.wrapping_sub(1) | BAR_FLAGS;
        self.put(BAR0, &(address & !mask | BAR_64).to_le_bytes());
        self.allow(BAR0, &(!mask).to_le_bytes());
    }

    /// Appends a capability: its id, then `body` (what follows the next pointer), of which the guest may write the
    /// bits set in `writable`. Gives its offset, or `None` when the space is full.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Option<usize> {
        let at = self.free;
        let end = at.checked_add(2)?.checked_add(body.len())?;
        if end > SIZE {
            return None;
        }
        let pointer = u8::try_from(at).ok()?;
        self.put(self.last_capability, &[pointer]);
        self.put(at, &[id, 0]);
        self.put(at.checked_add(2)?, body);
        self.allow(at.checked_add(2)?, writable);
        self.put(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        self.last_capability = at.checked_add(1)?;
        self.free = end.checked_next_multiple_of(4)?;
        Some(at)
    }

    /// Where BAR 0 is decoded: `None` when memory decoding is off.
    #[must_use]
    pub fn decoded(&self) -> Option<u64> {
        let on = u16::from_le_bytes(self.take(COMMAND)) & MEMORY_ENABLE != 0;
        on.then(|| u64::from_le_bytes(self.take(BAR0)) & !BAR_FLAGS)
    }

    /// Reads any bytes; what lies outside reads as all ones.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = self.bytes.get(offset.saturating_add(index)).copied().unwrap_or(0xFF);
        }
    }

    /// Writes any bytes; what is not writable stays.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let cells = self.bytes.iter_mut().zip(&self.writable).skip(offset);
        for ((byte, mask), new) in cells.zip(data) {
            *byte = *byte & !mask | new & mask;
        }
    }

    /// The `N` bytes at `offset`, zero where there are none.
    #[must_use]
    pub fn take<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut value = [0; N];
        for (byte, found) in value.iter_mut().zip(self.bytes.iter().skip(offset)) {
            *byte = *found;
        }
        value
    }

    fn put(&mut self, offset: usize, data: &[u8]) {
        for (byte, new) in self.bytes.iter_mut().skip(offset).zip(data) {
            *byte = *new;
        }
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        for (byte, new) in self.writable.iter_mut().skip(offset).zip(mask) {
            *byte = *new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let identity =
            Identity { vendor: 0x1AF4, device: 0x1042, revision: 1, class: 0x01_00_00, subsystem: 2 };
        let mut space = ConfigSpace::new(identity);
        space.set_bar(0x10_0000_0000, 0x8000);
        space
    }

    fn read32(space: &ConfigSpace, offset: usize) -> u32 {
        let mut data = [0; 4];
        space.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn the_header_says_who_it_is_and_is_read_only() {
        let mut space = space();
        for offset in [0, 8, 0xC, 0x2C, 0x34] {
            let before = read32(&space, offset);
            space.write(offset, &[0xFF; 4]);
            assert_eq!(read32(&space, offset), before, "{offset:#x}");
        }
        assert_eq!(read32(&space, 0), 0x1042_1AF4);
        assert_eq!(read32(&space, 8), 0x0100_0001);
        assert_eq!(read32(&space, 0x3C), 0, "no interrupt pin");
    }

    #[test]
    fn a_bar_is_sized_and_moved() {
        let mut space = space();
        assert_eq!(space.decoded(), None, "decoding is off at first");
        space.write(BAR0, &[0xFF; 4]);
        space.write(BAR0 + 4, &[0xFF; 4]);
        assert_eq!((read32(&space, BAR0), read32(&space, BAR0 + 4)), (0xFFFF_8004, 0xFFFF_FFFF));
        space.write(BAR0, &0xE123_4567_u32.to_le_bytes());
        space.write(BAR0 + 4, &1_u32.to_le_bytes());
        space.write(COMMAND, &[0xFF, 0xFF]);
        assert_eq!(space.decoded(), Some(0x1_E123_0000));
        assert_eq!(read32(&space, COMMAND) & 0xFFFF, 0x0406, "no port decoding");
        space.write(COMMAND, &[0]);
        assert_eq!(space.decoded(), None);
    }

    #[test]
    fn capabilities_are_chained() {
        let mut space = space();
        let first = space.add_capability(0x11, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0, 0xC0]).unwrap();
        let second = space.add_capability(9, &[16; 15], &[]).unwrap();
        assert_eq!(read32(&space, 0x34), u32::try_from(first).unwrap());
        assert_eq!(space.take::<2>(first), [0x11, u8::try_from(second).unwrap()]);
        assert_eq!(space.take::<3>(second), [9, 0, 16]);
        assert_eq!(read32(&space, 4) >> 16, 0x10);
        space.write(first + 2, &[0xFF, 0xFF]);
        assert_eq!(space.take::<2>(first + 2), [1, 0xC0]);
        assert_eq!(space.add_capability(9, &[0; 200], &[]), None);
    }

    #[test]
    fn any_offset_and_length_is_answered() {
        let mut space = space();
        for offset in (0..0x120).chain([usize::MAX - 1, usize::MAX]) {
            for length in 0..=8 {
                let mut data = [0; 8];
                space.read(offset, &mut data[..length]);
                space.write(offset, &data[..length]);
            }
        }
        assert_eq!(read32(&space, 0x100), u32::MAX);
    }
}
