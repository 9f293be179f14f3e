//! Devices that die under a stock guest, which must see nothing of it but pauses.
//!
//! Run with `cargo xtask test recovery`. `VMM_KILLS` says how many deaths the machine of many devices survives, and that of
//! fio (40 and 12 unless told otherwise), and `VMM_SEED` makes the choices of an earlier run again: the seed of each run is in its output.
#![cfg_attr(
    test,
    expect(
        clippy::arithmetic_side_effects,
        reason = "small numbers of our own, and a test says what is wrong by failing"
    )
)]

#[cfg(test)]
mod autopsy;
#[cfg(test)]
mod causes;
#[cfg(test)]
mod fio;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod image;
#[cfg(test)]
#[path = "../../devices/blk-qcow2/tests/image_file/mod.rs"]
#[expect(clippy::cast_possible_truncation, reason = "small numbers of our own")]
mod image_file;
#[cfg(test)]
mod many;
#[cfg(test)]
mod one_balloon;
#[cfg(test)]
mod one_disk;
#[cfg(test)]
mod one_mem;
#[cfg(test)]
mod one_network;
#[cfg(test)]
mod one_pmem;
#[cfg(test)]
mod one_process;
#[cfg(test)]
mod one_share;
#[cfg(test)]
mod one_vsock;
#[cfg(test)]
mod plan;
#[cfg(test)]
mod regions;
#[cfg(test)]
mod told;
