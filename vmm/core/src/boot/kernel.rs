//! Loads a checked kernel image into guest memory.

use super::image::{self, Image};
use crate::{Error, GuestMemory, guest_memory};
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{Error as LoaderError, KernelLoader};
use protocol::limits;
use std::fs::File;
use std::os::unix::fs::FileExt;
use vm_memory::GuestAddress;

/// Offset of the 64-bit entry in the protected-mode part of a bzImage.
const BZIMAGE_ENTRY_64: u64 = 0x200;
/// An initrd may lie anywhere below 4 GiB; `boot_params` and the page tables reach that far.
const ANYWHERE: u64 = 1 << 32;

/// How and where the boot processor starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// 32-bit protected mode, `ebx` pointing to `hvm_start_info`.
    Pvh {
        /// Guest-physical address of the first instruction.
        address: u64,
    },
    /// 64-bit mode, `rsi` pointing to `boot_params`.
    Linux64 {
        /// Guest-physical address of the first instruction.
        address: u64,
    },
}

/// A kernel in guest memory.
#[derive(Debug)]
pub struct Kernel {
    /// Its way in.
    pub entry: Entry,
    /// End of the memory that it needs before it manages memory itself.
    pub end: u64,
    /// End of the memory in which its initrd may lie.
    pub initrd_end_max: u64,
    /// Bytes of command line that it takes, without the terminating zero.
    pub command_line_max: usize,
    /// The setup header of a bzImage.
    pub setup_header: Option<setup_header>,
}

/// Checks and loads an image.
///
/// # Errors
/// See [`image::check`]; also a kernel that needs more memory than there is below the hole.
pub fn load(memory: &GuestMemory, mut file: File) -> Result<Kernel, Error> {
    let size = file.metadata().map_err(read_error)?.len();
    let head = read_head(&file)?;
    let image = image::check(&head, size)?;
    let available = guest_memory::regions(memory).first().map_or(0, |region| region.size);
    let end = match image {
        Image::BzImage(bzimage) => bzimage.end,
        Image::Elf { end } => end,
    };
    if end > available {
        return Err(Error::KernelTooBig { end, available });
    }
    match image {
        Image::BzImage(bzimage) => load_bzimage(memory, &mut file, &bzimage),
        Image::Elf { end } => load_elf(memory, &mut file, end),
    }
}

fn load_bzimage(memory: &GuestMemory, file: &mut File, image: &image::BzImage) -> Result<Kernel, Error> {
    let loaded = BzImage::load(memory, Some(GuestAddress(image.load)), file, None)
        .map_err(|error| unusable(&error))?;
    Ok(Kernel {
        entry: Entry::Linux64 { address: image.load.saturating_add(BZIMAGE_ENTRY_64) },
        end: image.end,
        initrd_end_max: image.initrd_end_max,
        command_line_max: image.command_line_max.min(limits::MAX_COMMAND_LINE),
        setup_header: loaded.setup_header,
    })
}

fn load_elf(memory: &GuestMemory, file: &mut File, end: u64) -> Result<Kernel, Error> {
    let loaded = Elf::load(memory, None, file, None).map_err(|error| unusable(&error))?;
    let entry = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(address) => Entry::Pvh { address: address.0 },
        _ => Entry::Linux64 { address: loaded.kernel_load.0 },
    };
    Ok(Kernel {
        entry,
        end,
        initrd_end_max: ANYWHERE,
        command_line_max: limits::MAX_COMMAND_LINE,
        setup_header: None,
    })
}

fn read_head(file: &File) -> Result<Vec<u8>, Error> {
    let mut head = vec![0; image::HEAD];
    let mut filled = 0usize;
    while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, filled as u64).map_err(read_error)? {
            0 => break,
            count => filled = filled.saturating_add(count),
        }
    }
    head.truncate(filled);
    Ok(head)
}

fn read_error(error: std::io::Error) -> Error {
    Error::KernelRead(error.to_string())
}

fn unusable(error: &LoaderError) -> Error {
    Error::KernelUnusable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest_memory::tests::guest;
    use std::io::Write;
    use vm_memory::Bytes;

    /// A file without a name.
    fn file(bytes: &[u8]) -> File {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let mut file = File::from(nix::sys::memfd::memfd_create("image", flags).unwrap());
        file.write_all(bytes).unwrap();
        file
    }

    fn elf_with_pvh_note() -> Vec<u8> {
        let mut image = vec![0; 0x200];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7FELF\x02\x01\x01");
        put(0x12, &62u16.to_le_bytes());
        put(0x18, &0x20_0000u64.to_le_bytes());
        put(0x20, &64u64.to_le_bytes());
        put(0x36, &56u16.to_le_bytes());
        put(0x38, &2u16.to_le_bytes());
        let mut segment = |at: usize, kind: u32, offset: u64, size: u64| {
            put(at, &kind.to_le_bytes());
            put(at + 8, &offset.to_le_bytes());
            put(at + 24, &0x20_0000u64.to_le_bytes());
            put(at + 32, &size.to_le_bytes());
            put(at + 40, &size.to_le_bytes());
        };
        segment(64, 1, 0x100, 0x10);
        segment(120, 4, 0x180, 20);
        put(0x100, b"instructions here");
        put(0x180, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
        put(0x18C, b"Xen\0");
        put(0x190, &0x20_0008u32.to_le_bytes());
        image
    }

    #[test]
    fn the_pvh_entry_is_preferred() {
        let memory = guest(16 << 20);
        let kernel = load(&memory, file(&elf_with_pvh_note())).unwrap();
        assert_eq!(kernel.entry, Entry::Pvh { address: 0x20_0008 });
        assert_eq!(kernel.end, 0x20_0010);
        let mut seen = [0; 12];
        memory.read_slice(&mut seen, GuestAddress(0x20_0000)).unwrap();
        assert_eq!(&seen, b"instructions");
    }

    #[test]
    fn without_the_note_it_is_the_64_bit_entry() {
        let mut image = elf_with_pvh_note();
        image[0x188] = 17;
        let kernel = load(&guest(16 << 20), file(&image)).unwrap();
        assert_eq!(kernel.entry, Entry::Linux64 { address: 0x20_0000 });
    }

    #[test]
    fn a_kernel_larger_than_memory_is_told_apart() {
        let error = load(&guest(2 << 20), file(&elf_with_pvh_note())).unwrap_err();
        assert!(matches!(error, Error::KernelTooBig { end: 0x20_0010, available: 0x20_0000 }), "{error}");
    }

    #[test]
    fn what_is_no_kernel_touches_no_memory() {
        let error = load(&guest(1 << 20), file(b"nothing of the kind")).unwrap_err();
        assert_eq!(error.kind(), protocol::FailureKind::Kernel);
    }
}
