//! What a program does when its policy has refused a system call of its: it says which, and dies.
//!
//! The filters of programs that have a launcher to tell it to answer a call that they do not list with SIGSYS and not with
//! the end at once (`trap`, not `kill_process`). The call is refused all the same, and the thread that made it goes on in
//! the handler, which stage one has installed. That sends one frame, laid out before, and then makes a call that is in
//! no list. SIGSYS is blocked as long as the handler runs, and a refusal that cannot be delivered is one that the kernel
//! ends the process for, by SIGSYS, pid 1 of its namespace or not.
//!
//! The handler returns to nobody: what made the call does not run again. It works on the stack of its thread, a few
//! kilobytes of it. The other stack that the standard library has given each thread is for those that overflow their own,
//! whose end is a fault and no refusal, and has room for little more than the frame that the kernel puts there. If the
//! frame does not fit, the kernel ends the process by SIGSEGV. It is async-signal-safe: it allocates nothing, takes no
//! lock, and makes two system calls: one that every list has for it, and one that none has.
//!
//! What this costs: a process that was taken over, in more than one of its threads, may keep its handler from ending it (by
//! changing its stack from the outside, between these two calls). It gains nothing that its filter does not allow, and it
//! is ended by the launcher, which kills it on the word, unless it has prevented that as well; then it lives on, as if it
//! had not tried. One that was not taken over always dies.

use std::sync::OnceLock;

use nix::errno::Errno;

use crate::descriptors::CONTROL;
use crate::panic::end_process;
use crate::system_calls::{Refused, make_forbidden_call, on_refusal, send_now};

/// How a program says that it is about to die of a refused call: the frame, on its control channel, in which the call's
/// number (4 bytes) and its six arguments (8 bytes each), little-endian, stand between these two parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastWord {
    /// What goes before the call.
    pub before: Vec<u8>,
    /// What follows it.
    pub after: Vec<u8>,
}

/// Set before the handler is installed, never changed: to look at it takes no lock.
static LAST_WORD: OnceLock<LastWord> = OnceLock::new();

/// From here on a refused call is told by `word`.
pub fn tell(word: LastWord) -> Result<(), Errno> {
    // Another one's is as good: a process is one program.
    let _second = LAST_WORD.set(word);
    on_refusal(tell_and_die)
}

/// Runs in the handler. Of a signal that somebody has sent and no filter, there is nothing to tell.
fn tell_and_die(refused: Option<Refused>) -> ! {
    if let (Some(word), Some(Refused { call, arguments })) = (LAST_WORD.get(), refused) {
        let call = call.to_le_bytes();
        let arguments = arguments.map(u64::to_le_bytes);
        // A launcher that is gone or that has no room for it: it sees the end.
        let _untold = send_now(CONTROL, [&word.before, &call, arguments.as_flattened(), &word.after]);
    }
    make_forbidden_call();
    // There is no filter, or a list has that call, which tests/policies.rs excludes.
    end_process(1)
}
