//! Real guests: a stock distribution kernel boots on `vmm`, its devices served by programs of ours.
//!
//! Run with `cargo xtask test boot`, which finds a KVM that can run them.

#[cfg(test)]
mod balloon;
#[cfg(test)]
mod consoles;
#[cfg(test)]
mod control_groups;
#[cfg(test)]
mod counters;
#[cfg(test)]
mod disks;
#[cfg(test)]
mod ends;
#[cfg(test)]
mod entropy;
#[cfg(test)]
#[path = "../../devices/blk-qcow2/tests/image_file/mod.rs"]
#[expect(
    clippy::cast_possible_truncation,
    clippy::arithmetic_side_effects,
    dead_code,
    reason = "small numbers of our own; no image here has another below it"
)]
mod image_file;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod network;
#[cfg(test)]
mod persistent;
#[cfg(test)]
mod ports;
#[cfg(test)]
mod resize;
#[cfg(test)]
mod share;
#[cfg(test)]
mod sizes;
#[cfg(test)]
mod together;
#[cfg(test)]
mod vsock;
