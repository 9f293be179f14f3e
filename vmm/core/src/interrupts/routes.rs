//! The routing table of one VM: the pins of the PICs and the IOAPIC as KVM wires them by default
//! (`default_routing` in arch/x86/kvm/irq.c), and a message for each GSI above them that a guest has set up.

use crate::Error;
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use nix::errno::Errno;
use std::collections::BTreeMap;

/// Pins of the IOAPIC, which are the GSIs below ours.
const IOAPIC_PINS: u32 = 24;
/// Pins of one PIC.
const PIC_PINS: u32 = 8;
/// KVM_MAX_IRQ_ROUTES of x86, less the pins.
const MAX_GSI: u32 = 4000;

/// What a device writes to raise a message-signalled interrupt (PCI 3.0, 6.8.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where to.
    pub address: u64,
    /// What.
    pub data: u32,
}

impl MsiMessage {
    /// Whether the address is one at which the processors take interrupts (Intel SDM 3, 11.11.1). Any other
    /// would make the interrupt a plain write to memory, by the core instead of by the device.
    #[must_use]
    pub fn is_interrupt(self) -> bool {
        self.address >> 20 == 0xFEE
    }
}

/// See above.
#[derive(Debug, Default)]
pub(super) struct Routes {
    allocated: u32,
    messages: BTreeMap<u32, MsiMessage>,
}

impl Routes {
    /// GSIs that nobody has.
    pub(super) fn allocate(&mut self, count: u16) -> Result<Vec<u32>, Error> {
        let first = IOAPIC_PINS.saturating_add(self.allocated);
        let end = first.saturating_add(count.into());
        if end > MAX_GSI {
            return Err(Error::System { call: "allocating interrupts", errno: Errno::ENOSPC });
        }
        self.allocated = self.allocated.saturating_add(count.into());
        Ok((first..end).collect())
    }

    /// Whether that changed anything.
    pub(super) fn set(&mut self, gsi: u32, message: MsiMessage) -> bool {
        gsi >= IOAPIC_PINS && self.messages.insert(gsi, message) != Some(message)
    }

    /// The whole table.
    pub(super) fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let master = (0..PIC_PINS).map(|pin| pin_entry(pin, KVM_IRQCHIP_PIC_MASTER, pin));
        let slave =
            (0..PIC_PINS).map(|pin| pin_entry(pin.saturating_add(PIC_PINS), KVM_IRQCHIP_PIC_SLAVE, pin));
        let ioapic = (0..IOAPIC_PINS).map(|pin| pin_entry(pin, KVM_IRQCHIP_IOAPIC, pin));
        let messages = self.messages.iter().map(|(gsi, message)| message_entry(*gsi, *message));
        master.chain(slave).chain(ioapic).chain(messages).collect()
    }
}

fn pin_entry(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 { irqchip: kvm_irq_routing_irqchip { irqchip, pin } },
        ..Default::default()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves of the address")]
fn message_entry(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let msi = kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..Default::default()
    };
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_stay_and_messages_come_on_top() {
        let mut routes = Routes::default();
        assert_eq!(routes.entries().len(), 40);
        assert_eq!(routes.allocate(2).unwrap(), [24, 25]);
        assert_eq!(routes.allocate(1).unwrap(), [26]);
        let message = MsiMessage { address: 0xFEE0_1000, data: 3 };
        assert!(routes.set(25, message));
        assert!(!routes.set(25, message), "the same again is no change");
        assert!(!routes.set(4, message), "a pin stays a pin");
        let entries = routes.entries();
        assert_eq!((entries.len(), entries[40].gsi, entries[40].type_), (41, 25, KVM_IRQ_ROUTING_MSI));
        assert!(routes.allocate(u16::MAX).is_err());
    }

    #[test]
    fn only_the_interrupt_window_is_one() {
        for (address, is) in [
            (0xFEE0_0000, true),
            (0xFEEF_FFFC, true),
            (0xFED0_0000, false),
            (0x1_FEE0_0000, false),
            (0, false),
        ] {
            assert_eq!(MsiMessage { address, data: 0 }.is_interrupt(), is, "{address:#x}");
        }
    }
}
