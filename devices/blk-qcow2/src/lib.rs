//! The sectors of a virtio block device in a qcow2 image: everything of `device-blk-qcow2` but the program around it.
//!
//! The format is `imago`'s work. Ours is what `imago` leaves to whoever uses it: what a bad image is refused for
//! (`header`), when a change of the tables reaches the host and the medium (`tables`), and the guest's own data, which goes
//! between the image and guest memory without a copy (`image`), also where it is in a file below the image (`below`).
#![cfg_attr(
    test,
    expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "small numbers of our own, and a test says what is wrong by failing"
    )
)]

mod below;
mod file;
mod header;
mod image;
#[cfg(test)]
#[path = "../tests/image_file/mod.rs"]
mod image_file;
mod storage;
mod tables;

pub use image::Image;
