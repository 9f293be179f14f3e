//! The registers of one virtqueue (virtio 1.3, 4.1.4.3) and the check of its ring's addresses (2.7).

/// Where guest memory is: `(guest-physical address, size in bytes)` of each region.
pub type Ram = Vec<(u64, u64)>;

/// No MSI-X vector (virtio 1.3, 4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xFFFF;

/// A split virtqueue as the guest laid it out, every part of it within one region of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    /// The queue's number.
    pub index: u16,
    /// Its entries.
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring.
    pub available: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
}

impl Ring {
    /// Whether each part is aligned as 2.7 wants it and lies in one region as a whole.
    #[must_use]
    pub fn lies_in(&self, ram: &Ram) -> bool {
        let size = u64::from(self.size);
        let parts = [
            (self.descriptors, 16, size.saturating_mul(16)),
            // flags, idx, ring[size], used_event; flags, idx, ring[size], avail_event
            (self.available, 2, size.saturating_mul(2).saturating_add(6)),
            (self.used, 4, size.saturating_mul(8).saturating_add(6)),
        ];
        parts.iter().all(|&(address, alignment, length)| {
            address.is_multiple_of(alignment) && ram.iter().any(|region| holds(*region, address, length))
        })
    }
}

fn holds((start, size): (u64, u64), address: u64, length: u64) -> bool {
    address.checked_sub(start).and_then(|offset| offset.checked_add(length)).is_some_and(|end| end <= size)
}

/// The registers. Once `enabled` they are frozen until reset, but for the vector.
#[derive(Debug, Clone)]
pub struct QueueRegisters {
    /// The largest size, and the size after reset.
    max: u16,
    pub(super) size: u16,
    pub(super) vector: u16,
    pub(super) enabled: bool,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

impl QueueRegisters {
    pub(super) fn new(max: u16) -> Self {
        Self { max, size: max, vector: NO_VECTOR, enabled: false, descriptors: 0, available: 0, used: 0 }
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.max);
    }

    /// Ignored: 0, what is no power of two, and what is more than was offered.
    pub(super) fn set_size(&mut self, size: u16) {
        if size.is_power_of_two() && size <= self.max {
            self.size = size;
        }
    }

    pub(super) fn ring(&self, index: u16) -> Ring {
        Ring {
            index,
            size: self.size,
            descriptors: self.descriptors,
            available: self.available,
            used: self.used,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_lie_in_one_region_aligned() {
        let ram = vec![(0, 0x10_0000), (0x10_0000, 0x10_0000), (0x1_0000_0000, 0x1000)];
        let good = Ring { index: 0, size: 256, descriptors: 0x1000, available: 0x2000, used: 0x3000 };
        assert!(good.lies_in(&ram));
        assert!(Ring { descriptors: 0x1_0000_0000, ..good }.lies_in(&ram), "it fills its region");
        let bad = [
            Ring { descriptors: 0x1008, ..good },
            Ring { available: 0x2001, ..good },
            Ring { used: 0x3002, ..good },
            Ring { descriptors: 0xF_F800, ..good }, // across two regions
            Ring { descriptors: 0x1_0000_0010, ..good }, // past the end
            Ring { used: 0xC000_0000, ..good },     // in the hole
            Ring { available: u64::MAX - 1, ..good }, // overflow
            Ring { descriptors: u64::MAX - 15, ..good },
        ];
        for ring in bad {
            assert!(!ring.lies_in(&ram), "{ring:x?}");
        }
    }
}
