//! Doorbells: the notification address of each queue bound to its kick eventfd (KVM_IOEVENTFD), for as long as the
//! guest has the BAR decoded. The length is not matched, so that a notification of any width is one, and KVM need not
//! decode the instruction.

use super::layout;
use crate::interrupts::SharedEventFd;
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use std::sync::Arc;

/// The kick eventfds of one device and where they are bound.
pub struct Doorbells {
    vm: Arc<VmFd>,
    kicks: Arc<[SharedEventFd]>,
    bound: Vec<u64>,
}

impl Doorbells {
    /// Bound nowhere.
    #[must_use]
    pub fn new(vm: Arc<VmFd>, kicks: Arc<[SharedEventFd]>) -> Self {
        Self { vm, kicks, bound: Vec::new() }
    }

    /// Binds them for a BAR at `bar`, or nowhere.
    ///
    /// An address that KVM refuses, because the guest put another device's doorbell there, is left out: its
    /// notifications come through user space, and are counted.
    pub fn move_to(&mut self, bar: Option<u64>) {
        for (kick, address) in self.kicks.iter().zip(self.bound.drain(..)) {
            // Unbinding what was never bound fails, and is nothing.
            let _ =
                self.vm.unregister_ioevent(kick.as_eventfd(), &IoEventAddress::Mmio(address), NoDatamatch);
        }
        let Some(bar) = bar else { return };
        for (index, kick) in (0..).zip(self.kicks.iter()) {
            let address = bar.saturating_add(layout::notify_offset(index));
            let _ = self.vm.register_ioevent(kick.as_eventfd(), &IoEventAddress::Mmio(address), NoDatamatch);
            self.bound.push(address);
        }
    }
}
