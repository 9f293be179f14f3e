//! The core of a `vmm`: it runs the vCPUs and owns guest memory, and knows no device's format.
//!
//! `main` reads top to bottom: stage one of the confinement, receive ([`handoff`]), check and map
//! ([`guest_memory`]), build the machine ([`vm`], [`boot`], [`vcpu`], [`bus`]), give up the means to build
//! ([`control`]), serve. The guest is hostile: nothing that it can do panics, blocks a vCPU on a peer, or is
//! logged access by access.
#![cfg_attr(
    test,
    expect(clippy::arithmetic_side_effects, reason = "in a test an overflow is a failure like any other")
)]

pub mod boot;
pub mod bus;
pub mod console;
pub mod control;
pub mod counters;
pub mod frontend;
pub mod guest_memory;
pub mod handoff;
pub mod heap;
pub mod interrupts;
pub mod log;
pub mod machine;
pub mod notices;
pub mod pci;
pub mod persistent_memory;
pub mod pluggable_memory;
pub mod power;
pub mod rtc;
pub mod serial;
pub mod threads;
pub mod vcpu;
pub mod virtio_pci;
pub mod vm;

mod error;
mod kernel_memory;
mod kvm_descriptors;

pub use error::Error;
pub use guest_memory::GuestMemory;
pub use kvm_descriptors::inherited;
