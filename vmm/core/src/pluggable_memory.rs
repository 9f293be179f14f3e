//! Memory that the guest plugs in and out while it runs (virtio 1.2, 5.15): sealed memfds like those of its RAM, mapped like
//! it from the beginning, and told to every back end, so that devices read and write there; but in no memory map that the
//! guest boots with. Which blocks of it are plugged is between the driver and its device.
//!
//! One number of that is for this process: how much is plugged. A driver that reads it in the configuration relies on its
//! being what the last answered request made it, which no message of the back end's is in time for, and no vCPU waits for a
//! back end. So the device writes it to a page of its own before it answers, and it is read there whenever the driver looks.
//! Whoever has taken the device over can write any number there, as into any configuration: the driver is told that.

use crate::{Error, GuestMemory, guest_memory};
use protocol::{MemoryRegion, memory_layout};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use vm_memory::{Bytes, GuestAddress, GuestRegionCollectionError};

/// What the hand-over brings of one device's.
#[derive(Debug)]
pub struct Pluggable {
    /// The device's PCI device number.
    pub slot: u8,
    /// Where it lies.
    pub region: MemoryRegion,
    /// Its memfd.
    pub memfd: OwnedFd,
    /// The page with the number.
    pub plugged: OwnedFd,
}

/// How much of one device's is plugged, in bytes, by the device's word.
#[derive(Debug)]
pub struct PluggedSize(GuestMemory);

/// Bytes of the page.
const PAGE: u64 = 4096;

impl PluggedSize {
    /// Of a page that is sealed like guest memory.
    ///
    /// # Errors
    /// It is not, or of another size.
    pub fn map(page: OwnedFd) -> Result<Self, Error> {
        let region = MemoryRegion { guest_phys: 0, size: PAGE };
        guest_memory::map_regions(&[region], vec![page]).map(Self)
    }

    /// What is there now.
    #[must_use]
    pub fn load(&self) -> u64 {
        // The page is as large as it was: its first word is always there.
        self.0.load(GuestAddress(0), Ordering::Acquire).map_or(0, u64::from_le)
    }
}

/// `ram` and the memory of all these devices, which has to lie where the layout has it, behind persistent memory of these
/// sizes: what back ends and KVM are told of.
///
/// # Errors
/// Regions that are not the layout's, descriptors that are no sealed memfds of their size, a mapping that the kernel refuses.
pub fn with_pluggable(
    ram: &GuestMemory,
    persistent: &[u64],
    pluggable: Vec<(MemoryRegion, OwnedFd)>,
) -> Result<GuestMemory, Error> {
    let sizes: Vec<u64> =
        persistent.iter().copied().chain(pluggable.iter().map(|(region, _)| region.size)).collect();
    let layout = memory_layout::persistent(&guest_memory::regions(ram), &sizes);
    let (regions, memfds): (Vec<MemoryRegion>, Vec<OwnedFd>) = pluggable.into_iter().unzip();
    // The launcher places them by the same function; anything else is a launcher of another mind.
    if !regions.iter().eq(layout.iter().skip(persistent.len())) {
        return Err(Error::Layout("memory to be plugged in is not where the layout has it".to_owned()));
    }
    if regions.is_empty() {
        return Ok(ram.clone());
    }
    let mapped = guest_memory::map_regions(&regions, memfds)?;
    let wrong =
        |error: GuestRegionCollectionError| Error::Layout(format!("memory to be plugged in: {error}"));
    regions.iter().try_fold(ram.clone(), |all, region| {
        let (_, one) = mapped.remove_region(GuestAddress(region.guest_phys), region.size).map_err(wrong)?;
        all.insert_region(one).map_err(wrong)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest_memory::tests::{guest, memfd, sealed};
    use nix::fcntl::SealFlag;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    const SIZE: u64 = 4 << 20;
    /// What is persistent lies before it.
    const PERSISTENT: [u64; 1] = [2 << 20];

    fn region(number: u64) -> MemoryRegion {
        // Behind the window for BARs, with a GiB for each device.
        MemoryRegion { guest_phys: (21 + number) << 30, size: SIZE }
    }

    fn with(pluggable: Vec<(MemoryRegion, OwnedFd)>) -> Result<GuestMemory, Error> {
        with_pluggable(&guest(1 << 20), &PERSISTENT, pluggable)
    }

    #[test]
    fn it_lies_behind_all_other_memory_and_is_its_memfds() {
        let memfds = [0, 1].map(|_| memfd(SIZE, sealed()));
        let files = memfds.each_ref().map(|fd| File::from(fd.try_clone().unwrap()));
        let all = with([region(0), region(1)].into_iter().zip(memfds).collect()).unwrap();
        let ram = protocol::memory_layout::regions(1 << 20);
        assert_eq!(guest_memory::regions(&all), [&ram[..], &[region(0), region(1)]].concat());
        all.write_slice(b"first", GuestAddress(region(0).guest_phys + 0x1234)).unwrap();
        all.write_slice(b"other", GuestAddress(region(1).guest_phys + 0x1234)).unwrap();
        for (file, wrote) in files.iter().zip([b"first", b"other"]) {
            let mut seen = [0; 5];
            file.read_exact_at(&mut seen, 0x1234).unwrap();
            assert_eq!(&seen, wrote);
        }
        assert!(all.write_slice(b"x", GuestAddress(region(0).guest_phys + SIZE)).is_err());
    }

    #[test]
    fn a_machine_without_any_has_its_ram_alone() {
        assert_eq!(guest_memory::regions(&with(vec![]).unwrap()), guest_memory::regions(&guest(1 << 20)));
    }

    #[test]
    fn it_is_nowhere_but_where_the_layout_has_it() {
        let at = |guest_phys| (MemoryRegion { guest_phys, size: SIZE }, memfd(SIZE, sealed()));
        for elsewhere in
            [vec![at(0)], vec![at(20 << 30)], vec![at(22 << 30)], vec![at(22 << 30), at(21 << 30)]]
        {
            let error = with(elsewhere).unwrap_err();
            assert!(matches!(error, Error::Layout(_)), "{error}");
        }
        assert!(with(vec![at(21 << 30), at(22 << 30)]).is_ok());
    }

    #[test]
    fn its_memfds_are_sealed_and_of_its_size() {
        for (size, seals) in [(SIZE, SealFlag::F_SEAL_SHRINK), (SIZE / 2, sealed()), (SIZE * 2, sealed())] {
            let error = with(vec![(region(0), memfd(size, seals))]).unwrap_err();
            assert!(matches!(error, Error::Descriptor { .. }), "{error}");
        }
    }

    #[test]
    fn what_is_plugged_is_what_the_page_says_at_that_moment() {
        let page = memfd(PAGE, sealed());
        let file = File::from(page.try_clone().unwrap());
        let plugged = PluggedSize::map(page).unwrap();
        assert_eq!(plugged.load(), 0);
        for value in [SIZE, u64::MAX, 1] {
            file.write_all_at(&value.to_le_bytes(), 0).unwrap();
            assert_eq!(plugged.load(), value);
        }
    }

    #[test]
    fn a_page_that_could_fault_is_refused() {
        for (size, seals) in
            [(PAGE, SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL), (0, sealed()), (PAGE * 2, sealed())]
        {
            let error = PluggedSize::map(memfd(size, seals)).unwrap_err();
            assert!(matches!(error, Error::Descriptor { .. }), "{error}");
        }
    }
}
