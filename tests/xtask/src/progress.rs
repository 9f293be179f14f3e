//! What is going on, for somebody who watches: one line that is rewritten, on a terminal only. In a
//! pipe there is silence, so that what remains is the result.

use std::io::{IsTerminal, Write};

/// Shows `what` as the step that is being taken now.
pub fn step(what: &str) {
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() {
        let shown: String = what.chars().take(100).collect();
        // A terminal that went away is no reason to stop.
        let _ = write!(terminal, "\r\x1b[K  {shown} …");
        let _ = terminal.flush();
    }
}

/// Takes the step's line away again.
pub fn clear() {
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() {
        let _ = write!(terminal, "\r\x1b[K");
        let _ = terminal.flush();
    }
}
