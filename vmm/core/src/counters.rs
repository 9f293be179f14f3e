//! Exits to user space by category: how a test sees that the data path costs the core nothing.
//!
//! Relaxed atomics: the counters order nothing and are read while the guest runs.

use protocol::{Counter, Counters};
use std::sync::atomic::{AtomicU64, Ordering};

/// What an exit was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// The UART.
    Serial,
    /// The clock.
    Rtc,
    /// Sleep, reset and keyboard-controller registers.
    Power,
    /// PCI configuration space, by ports or by ECAM.
    PciConfig,
    /// virtio-pci common configuration (virtio 1.3, 4.1.4.3).
    VirtioCommon,
    /// virtio-pci notification that no ioeventfd took.
    VirtioNotify,
    /// virtio-pci ISR status.
    VirtioIsr,
    /// virtio-pci device configuration.
    VirtioConfig,
    /// MSI-X table and pending bits.
    Msix,
    /// A port that nobody serves.
    UnassignedPort,
    /// An address that nobody serves.
    UnassignedMmio,
    /// A halt that KVM left to us.
    Halt,
    /// Anything else.
    Other,
}

const NAMES: [&str; 13] = [
    "serial",
    "rtc",
    "power",
    "pci_config",
    "virtio_common",
    "virtio_notify",
    "virtio_isr",
    "virtio_config",
    "msix",
    "unassigned_port",
    "unassigned_mmio",
    "halt",
    "other",
];

/// Exits since the start, by category.
#[derive(Debug, Default)]
pub struct ExitCounters([AtomicU64; NAMES.len()]);

impl ExitCounters {
    /// Counts one exit.
    pub fn count(&self, category: Category) {
        if let Some(counter) = self.0.get(category as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All of them, in a fixed order, followed by `more`.
    pub fn read(&self, more: impl IntoIterator<Item = (&'static str, u64)>) -> Counters {
        let exits = NAMES.into_iter().zip(self.0.iter().map(|counter| counter.load(Ordering::Relaxed)));
        let entries =
            exits.chain(more).map(|(name, value)| Counter { name: name.to_owned(), value }).collect();
        Counters { entries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_categories_agree() {
        let counters = ExitCounters::default();
        counters.count(Category::Serial);
        counters.count(Category::Msix);
        counters.count(Category::Other);
        counters.count(Category::Other);
        let read = counters.read([("console_dropped", 7)]);
        let value = |name: &str| read.entries.iter().find(|entry| entry.name == name).unwrap().value;
        assert_eq!(
            ["serial", "rtc", "msix", "other", "console_dropped"].map(value),
            [1, 0, 1, 2, 7],
            "{read:?}"
        );
        assert!(read.entries.len() <= protocol::limits::MAX_ENTRIES);
    }
}
