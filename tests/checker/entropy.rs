//! The reader of a generator: all that it may see of a death is a pause.
//!
//! Pieces are as long as the driver's buffer. None may come twice, or the guest was given again what it had been given
//! before; that two random ones agree by chance does not happen.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use crate::say;

/// Bytes of a piece: those of the driver's buffer.
const PIECE: usize = 64;
/// After so many pieces it says that it is alive.
const TOLD: u64 = 200;

/// Reads until there is a file `end`.
pub fn check(device: &Path, end: &Path) -> io::Result<String> {
    let mut file = File::open(device)?;
    let mut found = Found::default();
    while !end.exists() {
        let mut piece = [0; PIECE];
        match file.read_exact(&mut piece) {
            Ok(()) => found.add(&piece),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                found.failed = found.failed.saturating_add(1);
                say(&format!("finding entropy: {error}"));
            }
        }
        if found.pieces.is_multiple_of(TOLD) {
            say(&format!("read {}", found.pieces));
        }
    }
    let Found { pieces, failed, repeated, .. } = found;
    Ok(format!("entropy pieces={pieces} failed={failed} repeated={repeated}"))
}

#[derive(Default)]
struct Found {
    pieces: u64,
    failed: u64,
    repeated: u64,
    known: HashSet<[u8; 8]>,
}

impl Found {
    fn add(&mut self, piece: &[u8; PIECE]) {
        self.pieces = self.pieces.saturating_add(1);
        let (parts, _) = piece.as_chunks();
        for part in parts {
            if !self.known.insert(*part) {
                self.repeated = self.repeated.saturating_add(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_come_again_are_seen() {
        let mut found = Found::default();
        let piece: [u8; PIECE] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        found.add(&piece);
        assert_eq!((found.pieces, found.repeated), (1, 0));
        found.add(&[0xAA; PIECE]);
        assert_eq!(found.repeated, 7, "within a piece");
        found.add(&piece);
        assert_eq!((found.pieces, found.repeated), (3, 15), "and between pieces");
    }
}
