//! What a hostile front end can say to the program of an image, which has another file below it: each is refused, nothing
//! leaks, and the device lives on or ends with one line.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test says what it expects by failing"
)]

#[path = "../../backend/tests/front_end/mod.rs"]
#[expect(dead_code, reason = "the library's tests use the rest of this")]
mod front_end;
#[path = "../../backend/tests/hostile_front_end/mod.rs"]
mod hostile_front_end;
#[expect(dead_code, reason = "what becomes of the image the other tests look at")]
mod image_file;

use std::os::unix::fs::FileExt;

use front_end::Device;
use image_file::{Shape, name_backing};

const SHAPE: Shape = Shape { cluster_bits: 16, refcount_order: 4, size: 1 << 20 };

/// A fresh program for each of what a hostile front end does.
fn under_attack(_test: &str, attack: fn(hostile_front_end::Start<'_>)) {
    let mut image = SHAPE.empty();
    name_backing(&mut image, "base");
    let [disk, base] = [image, vec![7; 1 << 19]].map(|bytes| {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        file.as_file().write_all_at(&bytes, 0).unwrap();
        file
    });
    let [disk, base] =
        [("path", &disk), ("backing", &base)].map(|(key, file)| format!("--{key}={}", file.path().display()));
    let arguments = [disk.as_str(), &base, "--backing-format=raw"];
    attack(&|| Device::spawn(env!("CARGO_BIN_EXE_device-blk-qcow2"), &arguments));
}

hostile_front_end::attacks!(under_attack);
