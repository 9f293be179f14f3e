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
mod vsock;
