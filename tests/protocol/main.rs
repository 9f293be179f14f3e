//! Neighbours of another version: the launcher and a device program of minor versions 1 to 4, recorded, each with today's other
//! side in its real process and its real confinement.
//!
//! Run with `cargo xtask test protocol`. When the minor version is raised, the frames of the one before are recorded first,
//! by `cargo xtask record-peers` at its last commit.

#[cfg(test)]
mod old_device;
#[cfg(test)]
mod old_launcher;
