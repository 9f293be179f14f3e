//! The real `vmm`, `vmm-core` and `device-blk` on this host's KVM with a guest of a few instructions: what
//! confines each while the guest runs, how they end, and that nothing outlives them.
//!
//! Run with `cargo xtask test confinement`; needs no guest artifacts, and a KVM that only emulates will do.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "small numbers of our own, and a test says what is wrong by failing"
)]

#[cfg(test)]
mod disk;
#[cfg(test)]
mod driver;
#[cfg(test)]
mod ends;
#[cfg(test)]
mod excuses;
#[cfg(test)]
mod expectations;
#[cfg(test)]
mod filters;
#[cfg(test)]
mod guest;
#[cfg(test)]
mod hand_over;
#[cfg(test)]
mod house;
#[cfg(test)]
#[path = "../../devices/blk-qcow2/tests/image_file/mod.rs"]
#[expect(clippy::cast_possible_truncation, reason = "small numbers of our own")]
mod image_file;
#[cfg(test)]
mod in_force;
#[cfg(test)]
mod inspect;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod leftovers;
#[cfg(test)]
mod moments;
#[cfg(test)]
mod posture;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod sandbox_log;
#[cfg(test)]
mod speculation;
#[cfg(test)]
mod terminal;
