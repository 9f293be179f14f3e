//! The size of the terminal on standard input, for the console that has it.
#![expect(unsafe_code, reason = "TIOCGWINSZ writes through a pointer, and no safe library of ours has it")]

use std::io::stdin;
use std::os::fd::AsRawFd;

use nix::libc;
use protocol::ConsoleSize;

/// Its size; none if standard input is no terminal, or one that has no size that a console can have.
pub fn terminal_size() -> Option<ConsoleSize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize`, which `size` is, and nothing else.
    let asked = unsafe { libc::ioctl(stdin().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    let size = ConsoleSize { columns: size.ws_col, rows: size.ws_row };
    Some(size).filter(|size| asked == 0 && size.is_possible())
}
