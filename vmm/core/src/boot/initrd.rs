//! The initial RAM disk: as high in low memory as the kernel allows, so that it is in nobody's way.

use super::kernel::Kernel;
use crate::{Error, GuestMemory, guest_memory};
use std::fs::File;
use vm_memory::{Bytes, GuestAddress};

const PAGE: u64 = 4096;

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initrd {
    /// Its guest-physical address, page-aligned.
    pub address: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// Loads it.
///
/// # Errors
/// It is empty, unreadable, or does not fit between the kernel's end and the end of low memory.
pub fn load(memory: &GuestMemory, mut file: File, kernel: &Kernel) -> Result<Initrd, Error> {
    let size = file.metadata().map_err(|error| Error::InitrdRead(error.to_string()))?.len();
    if size == 0 {
        return Err(Error::InitrdRead("it is empty".to_owned()));
    }
    let low_end = guest_memory::regions(memory).first().map_or(0, |region| region.size);
    let top = low_end.min(kernel.initrd_end_max);
    let address = place(size, kernel.end, top)?;
    let length = usize::try_from(size).map_err(|_| Error::InitrdRead("it is too large".to_owned()))?;
    memory
        .read_exact_volatile_from(GuestAddress(address), &mut file, length)
        .map_err(|error| Error::InitrdRead(error.to_string()))?;
    Ok(Initrd { address, size })
}

/// The highest page-aligned place for `size` bytes from `from` (the kernel's end) to `top`.
///
/// # Errors
/// There is none.
pub fn place(size: u64, from: u64, top: u64) -> Result<u64, Error> {
    let from = from.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
    let room = top.saturating_sub(from);
    match top.checked_sub(size).map(|address| address & !(PAGE.wrapping_sub(1))) {
        Some(address) if address >= from => Ok(address),
        _ => Err(Error::InitrdTooBig { size, room, from, to: top }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_to_the_top() {
        assert_eq!(place(1, 0x20_0000, 0x800_0000).unwrap(), 0x7FF_F000);
        assert_eq!(place(0x1000, 0x20_0000, 0x800_0000).unwrap(), 0x7FF_F000);
        assert_eq!(place(0x1001, 0x20_0000, 0x800_0000).unwrap(), 0x7FF_E000);
        assert_eq!(place(0x1000, 0x20_0000, 0x7FFF_FFFF).unwrap(), 0x7FFF_E000);
    }

    #[test]
    fn it_may_fill_the_room_and_not_more() {
        assert_eq!(place(0x60_0000, 0x20_0000, 0x80_0000).unwrap(), 0x20_0000);
        let error = place(0x60_0001, 0x20_0000, 0x80_0000).unwrap_err();
        assert!(
            matches!(
                error,
                Error::InitrdTooBig { size: 0x60_0001, room: 0x60_0000, from: 0x20_0000, to: 0x80_0000 }
            ),
            "{error:?}"
        );
        assert!(place(1, 0x1F_FFFF, 0x20_0000).is_err(), "the kernel's last page is not shared");
        assert!(place(u64::MAX, 0, 0x80_0000).is_err());
        assert!(place(1, u64::MAX, 0x80_0000).is_err());
        assert!(place(1, 0x80_0000, 0x20_0000).is_err());
    }
}
