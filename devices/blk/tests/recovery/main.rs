//! The real `device-blk`, confined as always, dies again and again under a verifying writer, at any moment and at every
//! step between taking a request and calling the driver; nothing is lost, repeated or reordered.
//!
//! It is a build with fault points: `cargo test -p device-blk --features fault-points --test recovery`. The environment
//! variable VMM_RECOVERY_DEATHS says how many deaths there are; 20,000 are a full run.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test says what it expects by failing"
)]

mod blame;
mod cache_mode;
mod core;
mod deaths;
#[path = "../front_end/mod.rs"]
mod front_end;
mod image;
mod launcher;
mod resize;
mod writer;
