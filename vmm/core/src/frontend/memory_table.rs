//! Guest memory as a back end is told of it (vhost-user, SET_MEM_TABLE): regions with their memfds, and user addresses
//! that are no addresses of this process. It is also the front end's one way to look into guest memory.

use crate::virtio_pci::Ring;
use crate::{Error, GuestMemory};
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vhost::vhost_user::message::{VhostUserMemory, VhostUserMemoryRegion};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// A user address is the guest-physical address plus this. No processor has an address like it: nothing of this
/// process's layout leaks, and a translation that was forgotten fails at the first touch.
pub const USER_ADDRESS_OFFSET: u64 = 1 << 60;

/// Bytes of an available or used ring in front of its index (`struct virtq_avail` and `struct virtq_used`, virtio 1.3,
/// 2.7.6 and 2.7.8).
const INDEX: u64 = 2;

/// One region.
#[derive(Debug)]
struct SharedRegion {
    /// Its guest-physical address.
    guest_phys: u64,
    /// Its size in bytes.
    size: u64,
    /// Its sealed memfd.
    file: Arc<File>,
    /// Where in the memfd it starts.
    offset: u64,
}

/// All regions.
#[derive(Debug)]
pub struct MemoryTable {
    regions: Vec<SharedRegion>,
    memory: GuestMemory,
}

impl MemoryTable {
    /// Of guest memory all of whose regions are backed by memfds.
    pub fn of(memory: &GuestMemory) -> Result<Self, Error> {
        let region = |region: &vm_memory::GuestRegionMmap| {
            let backing =
                region.file_offset().ok_or_else(|| Error::Layout("a region has no memfd".into()))?;
            Ok(SharedRegion {
                guest_phys: region.start_addr().0,
                size: region.len(),
                file: Arc::clone(backing.arc()),
                offset: backing.start(),
            })
        };
        let regions = memory.iter().map(region).collect::<Result<_, Error>>()?;
        Ok(Self { regions, memory: memory.clone() })
    }

    /// `(guest-physical address, size)` of each region.
    #[must_use]
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        self.regions.iter().map(|region| (region.guest_phys, region.size)).collect()
    }

    /// The body of SET_MEM_TABLE.
    pub(super) fn body(&self) -> Vec<u8> {
        let count = u32::try_from(self.regions.len()).unwrap_or(u32::MAX);
        let mut body = VhostUserMemory::new(count).as_slice().to_vec();
        for region in &self.regions {
            let user = region.guest_phys.wrapping_add(USER_ADDRESS_OFFSET);
            let entry = VhostUserMemoryRegion::new(region.guest_phys, region.size, user, region.offset);
            body.extend_from_slice(entry.as_slice());
        }
        body
    }

    /// The descriptors of SET_MEM_TABLE, in the same order.
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        self.regions.iter().map(|region| region.file.as_raw_fd()).collect()
    }

    /// The available index of a ring: how many requests the driver has made, modulo 2¹⁶.
    pub(super) fn available_index(&self, ring: &Ring) -> Option<u16> {
        self.index_of(ring.available)
    }

    /// The used index of a ring: how many of its requests have been given back, modulo 2¹⁶.
    pub(super) fn used_index(&self, ring: &Ring) -> Option<u16> {
        self.index_of(ring.used)
    }

    /// Guest and back end write what they like there; whoever uses it takes any value. One load of two bytes, of a ring
    /// that was checked to lie in guest memory; `None` if it does not.
    fn index_of(&self, part: u64) -> Option<u16> {
        let address = GuestAddress(part.checked_add(INDEX)?);
        self.memory.load(address, Ordering::Acquire).ok().map(u16::from_le)
    }
}
