//! Fuzz targets: what a hostile party sends, as plain functions of bytes.
//!
//! Each is a `fn(&[u8])` that ends well whatever the bytes are, and panics when an invariant of the code under it is
//! broken. `cargo xtask fuzz` drives them with libFuzzer, coverage-guided; the test `corpora` runs each over the files of
//! `corpus/NAME`, in every build and without the fuzzer, so that what was once found stays fixed.
//!
//! To add one: a module with `pub fn run(data: &[u8])`, a line in [`TARGETS`], and a folder `corpus/NAME` with a first
//! file. Where random bytes would not get anywhere, [`Input`] turns them into operations; which bytes mean what must
//! not change without need, or the corpus loses what it reached.
#![expect(clippy::arithmetic_side_effects, reason = "an overflow in a target is seen like any other finding")]

mod back_end;
mod config;
mod devices;
mod front_end;
#[path = "../../../devices/blk-qcow2/tests/image_file/mod.rs"]
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "it reads what it has just made or has checked, and a panic is a finding"
)]
mod image_file;
mod input;
mod kernel;
mod memory;
mod protocol_frames;
mod qcow2;
mod registers;

use std::sync::OnceLock;

use nix::sys::signal::{SigSet, Signal};

pub use input::Input;

/// The variable of the environment that chooses a target for the fuzzing program.
pub const CHOICE: &str = "VMM_FUZZ_TARGET";

/// A function that is fed.
#[derive(Clone, Copy)]
pub struct Target {
    /// As it is called on the command line, and its folder in `corpus`.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
}

/// All targets, by name.
pub const TARGETS: &[Target] = &[
    Target { name: "backend", run: back_end::run },
    Target { name: "balloon", run: devices::balloon },
    Target { name: "blk", run: devices::blk },
    Target { name: "config", run: config::run },
    Target { name: "console", run: devices::console },
    Target { name: "front-end", run: front_end::run },
    Target { name: "fs", run: devices::fs },
    Target { name: "kernel", run: kernel::run },
    Target { name: "mem", run: devices::mem },
    Target { name: "net", run: devices::net },
    Target { name: "net-stream", run: devices::net_stream },
    Target { name: "pmem", run: devices::pmem },
    Target { name: "protocol", run: protocol_frames::run },
    Target { name: "qcow2", run: qcow2::run },
    Target { name: "registers", run: registers::run },
    Target { name: "rng", run: devices::rng },
    Target { name: "vsock", run: devices::vsock },
];

/// Feeds `data` to the target that the environment names.
///
/// # Panics
/// It names none, or the target has found something.
pub fn run_chosen(data: &[u8]) {
    static CHOSEN: OnceLock<Option<Target>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        // As in the programs, a peer that is gone is an error and not the end. Threads that are begun later have it, too.
        SigSet::from(Signal::SIGPIPE).thread_block().ok()?;
        let name = std::env::var(CHOICE).ok()?;
        TARGETS.iter().find(|target| target.name == name).copied()
    });
    assert!(chosen.is_some(), "{CHOICE} names no target; `cargo xtask fuzz` sets it");
    if let Some(target) = chosen {
        (target.run)(data);
    }
}
