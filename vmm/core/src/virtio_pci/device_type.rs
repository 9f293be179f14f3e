//! What the transport must know about a virtio device type (virtio 1.3, 5): its PCI class, how much configuration it
//! has, which feature bits are known, and where the configuration says how many queues there are, whether writes
//! are cached, and where memory lies. Nothing else in the core knows a device's type.

use std::ops::Range;

use protocol::MemoryRegion;

/// Feature bits of the device types themselves (virtio 1.3, 2.2).
const ANY_DEVICE_FEATURE: u64 = 0x00FF_FFFF;

/// VIRTIO_BLK_F_* SIZE_MAX, SEG_MAX, GEOMETRY, RO, BLK_SIZE, FLUSH, TOPOLOGY, CONFIG_WCE, MQ, DISCARD, WRITE_ZEROES.
const BLK_FEATURES: u64 =
    1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14;

const DISK: u16 = 2;

/// What the driver of a network device and its back end agree on between themselves (virtio 1.3, 5.1.3), VIRTIO_NET_F_*:
/// CSUM, GUEST_CSUM, MTU, MAC, GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_UFO, HOST_TSO4, HOST_TSO6, HOST_ECN, HOST_UFO,
/// MRG_RXBUF, STATUS, GUEST_USO4, GUEST_USO6, HOST_USO, GUEST_HDRLEN, SPEED_DUPLEX.
///
/// Not what takes a control queue (CTRL_*, MQ, GUEST_ANNOUNCE, RSS, HASH_REPORT, coalescing): by the convention of vhost-user
/// a back end that offers those leaves that queue to the front end, and this one serves none, so a driver would wait on it
/// for ever. See [`DeviceType::with_control_queue`] for those that serve it themselves.
const NET_FEATURES: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 5
    | 1 << 7
    | 1 << 8
    | 1 << 9
    | 1 << 10
    | 1 << 11
    | 1 << 12
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 16
    | 1 << 54
    | 1 << 55
    | 1 << 56
    | 1 << 59
    | 1 << 63;

/// What of a control queue a back end that serves it may offer, VIRTIO_NET_F_*: CTRL_GUEST_OFFLOADS, CTRL_VQ, MQ. Of the rest
/// none is known that one of ours could make true.
const NET_CONTROL_FEATURES: u64 = 1 << 2 | 1 << 17 | 1 << 22;

/// Not VIRTIO_PMEM_F_SHMEM_REGION, which has the memory in a BAR: drivers that do not know of it, as those of Linux before
/// 6.8, take the address from the configuration, and all others do so where it is not offered.
const PMEM_FEATURES: u64 = 0;

/// VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE. Not VIRTIO_MEM_F_ACPI_PXM: there is one node.
const MEM_FEATURES: u64 = 1 << 1;

const MEM: u16 = 24;
/// `plugged_size` in the configuration of memory to be plugged in (virtio 1.2, 5.15.4).
pub const PLUGGED_SIZE: Range<usize> = 40..48;

/// See above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceType {
    /// The virtio device id, 1 to 63.
    pub id: u16,
    /// PCI class, subclass and programming interface.
    pub class: u32,
    /// Bytes of device configuration asked of the back end.
    pub config_size: u16,
    /// Device feature bits that may be offered.
    pub features: u64,
    /// Offset of the 16-bit number of queues in the configuration.
    pub queue_count_at: Option<usize>,
    /// Offset of a byte of the configuration that says whether writes may be lost until the next flush, and that the
    /// driver may write (virtio 1.3, 5.2.4, `writeback`).
    pub write_cache_at: Option<usize>,
    /// The memory of a device that has some: the configuration of one that is persistent begins with its address and size
    /// (virtio 1.2, 5.19.4), that of one to be plugged in has them, and how much of it can be used, further on (5.15.4).
    pub memory: Option<MemoryRegion>,
}

impl DeviceType {
    /// The type `id`, if virtio-pci can have it.
    #[must_use]
    pub fn new(id: u16) -> Option<Self> {
        // Classes: PCI Code and ID Assignment Specification.
        let (class, config_size, features, queue_count_at) = match id {
            1 => (0x02_00_00, 20, NET_FEATURES, None),
            2 => (0x01_80_00, 60, BLK_FEATURES, Some(34)),
            3 => (0x07_80_00, 12, ANY_DEVICE_FEATURE, None),
            4 => (0xFF_00_00, 0, ANY_DEVICE_FEATURE, None),
            5 => (0xFF_00_00, 16, ANY_DEVICE_FEATURE, None),
            8 => (0x01_00_00, 36, ANY_DEVICE_FEATURE, None),
            19 => (0x02_80_00, 8, ANY_DEVICE_FEATURE, None),
            MEM => (0xFF_00_00, 56, MEM_FEATURES, None),
            26 => (0x01_80_00, 40, ANY_DEVICE_FEATURE, None),
            27 => (0xFF_00_00, 16, PMEM_FEATURES, None),
            id if (1..64).contains(&id) => (0xFF_00_00, 0, ANY_DEVICE_FEATURE, None),
            _ => return None,
        };
        let write_cache_at = (id == 2).then_some(32);
        Some(Self { id, class, config_size, features, queue_count_at, write_cache_at, memory: None })
    }

    /// A network whose back end is asked for an odd number of queues: two for each pair, and one on which it serves the
    /// driver's commands itself. Nobody asks that of a back end which keeps to the convention. Every other type as it is.
    #[must_use]
    pub fn with_control_queue(self, queues: u16) -> Self {
        if self.id == 1 && queues > 2 && queues % 2 == 1 {
            Self { features: self.features | NET_CONTROL_FEATURES, ..self }
        } else {
            self
        }
    }

    /// Whether each request is one that the device answers by itself, in a time that has to do with itself only. A
    /// buffer that waits for a packet or a key is not.
    #[must_use]
    pub fn answers_each_request(&self) -> bool {
        self.id == 2
    }

    /// What of the configuration the user may set while the machine runs, so that it may be another after any back end
    /// that announces such changes, or would have: `status` of a network, `capacity` of a disk, `cols` and `rows` of a
    /// console, `num_pages` of a balloon, `requested_size` of memory to be plugged in, and `plugged_size`, which follows it
    /// (virtio 1.3, 5.1.4, 5.2.4, 5.3.4, 5.5.4, 5.15.4).
    fn settings(&self) -> Range<usize> {
        match self.id {
            1 => 6..8,
            2 => 0..8,
            3 | 5 => 0..4,
            MEM => 40..56,
            _ => 0..0,
        }
    }

    /// Makes `old` say what `new` says where the user may have set something else.
    ///
    /// A disk may have become larger, and not smaller: what a driver has there may lie at its end, and a disk without that
    /// is another one, to which nobody must write what was meant for the first.
    pub fn excuse_settings(&self, old: &mut [u8], new: &[u8]) {
        let settings = self.settings();
        if let (Some(old), Some(new)) = (old.get_mut(settings.clone()), new.get(settings)) {
            // Little-endian: the last byte counts most.
            if self.id != DISK || new.iter().rev().ge(old.iter().rev()) {
                old.copy_from_slice(new);
            }
        }
    }

    /// Makes a configuration of the back end say what is not the back end's to say: how many queues this transport has, and
    /// where the core has mapped memory.
    pub fn correct(&self, config: &mut [u8], queues: u16) {
        let bytes = self.queue_count_at.and_then(|at| config.get_mut(at..)).unwrap_or_default();
        if let Some(count) = bytes.first_chunk_mut() {
            *count = queues.to_le_bytes();
        }
        let Some(MemoryRegion { guest_phys, size }) = self.memory else { return };
        let (at, words) =
            if self.id == MEM { (16, &[guest_phys, size, size][..]) } else { (0, &[guest_phys, size][..]) };
        let end = words.len().saturating_mul(8).saturating_add(at);
        for (place, word) in config.get_mut(at..end).into_iter().flat_map(|all| all.chunks_mut(8)).zip(words)
        {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_outside_the_pci_range_are_refused() {
        assert_eq!(DeviceType::new(0), None);
        assert_eq!(DeviceType::new(64), None);
        assert!((1..64).all(|id| DeviceType::new(id).is_some_and(|kind| kind.id == id)));
    }

    #[test]
    fn a_driver_is_not_offered_a_control_queue_that_nobody_serves() {
        let net = DeviceType::new(1).unwrap();
        // CTRL_GUEST_OFFLOADS, CTRL_VQ to CTRL_MAC_ADDR, VQ_NOTF_COAL, NOTF_COAL, HASH_REPORT, RSS.
        for bit in [2, 17, 18, 19, 20, 21, 22, 23, 52, 53, 57, 60] {
            assert_eq!(net.features & 1 << bit, 0, "{bit}");
        }
        // CSUM, MAC, MRG_RXBUF, STATUS, and the segmentation of UDP, which is beyond the first 24.
        for bit in [0, 5, 15, 16, 54, 55, 56] {
            assert_ne!(net.features & 1 << bit, 0, "{bit}");
        }
        assert!(!net.answers_each_request(), "a receive buffer waits for a frame");
        // A back end that is asked to serve it may offer it, and what is done with it and no more.
        for (queues, bits) in [
            (0, 0),
            (1, 0),
            (2, 0),
            (4, 0),
            (3, 1 << 2 | 1 << 17 | 1 << 22),
            (33, 1 << 2 | 1 << 17 | 1 << 22),
        ] {
            let kind = net.with_control_queue(queues);
            assert_eq!(kind.features & !net.features, bits, "{queues}");
        }
        let blk = DeviceType::new(2).unwrap();
        assert_eq!(blk.with_control_queue(3), blk);
    }

    #[test]
    fn what_the_user_may_set_may_differ_and_nothing_else() {
        let (old, new) = ([1; 60], [2; 60]);
        for (id, same) in [(1, 6..8), (2, 0..8), (3, 0..4), (5, 0..4), (MEM, 40..56), (26, 0..0)] {
            let mut excused = old;
            DeviceType::new(id).unwrap().excuse_settings(&mut excused, &new);
            assert!((0..60).all(|at| (excused[at] == 2) == same.contains(&at)), "{id}: {excused:?}");
        }
        DeviceType::new(5).unwrap().excuse_settings(&mut [], &[]);
    }

    #[test]
    fn a_disk_may_have_grown_and_not_shrunk() {
        let disk = DeviceType::new(DISK).unwrap();
        for (old, new, fine) in [
            (0x1_0000_u64, 0x1_0000_u64, true),
            (0x1_0000, 0x1_0001, true),
            (0xFF, 0x100, true),
            (0x100, 0xFF, false),
            (1, u64::MAX, true),
            (u64::MAX, u64::MAX - 1, false),
            (0x0200_0000_0000_0000, 0x01FF_FFFF_FFFF_FFFF, false),
        ] {
            let mut excused = [old.to_le_bytes(), [7; 8]].concat();
            disk.excuse_settings(&mut excused, &[new.to_le_bytes(), [8; 8]].concat());
            let expected = if fine { new } else { old };
            assert_eq!(excused, [expected.to_le_bytes(), [7; 8]].concat(), "{old:#x} {new:#x}");
        }
    }

    #[test]
    fn the_queue_count_is_ours() {
        let blk = DeviceType::new(2).unwrap();
        let mut config = vec![0xEE; 60];
        blk.correct(&mut config, 3);
        assert_eq!(config[33..37], [0xEE, 3, 0, 0xEE]);
        let mut short = vec![0xEE; 35];
        blk.correct(&mut short, 3);
        assert_eq!(short, [0xEE; 35]);
    }

    #[test]
    fn where_memory_lies_is_not_a_back_ends_to_say() {
        let region = MemoryRegion { guest_phys: 0x0807_0605_0403_0201, size: 0x1000 };
        let pmem = DeviceType { memory: Some(region), ..DeviceType::new(27).unwrap() };
        let mut config = vec![0xEE; 16];
        pmem.correct(&mut config, 1);
        assert_eq!(config, [1, 2, 3, 4, 5, 6, 7, 8, 0, 16, 0, 0, 0, 0, 0, 0]);
        let mut short = vec![0xEE; 15];
        pmem.correct(&mut short, 1);
        assert_eq!(short, [0xEE; 15]);
        let mem = DeviceType { memory: Some(region), ..DeviceType::new(MEM).unwrap() };
        let mut config = vec![0xEE; 56];
        mem.correct(&mut config, 1);
        let size = [0, 16, 0, 0, 0, 0, 0, 0];
        assert_eq!(config, [&[0xEE; 16][..], &[1, 2, 3, 4, 5, 6, 7, 8], &size, &size, &[0xEE; 16]].concat());
    }
}
