//! The file of persistent memory, opened twice: for the core, which maps it, with the rights that the guest gets, and for
//! device-pmem for reading, which is enough to have it flushed and too little to change it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use protocol::{MemoryRegion, PmemOptions, limits};

use super::disk::Wanted;
use super::{refuse, wrong};
use crate::device::Pmem;
use crate::error::Error;
use crate::exit_code::Code;

/// Persistent memory that is open.
#[derive(Debug)]
pub struct OpenPmem {
    /// To be mapped: has the claim, which lasts as long as the mapping.
    pub memory: OwnedFd,
    /// To be flushed.
    pub flushed: OwnedFd,
    /// What core and program are told. Where it lies is not known before all of them are open.
    pub options: PmemOptions,
}

/// A file or block device, checked, and claimed unless the user said `lock=off`.
pub fn persistent_memory(pmem: &Pmem) -> Result<OpenPmem, Error> {
    let path = pmem.path.as_path();
    let what = if pmem.readonly { "open persistent memory for reading" } else { "open persistent memory" };
    let refused = |text: &str| refuse(what, path, text, Code::Resource);
    let io = |error: std::io::Error| wrong(what, path, &error, Code::Resource);
    let wanted = Wanted { what, path, readonly: pmem.readonly, direct: false, lock: pmem.lock };
    let (memory, found) = wanted.open()?;
    let flushed = File::open(path).map_err(io)?;
    let identity = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    if identity(&memory).map_err(io)? != identity(&flushed).map_err(io)? {
        return Err(refused("it was replaced while it was being opened"));
    }
    let size = size(pmem, found).map_err(|text| refused(&text))?;
    let options = PmemOptions { region: MemoryRegion { guest_phys: 0, size }, readonly: pmem.readonly };
    Ok(OpenPmem { memory: memory.into(), flushed: flushed.into(), options })
}

/// How much of a file of `found` bytes.
fn size(pmem: &Pmem, found: u64) -> Result<u64, String> {
    let step = limits::PMEM_ALIGNMENT;
    let path = pmem.path.display();
    match pmem.size.map(|size| size.0) {
        Some(size) if size > found => Err(format!(
            "it has {found} bytes, size= says {size}; make it larger with truncate -s {size} {path}"
        )),
        Some(size) => Ok(size),
        None if found == 0 => {
            Err(format!("it is empty; make it as large as the memory shall be, with truncate -s SIZE {path}"))
        }
        None if found.is_multiple_of(step) => Ok(found),
        None => {
            let larger = found.checked_next_multiple_of(step).unwrap_or(u64::MAX);
            let less = found.checked_div(step).unwrap_or(0).saturating_mul(2);
            let advice =
                if less > 0 { format!(", or give size={less}M for less of it") } else { String::new() };
            Err(format!(
                "its size of {found} bytes is not a multiple of 2M; make it so with truncate -s {larger} {path}{advice}"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::Size;
    use std::io::Write;
    use std::path::Path;

    fn pmem(path: &Path) -> Pmem {
        Pmem { path: path.to_owned(), size: None, readonly: false, lock: true }
    }

    fn refused(pmem: &Pmem) -> String {
        persistent_memory(pmem).unwrap_err().to_string()
    }

    #[test]
    fn sizes_are_whole_large_pages_and_what_is_wrong_says_how_to_mend_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let whole = pmem(file.path());
        assert!(refused(&whole).contains("it is empty"));
        let set = |size| file.as_file().set_len(size).unwrap();
        set(100);
        let said = refused(&whole);
        assert!(said.contains("truncate -s 2097152") && !said.contains("size="), "{said}");
        set((5 << 20) + 1);
        let said = refused(&whole);
        assert!(said.contains("truncate -s 6291456") && said.contains("size=4M"), "{said}");
        let part = |size| Pmem { size: Some(Size(size)), ..whole.clone() };
        assert!(refused(&part(6 << 20)).contains("truncate -s 6291456"));
        assert_eq!(persistent_memory(&part(4 << 20)).unwrap().options.region.size, 4 << 20);
        set(6 << 20);
        assert_eq!(persistent_memory(&whole).unwrap().options.region.size, 6 << 20);
    }

    #[test]
    fn readers_share_it_and_a_writer_has_it_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(2 << 20).unwrap();
        let writer = pmem(file.path());
        let reader = Pmem { readonly: true, ..writer.clone() };
        let first = persistent_memory(&reader).unwrap();
        assert!(persistent_memory(&reader).is_ok());
        assert!(refused(&writer).contains("another program uses it"));
        assert!(persistent_memory(&Pmem { lock: false, ..writer.clone() }).is_ok());
        drop(first);
        let only = persistent_memory(&writer).unwrap();
        assert!(refused(&reader).contains("another program uses it"));
        // The claim is that of what is mapped.
        drop(only.memory);
        assert!(persistent_memory(&reader).is_ok());
    }

    #[test]
    fn what_is_flushed_cannot_be_written_nor_what_the_guest_can_only_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(2 << 20).unwrap();
        let open = persistent_memory(&pmem(file.path())).unwrap();
        assert!(File::from(open.flushed).write(b"x").is_err());
        assert!(File::from(open.memory).write(b"x").is_ok());
        let open = persistent_memory(&Pmem { readonly: true, ..pmem(file.path()) }).unwrap();
        assert!(
            File::from(open.flushed).write(b"x").is_err() && File::from(open.memory).write(b"x").is_err()
        );
    }
}
