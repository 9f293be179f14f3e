//! The privileges of every program of `vmm`, and the one way to apply them: one file per mechanism.
//!
//! A spawned program is confined from two sides. The spawner ([`spawn`]) gives it namespaces of its own, an
//! empty root or that of one directory, no capabilities, no_new_privs and exactly four descriptors *before* the exec. The program then
//! checks that ([`stage_one`]) and adds what only it can: rlimits, not dumpable, landlock and the filter for
//! setting up. When it has all that it will ever need it gives up the means to get more ([`stage_two`]): the
//! serving filter, per thread.
//!
//! Invariants: nothing here ever adds a privilege; each step is in force when its function returns `Ok`; a
//! layer that the host lacks is an error or, with [`Requirement::Available`], a line in [`Report::lacking`],
//! never silence.
//!
//! A system call that a program's list does not have ends the program. One that has a launcher tells it first which
//! ([`LastWord`]).

pub mod cgroup;
pub mod policy;
pub mod posture;
pub mod promise;
pub mod spawn;
pub mod speculation;
pub mod trace;

mod capabilities;
mod descriptors;
mod directory;
mod error;
mod landlock;
mod limits;
mod namespaces;
mod panic;
mod process;
mod program;
mod refusal;
mod root;
mod seccomp;
mod stages;
mod system_calls;

pub use capabilities::Kept as KeptCapabilities;
pub use directory::Directory;
pub use error::Error;
pub use landlock::NEWEST_ABI as NEWEST_LANDLOCK_ABI;
pub use panic::end_process;
pub use program::{Program, Report, Requirement, Root, Stage, UnknownRequirement};
pub use refusal::LastWord;
pub use seccomp::{log_refusals, refusals_are_logged};
pub use stages::{confine_launcher, confine_stand_alone, limit_processes, stage_one, stage_two};
