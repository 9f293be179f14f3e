//! Guest memory: one sealed memfd per region of [`protocol::memory_layout`]. The launcher makes it and hands it on;
//! it never maps it.
//!
//! The seals: nobody who gets the descriptor can shrink it under another (SIGBUS), grow it, make it executable
//! where the kernel knows that seal, or add a seal that would keep a restarted device from mapping it.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::ftruncate;
use protocol::{MemoryRegion, memory_layout};

use crate::config::HugePages;
use crate::error::Error;
use crate::size::Size;

/// `MFD_NOEXEC_SEAL` (Linux 6.3), which nix does not name: mode 0666 and `F_SEAL_EXEC`.
const NOEXEC_SEAL: MFdFlags = MFdFlags::from_bits_retain(8);

/// A region and what backs it.
#[derive(Debug)]
pub struct Region {
    /// Where the guest sees it, and its size.
    pub region: MemoryRegion,
    /// Its sealed memfd.
    pub fd: OwnedFd,
}

/// Makes `size` of guest memory.
pub fn create(size: Size, huge_pages: HugePages) -> Result<Vec<Region>, Error> {
    let regions = memory_layout::regions(size.0).into_iter();
    regions.map(|region| Ok(Region { fd: create_region(region.size, huge_pages)?, region })).collect()
}

/// One of its regions, or as much of another kind.
pub fn create_region(size: u64, huge_pages: HugePages) -> Result<OwnedFd, Error> {
    let failed = |call: &'static str| {
        let advice = match huge_pages {
            HugePages::Off => "give the guest less --memory",
            _ => "reserve huge pages of that size (sysctl vm.nr_hugepages), or leave out --hugepages",
        };
        move |errno| Error::GuestMemory { size: Size(size), call, errno, advice }
    };
    let length = i64::try_from(size).map_err(|_| failed("ftruncate")(Errno::EFBIG))?;
    let fd = memfd("guest-memory", pages(huge_pages)).map_err(failed("memfd_create"))?;
    ftruncate(&fd, length).map_err(failed("ftruncate"))?;
    if huge_pages != HugePages::Off {
        // Taken from the host's pool now: a page that is missing later would be a SIGBUS in the core.
        fallocate(&fd, FallocateFlags::empty(), 0, length).map_err(failed("fallocate"))?;
    }
    seal(&fd).map_err(failed("F_ADD_SEALS"))?;
    Ok(fd)
}

fn pages(huge_pages: HugePages) -> MFdFlags {
    match huge_pages {
        HugePages::Off => MFdFlags::empty(),
        HugePages::Default => MFdFlags::MFD_HUGETLB,
        HugePages::Mib2 => MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB,
        HugePages::Gib1 => MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_1GB,
    }
}

/// A memfd that is not executable, of no size yet.
pub fn memfd(name: &'static str, pages: MFdFlags) -> Result<OwnedFd, Errno> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | pages;
    match memfd_create(name, flags | NOEXEC_SEAL) {
        // Before Linux 6.3 the mode can be taken but not sealed; the policies refuse PROT_EXEC and execveat anyway.
        Err(Errno::EINVAL) => {
            let fd = memfd_create(name, flags)?;
            fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
            Ok(fd)
        }
        made => made,
    }
}

/// At the size that it has.
pub fn seal(fd: &OwnedFd) -> Result<(), Errno> {
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn each_region_is_sealed_and_of_its_size_and_not_executable() {
        let regions = create(Size(4 << 30), HugePages::Off).unwrap();
        let sizes: Vec<u64> = regions.iter().map(|region| region.region.size).collect();
        assert_eq!(sizes, [3 << 30, 1 << 30]);
        for Region { region, fd } in regions {
            assert!(ftruncate(&fd, 4096).is_err(), "shrunk");
            assert!(ftruncate(&fd, i64::try_from(region.size).unwrap() + 4096).is_err(), "grown");
            assert!(fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_FUTURE_WRITE)).is_err(), "seal added");
            let metadata = std::fs::File::from(fd).metadata().unwrap();
            assert_eq!(metadata.len(), region.size);
            assert_eq!(metadata.mode() & 0o111, 0, "mode {:o}", metadata.mode());
        }
    }
}
