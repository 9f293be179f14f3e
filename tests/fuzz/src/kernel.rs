//! What boots: the loader of the core over a file that is no kernel, or nearly one, beside an initrd and a command line.
//!
//! The input is a length by which the file goes on behind its bytes (in KiB, zeroes), the initrd's size, the command line's
//! length, the line itself and the head of the file. Whatever the file says, the loader answers, and a kernel that it takes lies in guest memory above
//! the first MiB.

use crate::{Input, memory};
use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;
use vmm_core::GuestMemory;
use vmm_core::boot::{self, Source};

/// Bytes of guest memory.
const RAM: u64 = 16 << 20;

/// Loads what the input says.
pub fn run(data: &[u8]) {
    static MEMORY: OnceLock<Option<GuestMemory>> = OnceLock::new();
    let Some(memory) = MEMORY.get_or_init(|| memory::of_core(RAM)) else { return };
    let mut input = Input::new(data);
    let more = u64::from(input.u8() % 128) << 10;
    let initrd = input.u8();
    let length = input.u8();
    let command_line = String::from_utf8_lossy(input.bytes(length.into())).into_owned();
    let Some(kernel) = file(input.rest(), more) else { return };
    let initrd = if initrd == 0 { None } else { file(&[], u64::from(initrd) << 12) };
    let copy = kernel.try_clone();
    if let Ok(loaded) = copy.map_err(drop).and_then(|copy| boot::kernel::load(memory, copy).map_err(drop)) {
        assert!(loaded.end <= RAM, "it ends at {:#x}", loaded.end);
    }
    // Refused or not, it ends.
    let _ = boot::load(memory, Source { kernel, initrd, command_line }, 2);
}

fn file(head: &[u8], more: u64) -> Option<File> {
    let mut file = memory::file()?;
    file.write_all(head).ok()?;
    file.set_len(u64::try_from(head.len()).ok()?.checked_add(more)?).ok()?;
    Some(file)
}
