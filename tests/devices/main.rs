//! Our device programs under a front end that is not ours: QEMU, of the host and of the next release, a stock guest, software
//! emulation.
//!
//! Run with `cargo xtask test devices`; needs no KVM.

#[cfg(test)]
mod balloon;
#[cfg(test)]
mod blk;
#[cfg(test)]
mod console;
#[cfg(test)]
#[path = "../confinement/excuses.rs"]
mod excuses;
#[cfg(test)]
#[path = "../confinement/filters.rs"]
#[expect(dead_code, reason = "here nothing is taken out of a filter")]
#[expect(clippy::arithmetic_side_effects, reason = "a test says what it expects by failing")]
mod filters;
#[cfg(test)]
mod fs;
#[cfg(test)]
mod net;
#[cfg(test)]
mod qemu;
#[cfg(test)]
mod qemu_img;
#[cfg(test)]
mod rng;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod vsock;
#[cfg(test)]
mod witness;
