//! Bad input: each ends in one line that a person can use and in the documented exit code, and leaves
//! nothing behind.
//!
//! Run with `cargo xtask test launcher`; needs no guest.

#[cfg(test)]
mod arguments;
#[cfg(test)]
mod capabilities;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod files;
#[cfg(test)]
mod host;
#[cfg(test)]
mod network;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod refusal;
