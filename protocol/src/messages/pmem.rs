//! What a device of persistent memory and the core are told of it.

use bincode::{Decode, Encode};

use super::within;
use crate::{Error, MemoryRegion, limits};

/// A file that is memory of the guest. The device's resource is that file, only to be flushed; the core's, with the
/// socket, the file to be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct PmemOptions {
    /// Where it lies in the guest, and how many bytes of the file, from its start, are in it. Both are multiples of
    /// [`limits::PMEM_ALIGNMENT`].
    pub region: MemoryRegion,
    /// Nothing can be written.
    pub readonly: bool,
}

impl PmemOptions {
    pub(super) fn check(&self) -> Result<(), Error> {
        let MemoryRegion { guest_phys, size } = self.region;
        let aligned = |value: u64| if value.is_multiple_of(limits::PMEM_ALIGNMENT) { value } else { 0 };
        let least = limits::PMEM_ALIGNMENT;
        let (what, form) = ("size of persistent memory", "a multiple of 2 MiB");
        within(what, aligned(size), least, u64::MAX, form)?;
        // Behind RAM, and so never at zero.
        let most = u64::MAX.saturating_sub(size);
        within("address of persistent memory", aligned(guest_phys), least, most, form)
    }
}
