//! The modern virtio-pci transport (virtio 1.3, 4.1): the machine that a guest sees, and what moves behind it.
//!
//! [`Machine`] is all that a vCPU can touch, pure: configuration space, registers, MSI-X table. [`VirtioPciDevice`]
//! puts it behind a mutex and turns its [`Event`]s into KVM calls and into work for the thread of the front end. A vCPU
//! waits for nobody but another vCPU or that thread, and for those only while they change registers.

mod connections;
mod device;
mod device_type;
mod doorbells;
mod layout;
mod machine;
mod msix;
mod queue;
mod status;
mod transport;

pub use connections::Connections;
pub use device::{Shared, VirtioPciDevice};
pub use device_type::DeviceType;
pub use doorbells::Doorbells;
pub use layout::{Area, BAR_SIZE};
pub use machine::Machine;
pub use queue::{Ram, Ring};
pub use transport::{Activation, Event, Offer, Source, Transport, VERSION_1};
