//! Registers of the boot processor at the kernel's first instruction.
//!
//! PVH (Xen's docs/misc/pvh.pandoc): 32-bit protected mode without paging, flat segments, `ebx` pointing to
//! `hvm_start_info`. 64-bit boot protocol (Documentation/arch/x86/boot.rst): long mode, paging on, flat
//! segments with the selectors `__BOOT_CS` and `__BOOT_DS`, `rsi` pointing to `boot_params`.

use crate::boot::kernel::Entry;
use crate::boot::layout;
use crate::{Error, GuestMemory, guest_memory};
use kvm_bindings::{kvm_dtable, kvm_fpu, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 is always set.
const RFLAGS: u64 = 1 << 1;
const FPU_CONTROL: u16 = 0x37F;
const MXCSR: u32 = 0x1F80;

const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;
const CODE: u8 = 0xB;
const DATA: u8 = 0x3;
const BUSY_TASK: u8 = 0xB;

/// Writes the GDT that the segment registers were loaded from, as far as anybody could tell.
pub(super) fn write_gdt(memory: &GuestMemory, entry: Entry) -> Result<(), Error> {
    let segments = [None, None, Some(code(entry)), Some(data()), Some(task())];
    for (address, segment) in (layout::GDT..).step_by(8).zip(segments) {
        guest_memory::write(memory, "GDT", address, &segment.map_or(0, |segment| descriptor(&segment)))?;
    }
    Ok(())
}

/// Sets general and system registers for the entry.
pub(super) fn set_entry(vcpu: &VcpuFd, entry: Entry) -> Result<(), Error> {
    let mut sregs = vcpu.get_sregs().map_err(Error::kvm("KVM_GET_SREGS"))?;
    enter(&mut sregs, entry);
    vcpu.set_sregs(&sregs).map_err(Error::kvm("KVM_SET_SREGS"))?;
    vcpu.set_regs(&general(entry)).map_err(Error::kvm("KVM_SET_REGS"))
}

/// Sets the FPU as `FNINIT` and the reset of SSE leave it.
pub(super) fn set_fpu(vcpu: &VcpuFd) -> Result<(), Error> {
    let fpu = kvm_fpu { fcw: FPU_CONTROL, mxcsr: MXCSR, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(Error::kvm("KVM_SET_FPU"))
}

fn general(entry: Entry) -> kvm_regs {
    match entry {
        Entry::Pvh { address } => {
            kvm_regs { rip: address, rbx: layout::START_INFO, rflags: RFLAGS, ..Default::default() }
        }
        Entry::Linux64 { address } => kvm_regs {
            rip: address,
            rsi: layout::ZERO_PAGE,
            rsp: layout::STACK,
            rbp: layout::STACK,
            rflags: RFLAGS,
            ..Default::default()
        },
    }
}

fn enter(sregs: &mut kvm_sregs, entry: Entry) {
    sregs.cs = code(entry);
    sregs.tr = task();
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = data();
    }
    sregs.gdt = kvm_dtable { base: layout::GDT, limit: 5 * 8 - 1, ..Default::default() };
    sregs.idt = kvm_dtable::default();
    sregs.cr0 = CR0_PE | CR0_ET;
    sregs.cr3 = 0;
    sregs.cr4 = 0;
    sregs.efer = 0;
    if matches!(entry, Entry::Linux64 { .. }) {
        sregs.cr0 |= CR0_PG;
        sregs.cr3 = layout::PML4;
        sregs.cr4 = CR4_PAE;
        sregs.efer = EFER_LME | EFER_LMA;
    }
}

fn code(entry: Entry) -> kvm_segment {
    let long = matches!(entry, Entry::Linux64 { .. });
    kvm_segment { selector: CODE_SELECTOR, type_: CODE, l: long.into(), db: (!long).into(), ..flat() }
}

fn data() -> kvm_segment {
    kvm_segment { selector: DATA_SELECTOR, type_: DATA, db: 1, ..flat() }
}

/// Of no use to the kernel, but a processor in protected mode has one, and VMX entry checks it.
fn task() -> kvm_segment {
    kvm_segment { selector: TASK_SELECTOR, type_: BUSY_TASK, s: 0, g: 0, limit: 0x67, ..flat() }
}

fn flat() -> kvm_segment {
    kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() }
}

/// A segment as its descriptor (Intel SDM volume 3, 3.4.5). The base is zero in all of ours.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let flag = |value: u8, bit: u32| u64::from(value & 1) << bit;
    (limit & 0xFFFF)
        | (u64::from(segment.type_ & 0xF) << 40)
        | flag(segment.s, 44)
        | (u64::from(segment.dpl & 3) << 45)
        | flag(segment.present, 47)
        | ((limit >> 16 & 0xF) << 48)
        | flag(segment.avl, 52)
        | flag(segment.l, 53)
        | flag(segment.db, 54)
        | flag(segment.g, 55)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PVH: Entry = Entry::Pvh { address: 0x100_0000 };
    const LINUX: Entry = Entry::Linux64 { address: 0x10_0200 };

    #[test]
    fn descriptors_are_the_processors() {
        assert_eq!(descriptor(&code(LINUX)), 0x00AF_9B00_0000_FFFF);
        assert_eq!(descriptor(&code(PVH)), 0x00CF_9B00_0000_FFFF);
        assert_eq!(descriptor(&data()), 0x00CF_9300_0000_FFFF);
        assert_eq!(descriptor(&task()), 0x0000_8B00_0000_0067);
    }

    #[test]
    fn pvh_starts_without_paging() {
        let mut sregs = kvm_sregs { cr4: 1, efer: 1, ..Default::default() };
        enter(&mut sregs, PVH);
        assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x11, 0, 0));
        assert_eq!((sregs.cs.db, sregs.cs.l, sregs.cs.limit), (1, 0, u32::MAX));
        assert_eq!((general(PVH).rip, general(PVH).rbx, general(PVH).rflags), (0x100_0000, 0x6000, 2));
    }

    #[test]
    fn the_64_bit_protocol_starts_in_long_mode() {
        let mut sregs = kvm_sregs::default();
        enter(&mut sregs, LINUX);
        assert_eq!((sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer), (0x8000_0011, 0x9000, 0x20, 0x500));
        assert_eq!((sregs.cs.selector, sregs.cs.l, sregs.cs.db), (0x10, 1, 0));
        assert_eq!((sregs.ds.selector, sregs.ss.selector), (0x18, 0x18));
        assert_eq!((general(LINUX).rip, general(LINUX).rsi), (0x10_0200, 0x7000));
    }
}
