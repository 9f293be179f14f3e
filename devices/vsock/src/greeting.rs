//! How a program of the host says which port of the guest it wants: `CONNECT port`, a line (the convention of Firecracker
//! and Cloud Hypervisor). Pure.
//!
//! What follows the line is the guest's, and is left in the socket: no more is read than a line must still have.

/// `CONNECT 1` and the line's end.
const SHORTEST: usize = 10;
/// With the largest port, and a carriage return.
const LONGEST: usize = 20;

/// A line, as far as it was read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Greeting {
    line: [u8; LONGEST],
    read: usize,
}

/// What it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Its end is not there.
    NotAll,
    /// Which port is wanted.
    Port(u32),
    /// Something else.
    Nonsense,
}

impl Greeting {
    /// Where the next bytes go; as many may be read.
    pub fn place(&mut self) -> &mut [u8] {
        let wanted = SHORTEST.saturating_sub(self.read).max(1);
        let end = self.read.saturating_add(wanted);
        self.line.get_mut(self.read..end).unwrap_or_default()
    }

    /// So many bytes were read to that place.
    pub fn read(&mut self, bytes: usize) -> Said {
        self.read = self.read.saturating_add(bytes).min(LONGEST);
        let line = self.line.get(..self.read).unwrap_or_default();
        match line.split_last() {
            Some((b'\n', line)) => port(line).map_or(Said::Nonsense, Said::Port),
            _ if line.contains(&b'\n') || self.read == LONGEST => Said::Nonsense,
            _ => Said::NotAll,
        }
    }
}

fn port(line: &[u8]) -> Option<u32> {
    let line = std::str::from_utf8(line).ok()?;
    let line = line.strip_suffix('\r').unwrap_or(line);
    let (word, port) = line.split_once(' ')?;
    // A sign would be taken for a number's.
    let digits = port.bytes().all(|digit| digit.is_ascii_digit());
    port.parse().ok().filter(|_| digits && word.eq_ignore_ascii_case("CONNECT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said by `text` that comes in pieces of `most` bytes, and how much of it was read.
    fn said(text: &str, most: usize) -> (Said, usize) {
        let mut greeting = Greeting::default();
        let mut rest = text.as_bytes();
        loop {
            let place = greeting.place();
            let count = place.len().min(most).min(rest.len());
            if count == 0 {
                return (Said::NotAll, text.len().saturating_sub(rest.len()));
            }
            place[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            match greeting.read(count) {
                Said::NotAll => {}
                said => return (said, text.len().saturating_sub(rest.len())),
            }
        }
    }

    #[test]
    fn a_line_is_read_to_its_end_and_not_a_byte_further() {
        for most in [1, 3, 100] {
            for (line, port) in [
                ("CONNECT 1\n", 1),
                ("CONNECT 1024\n", 1024),
                ("connect 4294967295\r\n", u32::MAX),
                ("CONNECT 007\n", 7),
            ] {
                let text = format!("{line}CONNECT 5\nand more");
                assert_eq!(said(&text, most), (Said::Port(port), line.len()), "{line} by {most}");
            }
        }
    }

    #[test]
    fn what_is_no_greeting_is_known_as_soon_as_it_can_be() {
        for text in [
            "CONNECT\n4\n1234",
            "CONNECT +1\n",
            "CONNECT -1\n",
            "CONNECT 4294967296\n",
            "CONNECT  10\n",
            "CONNECT 10 \n",
            "CONNEKT 10\n",
            "CONNECT 0x10\n",
            "\n\n\n\n\n\n\n\n\n\n",
            "GET / HTTP/1.1\r\n\r\n",
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "CONNECT \u{e9}1\n",
        ] {
            let (said, read) = said(text, 100);
            assert!(said == Said::Nonsense && read <= LONGEST, "{text}: {said:?} after {read}");
        }
        assert_eq!(said("CONNECT 12", 100), (Said::NotAll, 10));
        assert_eq!(said("", 100), (Said::NotAll, 0));
    }
}
