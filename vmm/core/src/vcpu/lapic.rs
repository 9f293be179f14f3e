//! The local interrupt pins as firmware leaves them (Intel SDM volume 3, 11.5.1): LINT0 takes the 8259's
//! interrupts, LINT1 is the non-maskable one.

use crate::Error;
use kvm_bindings::kvm_lapic_state;
use kvm_ioctls::VcpuFd;

const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const DELIVERY_MODE: u32 = 0b111 << 8;
const MASKED: u32 = 1 << 16;
const EXTINT: u32 = 0b111 << 8;
const NMI: u32 = 0b100 << 8;

/// Sets them.
pub(super) fn set(vcpu: &VcpuFd) -> Result<(), Error> {
    let mut lapic = vcpu.get_lapic().map_err(Error::kvm("KVM_GET_LAPIC"))?;
    deliver(&mut lapic, LVT_LINT0, EXTINT);
    deliver(&mut lapic, LVT_LINT1, NMI);
    vcpu.set_lapic(&lapic).map_err(Error::kvm("KVM_SET_LAPIC"))
}

fn deliver(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    let bytes = register..register.saturating_add(4);
    if let Some(bytes) = lapic.regs.get_mut(bytes) {
        let mut value = [0; 4];
        value.iter_mut().zip(bytes.iter()).for_each(|(to, from)| *to = from.cast_unsigned());
        let value = (u32::from_le_bytes(value) & !(DELIVERY_MODE | MASKED)) | mode;
        bytes.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from.cast_signed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mode_and_mask_change() {
        let mut lapic = kvm_lapic_state::default();
        lapic.regs[LVT_LINT1] = 0x12;
        lapic.regs[LVT_LINT1 + 2] = 1;
        deliver(&mut lapic, LVT_LINT1, NMI);
        assert_eq!(lapic.regs[LVT_LINT1..LVT_LINT1 + 4], [0x12, 0x04, 0, 0]);
        assert!(lapic.regs[..LVT_LINT1].iter().all(|byte| *byte == 0));
    }
}
