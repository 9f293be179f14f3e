//! The front end against back ends that behave and that do not, over a socket pair.
//!
//! Nothing here asserts how long something took: a deadline shows as the fault that it is.

mod attached;
mod changes;
mod hostile;
mod peer;
mod replacement;
mod resets;
mod silence;
mod succession;

pub use peer::send_with_fd;
