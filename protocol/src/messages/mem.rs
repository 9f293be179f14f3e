//! What a device of memory that can be plugged in is told. Since minor version 5.

use bincode::{Decode, Encode};

use super::within;
use crate::{Error, MemoryRegion, limits};

/// The name of the counter that says how much memory the guest is to have plugged in, in bytes.
pub const MEM_REQUESTED: &str = "mem-requested";
/// How much it has plugged in, in bytes.
pub const MEM_PLUGGED: &str = "mem-plugged";

/// Memory that is there for the guest to plug in, block by block. It comes from the front end; the resource of its device
/// is a page, sealed at its size, on which it shows how many bytes are plugged, as a little-endian number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct MemOptions {
    /// Where it lies in the guest, and all that there can be of it. Both are whole numbers of blocks.
    pub region: MemoryRegion,
    /// Bytes of a block: a power of two from [`limits::MIN_MEM_BLOCK`] to [`limits::MAX_MEM_BLOCK`].
    pub block: u64,
    /// How many bytes the guest is to have of it at first: a whole number of blocks.
    pub requested: u64,
}

impl MemOptions {
    /// How many blocks it is: at most [`limits::MAX_MEM_BLOCKS`].
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.region.size.checked_div(self.block).and_then(|blocks| usize::try_from(blocks).ok()).unwrap_or(0)
    }

    /// That it is memory which a device can serve.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), Error> {
        let MemoryRegion { guest_phys, size } = self.region;
        let block = if self.block.is_power_of_two() { self.block } else { 0 };
        let form = "a power of two from 2 MiB to 1 GiB";
        within("size of a block of memory", block, limits::MIN_MEM_BLOCK, limits::MAX_MEM_BLOCK, form)?;
        let whole = |value: u64| if value.is_multiple_of(block) { value } else { u64::MAX };
        let most = block.saturating_mul(limits::MAX_MEM_BLOCKS).min(limits::MAX_MEMORY);
        within("size of memory", whole(size), block, most, "1 to 15872 whole blocks, up to 384G")?;
        // Behind RAM, and so never at zero.
        let last = u64::MAX.saturating_sub(size).saturating_sub(1);
        within("address of memory", whole(guest_phys), block, last, "a whole number of blocks")?;
        within("memory that is wanted", whole(self.requested), 0, size, "whole blocks, as many as there are")
    }
}

/// Where such memory may lie, whatever its blocks.
pub(super) fn check_region(region: MemoryRegion) -> Result<(), Error> {
    let whole = |value: u64| if value.is_multiple_of(limits::MIN_MEM_BLOCK) { value } else { 0 };
    let (least, form) = (limits::MIN_MEM_BLOCK, "a multiple of 2 MiB");
    within("size of memory", whole(region.size), least, limits::MAX_MEMORY, form)?;
    let last = u64::MAX.saturating_sub(region.size);
    within("address of memory", whole(region.guest_phys), least, last, form)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AttachDevice, DeviceOptions, DeviceSetup, Message, Rates, Setting, ToCore, ToDevice};

    #[test]
    fn memory_is_whole_blocks_that_a_device_can_keep_track_of() {
        let region = |guest_phys, size| MemoryRegion { guest_phys, size };
        let fine = MemOptions { region: region(20 << 30, 8 << 20), block: 2 << 20, requested: 4 << 20 };
        let of = |guest_phys, size| MemOptions { region: region(guest_phys, size), ..fine };
        let most = limits::MAX_MEM_BLOCKS << 21;
        for fine in [fine, of(2 << 20, 2 << 20), of(20 << 30, most), MemOptions { requested: 0, ..fine }] {
            let requested = fine.requested.min(fine.region.size);
            assert!(MemOptions { requested, ..fine }.check().is_ok(), "{fine:?}");
        }
        for wrong in [
            of(0, 8 << 20),
            of((20 << 30) + 4096, 8 << 20),
            of(20 << 30, 0),
            of(20 << 30, (8 << 20) + 4096),
            of(20 << 30, most + (2 << 20)),
            of(u64::MAX - (8 << 20) + 1, 8 << 20),
            MemOptions { block: 0, ..fine },
            MemOptions { block: 1 << 20, ..fine },
            MemOptions { block: 3 << 20, ..fine },
            MemOptions { block: 2 << 30, ..fine },
            MemOptions { requested: 10 << 20, ..fine },
            MemOptions { requested: 4096, ..fine },
            MemOptions { requested: u64::MAX, ..fine },
        ] {
            assert!(matches!(wrong.check(), Err(Error::Limit { .. })), "{wrong:?}");
        }
        assert!(ToDevice::Set(Setting::Mem(limits::MAX_MEMORY + 1)).encode().is_err());
    }

    #[test]
    fn golden_bytes() {
        let region = MemoryRegion { guest_phys: 20 << 30, size: 8 << 20 };
        let options = DeviceOptions::Mem(MemOptions { region, block: 2 << 20, requested: 4 << 20 });
        let (name, rates) = ("d".to_owned(), Rates::default());
        let sent = ToDevice::Setup(DeviceSetup { name, options, blamed: false, keep: false, rates });
        let bytes: &[u8] = b"\x01d\x08\xfd\0\0\0\0\x05\0\0\0\xfc\0\0\x80\0\xfc\0\0\x20\0\xfc\0\0\x40\0\0";
        assert_eq!(sent.encode().unwrap(), bytes);
        assert_eq!(ToDevice::decode(sent.kind(), bytes).unwrap(), sent);
    }

    fn attach(mem: MemoryRegion) -> ToCore {
        ToCore::Attach(AttachDevice {
            slot: 1,
            name: "mem0".to_owned(),
            virtio_type: 24,
            queues: 1,
            queue_size: 256,
            deadline_ms: 1000,
            pmem: None,
            mem: Some(mem),
        })
    }

    /// One that does not know the field takes the message for that of a device with one descriptor, and refuses three.
    #[test]
    fn golden_bytes_of_a_device_that_has_some() {
        let sent = attach(MemoryRegion { guest_phys: 20 << 30, size: 2 << 20 });
        let bytes = b"\x01\x04mem0\x18\x01\xfb\0\x01\x02\x01\x03\xfb\xe8\x03\x03\x0e\xfd\0\0\0\0\x05\0\0\0\xfc\0\0\x20\0";
        assert_eq!(sent.encode().unwrap(), bytes);
        assert_eq!((sent.kind(), sent.fds()), (0x0102, 3));
        assert_eq!(ToCore::decode(sent.kind(), bytes).unwrap(), sent);
    }

    #[test]
    fn a_core_maps_no_memory_where_there_can_be_none() {
        let mib = 1 << 20;
        let last = u64::MAX - (4 * mib) + 1;
        for (guest_phys, size) in [(2 * mib, 2 * mib), (20 << 30, limits::MAX_MEMORY), (last, 2 * mib)] {
            assert!(attach(MemoryRegion { guest_phys, size }).encode().is_ok(), "{guest_phys:#x} {size:#x}");
        }
        for (guest_phys, size) in [
            (20 << 30, 0),
            (20 << 30, mib),
            (20 << 30, 3 * mib),
            (20 << 30, limits::MAX_MEMORY + 2 * mib),
            (0, 2 * mib),
            (3 * mib, 2 * mib),
            (4096, 2 * mib),
            (last, 4 * mib),
            (u64::MAX, 2 * mib),
        ] {
            let refused = attach(MemoryRegion { guest_phys, size }).encode();
            assert!(matches!(refused, Err(Error::Limit { .. })), "{guest_phys:#x} {size:#x}");
        }
    }
}
