//! What checks disks, generators, file systems and sockets from within a guest: writers that know what their disk must
//! hold, a reader of random bytes, who knows what he did to files, and who sends back what comes.
//!
//! ```text
//! checker disk DEVICE NUMBER THREADS END
//! checker entropy DEVICE END
//! checker fill DEVICE NUMBER
//! checker read DEVICE NUMBER
//! checker tree DIRECTORY NUMBER
//! checker files DIRECTORY END
//! checker echo PORT
//! checker reach PORT CONNECTIONS ROUNDS
//! ```
//!
//! Those with one go on until there is a file END, and `echo` for ever; their devices may die meanwhile. Each says in one line, which begins with
//! `@@`, what it did and what it found.

mod disk;
mod entropy;
mod fill;
mod ledger;
mod sockets;
mod tree;

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
        ["tree", directory, number] => number
            .parse()
            .map_err(io::Error::other)
            .and_then(|number| tree::check(Path::new(directory), number)),
        ["echo", port] => port.parse().map_err(io::Error::other).and_then(sockets::echo),
        ["reach", port, connections, rounds] => port
            .parse()
            .and_then(|port| Ok((port, connections.parse()?, rounds.parse()?)))
            .map_err(io::Error::other)
            .and_then(|(port, connections, rounds)| sockets::reach(port, connections, rounds)),
        ["files", directory, end] => tree::survive(Path::new(directory), Path::new(end)),
        [what @ ("fill" | "read"), device, number] => {
            let work = if *what == "fill" { fill::fill } else { fill::read };
            number.parse().map_err(io::Error::other).and_then(|number| work(Path::new(device), number))
        }
        _ => Err(io::Error::other(
            "checker disk DEVICE NUMBER THREADS END, entropy DEVICE END, fill|read DEVICE NUMBER, tree DIRECTORY NUMBER, files DIRECTORY END, echo PORT, or reach PORT CONNECTIONS ROUNDS",
        )),
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
