//! Three things about the process itself that Rust's library has no safe word for.
#![expect(unsafe_code, reason = "allocator settings, an inherited descriptor, and an exit without clean-up")]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Bytes of heap for each thread, several times the most that one queue's longest chain takes: 1,024 descriptors, each in
/// pieces of up to 32 regions, 32 bytes a piece. It is address space; there is memory behind what was touched.
const HEAP_EACH: usize = 4 << 20;

/// Makes all of `threads` threads allocate from one heap that neither grows nor shrinks again. The C library would grow
/// a heap per thread by mprotect, the first one by brk, and map large blocks on their own, to be moved by mremap: none
/// of which the serving filter has. It has room for `more` bytes, which the device asks for. Call while there is one
/// thread.
pub(crate) fn use_one_heap(threads: usize, more: usize) {
    // -1 is "never".
    for (parameter, value) in
        [(nix::libc::M_ARENA_MAX, 1), (nix::libc::M_MMAP_MAX, 0), (nix::libc::M_TRIM_THRESHOLD, -1)]
    {
        // SAFETY: called before any other thread exists, with documented parameters.
        unsafe { nix::libc::mallopt(parameter, value) };
    }
    // Taken, not touched, and given back to a heap that keeps it.
    let sizes = std::iter::repeat_n(HEAP_EACH, threads).chain([more]);
    let blocks = sizes.map(Vec::<u8>::with_capacity);
    drop(std::hint::black_box(blocks.collect::<Vec<_>>()));
}

/// Takes over descriptor `number`, which the program was started with.
///
/// Returns None when it is not open. Call once per number.
pub(crate) fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD only looks; a number that is not open gives an error.
    let open = unsafe { nix::libc::fcntl(number, nix::libc::F_GETFD) } >= 0;
    // SAFETY: it is open, and by the convention of the hand-over nobody else in this process owns it.
    open.then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// Ends the process at once. The orderly way out of `main` dismantles the signal stack by system calls
/// that the serving filter does not have, and there is nothing left to tidy: no buffered output, no file.
pub(crate) fn exit_now(code: u8) -> ! {
    // SAFETY: ends the process; no code of ours runs after it.
    unsafe { nix::libc::_exit(code.into()) }
}
