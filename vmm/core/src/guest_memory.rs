//! Guest memory: the launcher's sealed memfds, mapped shared, readable and writable, never executable.
//!
//! Invariants: every region is one of [`protocol::memory_layout`]; behind it lies a memfd of exactly its
//! size whose size can no longer change (`F_SEAL_SHRINK`, `F_SEAL_GROW`) and that takes no further seal
//! (`F_SEAL_SEAL`), so neither the launcher nor a device can make an access fault. Guest memory stays out
//! of core dumps.

use crate::{Error, kernel_memory};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use protocol::{MemoryRegion, memory_layout};
use std::fs::File;
use std::os::fd::OwnedFd;
use vm_memory::{ByteValued, Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// Guest memory. Each region knows its memfd (`file_offset`), which is what a back end is sent.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;

/// Maps the regions of the hand-over, in its order.
///
/// # Errors
/// Regions that are not the layout's, a descriptor that is no memfd of that size or lacks a seal, a mapping
/// that the kernel refuses.
pub fn map(regions: &[MemoryRegion], memfds: Vec<OwnedFd>) -> Result<GuestMemory, Error> {
    check_layout(regions)?;
    map_regions(regions, memfds)
}

/// Maps regions that were checked to lie where they may.
pub(crate) fn map_regions(regions: &[MemoryRegion], memfds: Vec<OwnedFd>) -> Result<GuestMemory, Error> {
    if regions.len() != memfds.len() {
        return Err(Error::HandOver("there is not one memfd for each memory region"));
    }
    let mut ranges = Vec::with_capacity(regions.len());
    for (region, memfd) in regions.iter().zip(memfds) {
        let file = File::from(memfd);
        check_memfd(&file, region.size)?;
        let size = usize::try_from(region.size).map_err(|_| map_error(region, "too large"))?;
        ranges.push((GuestAddress(region.guest_phys), size, Some(FileOffset::new(file, 0))));
    }
    let memory = GuestMemory::from_ranges_with_files(&ranges)
        .map_err(|error| Error::Layout(format!("mapping it: {error}")))?;
    memory.iter().try_for_each(|region| {
        kernel_memory::keep_out_of_core_dumps(region)
            .map_err(|errno| Error::System { call: "madvise(MADV_DONTDUMP)", errno })
    })?;
    Ok(memory)
}

/// Guest-physical regions of `memory`, as the layout's functions take them.
#[must_use]
pub fn regions(memory: &GuestMemory) -> Vec<MemoryRegion> {
    memory
        .iter()
        .map(|region| MemoryRegion { guest_phys: region.start_addr().0, size: region.len() })
        .collect()
}

/// Writes one structure of the boot protocol or firmware.
pub(crate) fn write<T: ByteValued>(
    memory: &GuestMemory,
    what: &'static str,
    address: u64,
    value: &T,
) -> Result<(), Error> {
    write_bytes(memory, what, address, value.as_slice())
}

/// Writes bytes that nobody but us chose the place of.
pub(crate) fn write_bytes(
    memory: &GuestMemory,
    what: &'static str,
    address: u64,
    bytes: &[u8],
) -> Result<(), Error> {
    memory.write_slice(bytes, GuestAddress(address)).map_err(|error| Error::GuestWrite {
        what,
        address,
        problem: error.to_string(),
    })
}

/// The launcher makes its regions by the same function; anything else is a launcher of another mind.
fn check_layout(regions: &[MemoryRegion]) -> Result<(), Error> {
    let total = regions.iter().try_fold(0u64, |sum, region| sum.checked_add(region.size));
    match total {
        Some(total) if memory_layout::regions(total) == regions && total.is_multiple_of(4096) => Ok(()),
        _ => Err(Error::Layout(format!("the regions {regions:x?} are not those of the layout"))),
    }
}

fn check_memfd(file: &File, size: u64) -> Result<(), Error> {
    let what = "guest memory";
    let problem = |problem: String| Error::Descriptor { what, problem };
    let seals =
        fcntl(file, FcntlArg::F_GET_SEALS).map_err(|errno| problem(format!("is no memfd: {errno}")))?;
    let seals = SealFlag::from_bits_retain(seals);
    let needed = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    if !seals.contains(needed) {
        return Err(problem(format!("lacks the seals {:?}", needed.difference(seals))));
    }
    let found = file.metadata().map_err(Error::io("fstat"))?.len();
    if found != size {
        return Err(problem(format!("has {found} bytes, the region {size}")));
    }
    Ok(())
}

fn map_error(region: &MemoryRegion, problem: &str) -> Error {
    Error::Map { guest_phys: region.guest_phys, size: region.size, problem: problem.to_owned() }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};

    /// A sealed memfd as the launcher makes it.
    pub(crate) fn memfd(size: u64, seals: SealFlag) -> OwnedFd {
        let fd = memfd_create("guest", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        let file = File::from(fd);
        file.set_len(size).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        OwnedFd::from(file)
    }

    pub(crate) fn sealed() -> SealFlag {
        SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
    }

    /// Guest memory of `size` bytes for tests of this crate.
    pub(crate) fn guest(size: u64) -> GuestMemory {
        let regions = memory_layout::regions(size);
        let memfds = regions.iter().map(|region| memfd(region.size, sealed())).collect();
        map(&regions, memfds).unwrap()
    }

    #[test]
    fn memory_is_shared_with_its_memfd() {
        use std::os::unix::fs::FileExt;
        let memory = guest(1 << 20);
        memory.write_slice(b"seen", GuestAddress(0x1234)).unwrap();
        let region = memory.iter().next().unwrap();
        let mut seen = [0; 4];
        region.file_offset().unwrap().file().read_exact_at(&mut seen, 0x1234).unwrap();
        assert_eq!(&seen, b"seen");
    }

    #[test]
    fn every_seal_is_demanded() {
        let regions = memory_layout::regions(1 << 20);
        for missing in [SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW, SealFlag::F_SEAL_SEAL] {
            let fd = memfd(1 << 20, sealed().difference(missing));
            let error = map(&regions, vec![fd]).unwrap_err().to_string();
            assert!(error.contains("lacks the seals"), "{error}");
        }
    }

    #[test]
    fn sizes_and_kinds_are_checked() {
        let regions = memory_layout::regions(1 << 20);
        let error = map(&regions, vec![memfd(1 << 19, sealed())]).unwrap_err().to_string();
        assert!(error.contains("524288 bytes, the region 1048576"), "{error}");
        let null = OwnedFd::from(File::open("/dev/null").unwrap());
        assert!(map(&regions, vec![null]).unwrap_err().to_string().contains("no memfd"));
        assert!(map(&regions, vec![]).is_err());
    }

    #[test]
    fn regions_must_be_those_of_the_layout() {
        let strange = [MemoryRegion { guest_phys: 0x1000, size: 1 << 20 }];
        let error = map(&strange, vec![memfd(1 << 20, sealed())]).unwrap_err();
        assert_eq!(error.kind(), protocol::FailureKind::Memory);
    }
}
