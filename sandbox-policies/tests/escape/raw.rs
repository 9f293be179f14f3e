//! Any system call with any arguments, as somebody makes it who has taken a process over.
#![expect(unsafe_code, reason = "attempts are system calls that no safe interface would make")]

use std::arch::asm;
use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;
use sandbox_policies::end_process;

/// What the kernel answered to an attempt.
pub type Answer = Result<i64, Errno>;

/// System call `number` with up to six arguments.
pub fn call<const N: usize>(number: i64, arguments: [u64; N]) -> Answer {
    let mut all = [0; 6];
    for (slot, argument) in all.iter_mut().zip(arguments) {
        *slot = argument;
    }
    let [a, b, c, d, e, f] = all;
    // SAFETY: none beyond what the attempts are for: this process exists to be killed by the call. Pointers
    // among the arguments are to statics or to mappings that outlive it.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if answer < 0 { Err(Errno::last()) } else { Ok(answer) }
}

/// A call that makes a process: the new one, should it ever exist, ends at once.
pub fn call_and_end_child<const N: usize>(number: i64, arguments: [u64; N]) -> Answer {
    let answer = call(number, arguments);
    if answer == Ok(0) {
        end_process(0);
    }
    answer
}

/// `getpid` through the 32-bit entry of the kernel, where system calls have other numbers.
pub fn call_32_bit() -> Answer {
    let answer: i64;
    // SAFETY: number 20 is getpid there: it touches no memory. The kernel clobbers r8 to r11.
    unsafe {
        asm!("int 0x80", inlateout("rax") 20_i64 => answer, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    if answer < 0 { Err(Errno::ENOSYS) } else { Ok(answer) }
}

/// Takes a descriptor that the spawner or a raw call has made.
pub fn own(number: i32) -> OwnedFd {
    // SAFETY: whoever calls this has it from the spawner or from the kernel, and for itself alone.
    unsafe { OwnedFd::from_raw_fd(number) }
}
