//! Persistent memory: files of the host that are memory of the guest (virtio 1.2, 5.19). The guest reads and writes them
//! without an exit; only its flushes go to a device.
//!
//! Invariants: each region is where [`protocol::memory_layout`] says and as large as the device's back end is told; it is
//! mapped before the guest runs and as long as the VM is there, for writing only if it was given for writing; and nothing
//! in this process reads or writes it. Its file, unlike guest RAM's, can be shortened by others at any time, or be without
//! room on its file system for what the guest wrote: a touch of what is not there is an error of KVM's, which
//! [`PersistentMemory::lost`] makes a clear end of, while a touch by this process would be its death. So these regions are
//! not part of [`crate::GuestMemory`], and no back end is told of them: a device that is asked to read or write there
//! answers with an error, as for any address that is no memory.

use crate::Error;
use crate::kernel_memory::{self, SharedMapping};
use kvm_ioctls::{Cap, Kvm, VmFd};
use protocol::{MemoryRegion, PmemOptions, memory_layout};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::OwnedFd;

/// One device's.
#[derive(Debug)]
pub struct Persistent {
    /// The device's name.
    name: String,
    options: PmemOptions,
    mapping: SharedMapping,
}

/// All devices'.
#[derive(Debug, Default)]
pub struct PersistentMemory(Vec<Persistent>);

impl PersistentMemory {
    /// Maps each file, in the order of the devices, in a machine whose RAM is `ram`. What is kept of the files is their
    /// mappings.
    ///
    /// # Errors
    /// A region that is not the layout's, a file that is smaller than its region, a mapping that the kernel refuses.
    pub fn map(
        files: impl IntoIterator<Item = (String, PmemOptions, OwnedFd)>,
        ram: &[MemoryRegion],
    ) -> Result<Self, Error> {
        let all = files.into_iter().map(Persistent::map).collect::<Result<Vec<_>, _>>()?;
        let all = Self(all);
        // The launcher places them by the same function; anything else is a launcher of another mind.
        if !all.0.iter().map(|one| one.options.region).eq(memory_layout::persistent(ram, &all.sizes())) {
            return Err(Error::Layout("persistent memory is not where the layout has it".to_owned()));
        }
        Ok(all)
    }

    /// Makes each a memory slot of `vm`, from number `first` on. The caller keeps `self` as long as the VM.
    pub(crate) fn set_slots(&self, kvm: &Kvm, vm: &VmFd, first: u32) -> Result<(), Error> {
        if self.0.iter().any(|one| one.options.readonly) && !kvm.check_extension(Cap::ReadonlyMem) {
            return Err(Error::KvmCapabilities { names: "KVM_CAP_READONLY_MEM".to_owned() });
        }
        for (slot, one) in (first..).zip(&self.0) {
            kernel_memory::set_mapping_slot(vm, slot, one.options.region.guest_phys, &one.mapping)
                .map_err(Error::kvm("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }

    /// How large each is.
    #[must_use]
    pub fn sizes(&self) -> Vec<u64> {
        self.0.iter().map(|one| one.options.region.size).collect()
    }

    /// Where the last one ends; 0 if there is none.
    #[must_use]
    pub fn end(&self) -> u64 {
        let ends = self.0.iter().map(|one| one.options.region);
        ends.map(|region| region.guest_phys.saturating_add(region.size)).max().unwrap_or(0)
    }

    /// What the guest's access to `address`, which KVM could not make, means: that what should be there is not. None for
    /// what is no persistent memory, and for a write to memory that is for reading only, which goes nowhere.
    #[must_use]
    pub fn lost(&self, address: u64, write: bool) -> Option<Error> {
        let region = |one: &&Persistent| {
            let MemoryRegion { guest_phys, size } = one.options.region;
            address.checked_sub(guest_phys).is_some_and(|offset| offset < size)
        };
        let one = self.0.iter().find(region)?;
        let offset = address.saturating_sub(one.options.region.guest_phys);
        (!write || !one.options.readonly)
            .then(|| Error::Lost { names: one.name.clone(), at: format!(" at byte {offset:#x}") })
    }

    /// What an access means that KVM could not make, and did not say where, as older kernels do not. None if there is
    /// no persistent memory, and so nothing that could be lost.
    #[must_use]
    pub fn lost_somewhere(&self) -> Option<Error> {
        let names: Vec<&str> = self.0.iter().map(|one| one.name.as_str()).collect();
        (!names.is_empty()).then(|| Error::Lost { names: names.join(" or "), at: String::new() })
    }
}

impl Persistent {
    fn map((name, options, fd): (String, PmemOptions, OwnedFd)) -> Result<Self, Error> {
        let PmemOptions { region, readonly } = options;
        let mut file = File::from(fd);
        // By seeking, which tells a block device's size, too.
        let found = file.seek(SeekFrom::End(0)).map_err(Error::io("lseek"))?;
        let size = usize::try_from(region.size).ok().filter(|_| found >= region.size);
        let size = size.ok_or_else(|| {
            let problem = format!("of {name} has {found} bytes, the device {}", region.size);
            Error::Descriptor { what: "the file", problem }
        })?;
        let mapping = SharedMapping::new(&file, size, !readonly).map_err(|errno| Error::Map {
            guest_phys: region.guest_phys,
            size: region.size,
            problem: format!("{name}: {errno}"),
        })?;
        Ok(Self { name, options, mapping })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 2 << 20;

    fn file(size: u64) -> OwnedFd {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        file.into()
    }

    fn mapped(files: Vec<(bool, OwnedFd)>) -> Result<PersistentMemory, Error> {
        let ram = memory_layout::regions(128 << 20);
        let sizes = vec![SIZE; files.len()];
        let regions = memory_layout::persistent(&ram, &sizes);
        let named = files.into_iter().zip(regions).enumerate();
        let named = named.map(|(number, ((readonly, fd), region))| {
            (format!("pmem{number}"), PmemOptions { region, readonly }, fd)
        });
        PersistentMemory::map(named.collect::<Vec<_>>(), &ram)
    }

    #[test]
    fn a_file_is_as_large_as_its_region_and_where_the_layout_has_it() {
        let error = mapped(vec![(false, file(SIZE)), (true, file(SIZE - 1))]).unwrap_err().to_string();
        assert!(error.contains("pmem1 has 2097151 bytes, the device 2097152"), "{error}");
        let region = MemoryRegion { guest_phys: 21 << 30, size: SIZE };
        let strange = [("pmem0".to_owned(), PmemOptions { region, readonly: false }, file(SIZE))];
        let ram = memory_layout::regions(128 << 20);
        assert!(matches!(PersistentMemory::map(strange, &ram), Err(Error::Layout(_))));
        assert_eq!(PersistentMemory::default().end(), 0);
        assert_eq!(
            mapped(vec![(false, file(SIZE)), (true, file(2 * SIZE))]).unwrap().end(),
            (21 << 30) + SIZE
        );
    }

    #[test]
    fn what_is_for_reading_needs_a_file_for_reading_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        File::create(&path).unwrap().set_len(SIZE).unwrap();
        let reader = || OwnedFd::from(File::open(&path).unwrap());
        assert!(mapped(vec![(true, reader())]).is_ok());
        assert!(matches!(mapped(vec![(false, reader())]), Err(Error::Map { .. })));
    }

    #[test]
    fn an_access_that_fails_is_told_of_the_device_that_it_hit() {
        let memory = mapped(vec![(false, file(SIZE)), (true, file(SIZE))]).unwrap();
        let lost = |address, write| memory.lost(address, write).map(|error| error.to_string());
        let said = lost((20 << 30) + 0x1234, true).unwrap();
        assert!(said.starts_with("pmem0: ") && said.contains("at byte 0x1234"), "{said}");
        assert!(lost(21 << 30, false).unwrap().starts_with("pmem1: "));
        assert_eq!(lost(21 << 30, true), None, "a write to what can be read only");
        assert_eq!((lost((20 << 30) + SIZE, true), lost(0x1000, false)), (None, None));
        assert!(memory.lost_somewhere().unwrap().to_string().starts_with("pmem0 or pmem1: "));
        assert!(PersistentMemory::default().lost_somewhere().is_none());
    }
}
