//! What kind of kernel image a file is and whether its headers keep to what the file has: pure, over the
//! file's first bytes and its size. `linux-loader` does the loading; it is given only what passed here,
//! since it reports little of why an image is unusable and does not look where segments go.

use super::layout;
use crate::Error;

/// Bytes of the file's head that the checks want (fewer if the file has fewer).
pub const HEAD: usize = 4096;

/// A checked image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// A bzImage (Documentation/arch/x86/boot.rst).
    BzImage(BzImage),
    /// An x86-64 ELF executable, a vmlinux.
    Elf {
        /// End of the memory that its segments need.
        end: u64,
    },
}

/// What the setup header of a bzImage says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BzImage {
    /// Where it is to be loaded.
    pub load: u64,
    /// End of the memory that it needs to unpack and run.
    pub end: u64,
    /// End of the memory in which an initrd may lie.
    pub initrd_end_max: u64,
    /// Bytes of command line that it takes.
    pub command_line_max: usize,
}

/// Recognizes and checks an image by its first [`HEAD`] bytes and its size in bytes.
///
/// # Errors
/// No kernel, one that was cut off, or one that has no 64-bit entry.
pub fn check(head: &[u8], size: u64) -> Result<Image, Error> {
    if head.is_empty() {
        return Err(Error::NoKernel("the file is empty".to_owned()));
    }
    if head.starts_with(b"\x7FELF") {
        return check_elf(&Head(head), size);
    }
    if head.get(0x202..0x206) == Some(b"HdrS") {
        return check_bzimage(&Head(head), size).map(Image::BzImage);
    }
    let start = head.get(..4).unwrap_or(head);
    Err(Error::NoKernel(format!("it starts with {start:02x?} and has no `HdrS` at 0x202")))
}

fn check_bzimage(head: &Head<'_>, size: u64) -> Result<BzImage, Error> {
    let cut = Error::KernelTruncated { found: size, promised: 0x264 };
    let (Some(init_size), Some(preferred)) = (head.u32(0x260), head.u64(0x258)) else { return Err(cut) };
    let setup_sectors = match head.u8(0x1F1).unwrap_or(0) {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let paragraphs = u64::from(head.u32(0x1F4).unwrap_or(0));
    let setup = setup_sectors.saturating_add(1).saturating_mul(512);
    let promised = setup.saturating_add(paragraphs.saturating_mul(16));
    if size < promised || paragraphs == 0 {
        return Err(Error::KernelTruncated { found: size, promised });
    }
    let version = head.u16(0x206).unwrap_or(0);
    let (loaded_high, entry_64) = (head.u8(0x211).unwrap_or(0) & 1, head.u16(0x236).unwrap_or(0) & 1);
    if version < 0x020C || loaded_high == 0 || entry_64 == 0 {
        let (major, minor) = (version >> 8, version & 0xFF);
        return Err(Error::KernelUnusable(format!(
            "boot protocol {major}.{minor:02}, 64-bit entry {}: an x86-64 kernel of Linux 3.8 or later is needed",
            if entry_64 == 0 { "absent" } else { "present" }
        )));
    }
    let load = u64::from(head.u32(0x214).unwrap_or(0));
    if load < layout::HIGH_MEMORY {
        return Err(Error::KernelUnusable(format!("it asks to be loaded at {load:#x}, below 1 MiB")));
    }
    // The decompressor moves itself up to the preferred address and needs `init_size` bytes from there.
    let runs_at = if head.u8(0x234) == Some(0) { preferred } else { preferred.max(load) };
    let file_end = load.saturating_add(size.saturating_sub(setup));
    Ok(BzImage {
        load,
        end: runs_at.saturating_add(u64::from(init_size)).max(file_end),
        initrd_end_max: u64::from(head.u32(0x22C).unwrap_or(0)).saturating_add(1),
        command_line_max: usize::try_from(head.u32(0x238).unwrap_or(0)).unwrap_or(0),
    })
}

fn check_elf(head: &Head<'_>, size: u64) -> Result<Image, Error> {
    let cut = |promised| Error::KernelTruncated { found: size, promised };
    let (Some(entry), Some(table), Some(entry_size), Some(count)) =
        (head.u64(0x18), head.u64(0x20), head.u16(0x36), head.u16(0x38))
    else {
        return Err(cut(0x40));
    };
    const CLASS_64_LITTLE_ENDIAN: u16 = 0x0102;
    const MACHINE_X86_64: u16 = 62;
    const PROGRAM_HEADER: u64 = 56;
    if head.u16(4) != Some(CLASS_64_LITTLE_ENDIAN) || head.u16(0x12) != Some(MACHINE_X86_64) {
        return Err(Error::NoKernel("the ELF file is not for x86-64".to_owned()));
    }
    if u64::from(entry_size) != PROGRAM_HEADER || count == 0 {
        return Err(Error::NoKernel("the ELF file has no segments to load".to_owned()));
    }
    let mut end = 0;
    for index in 0..u64::from(count) {
        let at = table.saturating_add(index.saturating_mul(PROGRAM_HEADER));
        let segment = head.segment(at).ok_or_else(|| {
            let promised = at.saturating_add(PROGRAM_HEADER);
            let far = "its program headers do not follow its header";
            if promised > size { cut(promised) } else { Error::KernelUnusable(far.to_owned()) }
        })?;
        end = end.max(check_segment(&segment, size)?);
    }
    if end == 0 || entry == 0 {
        return Err(Error::NoKernel("the ELF file has no segments to load or no entry".to_owned()));
    }
    Ok(Image::Elf { end })
}

/// The end of the memory that a segment needs, 0 if it is not one to load.
fn check_segment(segment: &Segment, size: u64) -> Result<u64, Error> {
    const LOAD: u32 = 1;
    const NOTE: u32 = 4;
    if segment.kind != LOAD && segment.kind != NOTE {
        return Ok(0);
    }
    match segment.offset.checked_add(segment.in_file) {
        Some(promised) if promised <= size => {}
        promised => {
            return Err(Error::KernelTruncated { found: size, promised: promised.unwrap_or(u64::MAX) });
        }
    }
    if segment.kind == NOTE || segment.in_memory == 0 {
        return Ok(0);
    }
    if segment.in_memory < segment.in_file || segment.address < layout::HIGH_MEMORY {
        return Err(Error::KernelUnusable(format!(
            "a segment of {:#x} bytes ({:#x} in the file) goes to {:#x}",
            segment.in_memory, segment.in_file, segment.address
        )));
    }
    Ok(segment.address.saturating_add(segment.in_memory))
}

struct Segment {
    kind: u32,
    offset: u64,
    /// Physical address.
    address: u64,
    in_file: u64,
    in_memory: u64,
}

/// The file's first bytes; reads past them give nothing.
struct Head<'a>(&'a [u8]);

impl Head<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn u8(&self, at: usize) -> Option<u8> {
        self.bytes(at).map(u8::from_le_bytes)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }

    fn segment(&self, at: u64) -> Option<Segment> {
        let at = usize::try_from(at).ok()?;
        let field = |offset: usize| self.u64(at.checked_add(offset)?);
        Some(Segment {
            kind: self.u32(at)?,
            offset: field(8)?,
            address: field(24)?,
            in_file: field(32)?,
            in_memory: field(40)?,
        })
    }
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
