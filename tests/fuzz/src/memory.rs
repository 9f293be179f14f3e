//! Guest memory for the targets, as the launcher makes it: sealed memfds. `None` where the host has none to give, which is
//! nobody's finding.

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use protocol::memory_layout;
use std::fs::File;
use vmm_core::GuestMemory;

/// A file without a name.
pub fn file() -> Option<File> {
    memfd_create("fuzz", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).ok().map(File::from)
}

/// A memfd of `size` bytes that nobody can make another size.
pub fn sealed(size: u64) -> Option<File> {
    let file = file()?;
    file.set_len(size).ok()?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).ok()?;
    Some(file)
}

/// Guest memory of `size` bytes as the core maps it.
pub fn of_core(size: u64) -> Option<GuestMemory> {
    let regions = memory_layout::regions(size);
    let memfds = regions.iter().map(|region| sealed(region.size).map(Into::into));
    vmm_core::guest_memory::map(&regions, memfds.collect::<Option<Vec<_>>>()?).ok()
}
