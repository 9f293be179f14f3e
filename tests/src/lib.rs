//! Real machines for the system tests: the real `vmm` with its real programs, a stock kernel and a guest
//! that does a job (`tests/guest/jobs`) and says so on its console in lines that begin with `@@`.
//!
//! Invariants: nothing waits for ever (each wait has a limit that ends a hang and measures nothing), and
//! a machine that is dropped is dead. Where the programs and the guests' artifacts are, `cargo xtask
//! test` says by `VMM_BIN_DIR` and `VMM_ARTIFACTS`.

pub mod cable;
mod capture;
pub mod control;
mod disk;
pub mod echo;
mod environment;
mod error;
pub mod front_end;
mod machine;
pub mod network;
pub mod old_peers;
pub mod packet;
pub mod pattern;
pub mod person;
mod processes;
pub mod sockets;
pub mod spawned;
pub mod stand_ins;
pub mod warnings;

pub use capture::Capture;
pub use disk::Disk;
pub use environment::{artifact, program, progress, within};
pub use error::Error;
pub use machine::{Ended, Kernel, Machine, Running};
pub use processes::{Process, children, of_ours};

/// What every step of a test returns.
pub type Result<T> = std::result::Result<T, Error>;
