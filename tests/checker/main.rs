//! What runs in a guest whose devices die: writers that know what their disk must hold, and a reader of random bytes.
//!
//! ```text
//! checker disk DEVICE NUMBER THREADS END
//! checker entropy DEVICE END
//! ```
//!
//! Each goes on until there is a file END, then says in one line, which begins with `@@`, what it did and what it found.

mod disk;
mod entropy;
mod ledger;

use std::io;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let line = match words.as_slice() {
        ["disk", device, number, threads, end] => number
            .parse()
            .and_then(|number| Ok((number, threads.parse()?)))
            .map_err(io::Error::other)
            .and_then(|(number, threads)| disk::check(Path::new(device), number, threads, Path::new(end))),
        ["entropy", device, end] => entropy::check(Path::new(device), Path::new(end)),
        _ => Err(io::Error::other("checker disk DEVICE NUMBER THREADS END, or checker entropy DEVICE END")),
    };
    match line {
        Ok(line) => {
            say(&line);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("checker-failed {error}"));
            ExitCode::FAILURE
        }
    }
}

/// A marked line in one write, so that it stays whole between those of others.
fn say(line: &str) {
    use io::Write;
    // Nobody is left to be told that the console is gone.
    let _ = io::stdout().lock().write_all(format!("@@{line}\n").as_bytes());
}
