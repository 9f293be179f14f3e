//! Interrupt routing: which GSI means which MSI message or which pin, and which eventfd raises it
//! (KVM_SET_GSI_ROUTING and KVM_IRQFD, Documentation/virt/kvm/api.rst).
//!
//! Everything here happens when a guest sets an interrupt up or masks it. Raising one is a write to an eventfd by
//! whoever holds it, and KVM's own work from there: **this process runs no instruction for it**. The table that KVM
//! is given always holds the pins of the in-kernel PICs and IOAPIC, since KVM replaces the whole of it each time.
//!
//! An eventfd that is connected while its counter is above 0 raises its interrupt at once (`kvm_irqfd_assign` polls
//! it): that is what makes disconnecting a faithful mask. The counter is not consumed by that, so an interrupt may
//! be raised once more after another mask and unmask, which the driver of a virtqueue takes in its stride.

mod routes;
mod shared_eventfd;

pub use routes::MsiMessage;
pub use shared_eventfd::SharedEventFd;

use crate::Error;
use kvm_bindings::KvmIrqRouting;
use kvm_ioctls::VmFd;
use routes::Routes;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The interrupts of one VM. KVM's in-kernel interrupt controllers must exist already.
pub struct Interrupts {
    vm: Arc<VmFd>,
    routes: Mutex<Routes>,
}

impl Interrupts {
    /// Tells KVM the pins of PICs and IOAPIC.
    pub fn new(vm: Arc<VmFd>) -> Result<Self, Error> {
        let interrupts = Self { vm, routes: Mutex::new(Routes::default()) };
        interrupts.tell(&interrupts.routes())?;
        Ok(interrupts)
    }

    /// An eventfd of our own that pulses the pin `gsi` of the interrupt controllers.
    pub fn legacy_line(&self, gsi: u32) -> Result<EventFd, Error> {
        let line = EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(Error::io("eventfd2"))?;
        self.connect(&line, gsi)?;
        Ok(line)
    }

    /// Numbers for `count` message-signalled interrupts; each needs [`Self::route`] before it can be raised.
    pub fn allocate(&self, count: u16) -> Result<Vec<u32>, Error> {
        self.routes().allocate(count)
    }

    /// Makes `gsi` mean `message`.
    pub fn route(&self, gsi: u32, message: MsiMessage) -> Result<(), Error> {
        let mut routes = self.routes();
        if routes.set(gsi, message) { self.tell(&routes) } else { Ok(()) }
    }

    /// From now on a write to `event` raises `gsi`, and what it holds already does at once.
    pub fn connect(&self, event: &EventFd, gsi: u32) -> Result<(), Error> {
        self.vm.register_irqfd(event, gsi).map_err(Error::kvm("KVM_IRQFD"))
    }

    /// From now on writes to `event` add up.
    pub fn disconnect(&self, event: &EventFd, gsi: u32) -> Result<(), Error> {
        self.vm.unregister_irqfd(event, gsi).map_err(Error::kvm("KVM_IRQFD"))
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, routes: &Routes) -> Result<(), Error> {
        let table = KvmIrqRouting::from_entries(&routes.entries())
            .map_err(|_| Error::System { call: "KVM_SET_GSI_ROUTING", errno: nix::errno::Errno::E2BIG })?;
        self.vm.set_gsi_routing(&table).map_err(Error::kvm("KVM_SET_GSI_ROUTING"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_ioctls::Kvm;

    fn vm() -> Arc<VmFd> {
        let vm = Kvm::new().unwrap().create_vm().unwrap();
        vm.create_irq_chip().unwrap();
        Arc::new(vm)
    }

    #[test]
    fn kvm_takes_routes_and_lines() {
        let interrupts = Interrupts::new(vm()).unwrap();
        let line = interrupts.legacy_line(5).unwrap();
        line.write(1).unwrap();
        let gsis = interrupts.allocate(3).unwrap();
        let message = MsiMessage { address: 0xFEE0_0000, data: 0x41 };
        interrupts.route(gsis[2], message).unwrap();
        let event = SharedEventFd::new().unwrap();
        interrupts.connect(event.as_eventfd(), gsis[2]).unwrap();
        assert!(interrupts.connect(event.as_eventfd(), gsis[2]).is_err(), "one eventfd, one interrupt");
        interrupts.disconnect(event.as_eventfd(), gsis[2]).unwrap();
        event.signal();
        assert!(event.is_pending(), "disconnected, it adds up");
        interrupts.connect(event.as_eventfd(), gsis[2]).unwrap();
    }
}
