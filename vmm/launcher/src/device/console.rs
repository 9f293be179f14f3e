//! The words of a console that `device-console` serves: where it is, of which one thing is said, and what its driver is
//! told.

use std::fmt;
use std::path::PathBuf;

use protocol::{ConsoleOptions, limits};

use super::Options;
use crate::error::Error;
use crate::size::Size;

/// `receiveq` and `transmitq`.
pub const QUEUES: u16 = 2;

/// A console that `device-console` serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Console {
    /// Where it is.
    pub place: Place,
    /// What the program is told.
    pub options: ConsoleOptions,
}

/// Where a console is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file, a pipe or a terminal.
    Path(PathBuf),
    /// A pseudoterminal that is made.
    Pty,
    /// The terminal on standard input.
    Stdio,
    /// Whoever listens there.
    Connect(PathBuf),
    /// Whoever connects there.
    Listen(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Path(path) => write!(f, "open   {}, a file for appending", path.display()),
            Place::Pty => write!(f, "make   a pseudoterminal"),
            Place::Stdio => write!(f, "open   the terminal on standard input again for reading and writing"),
            Place::Connect(path) => write!(f, "connect to {}", path.display()),
            Place::Listen(path) => write!(f, "listen at {}, mode 0600", path.display()),
        }
    }
}

impl Options<'_> {
    pub(super) fn console(&mut self, queues: Option<u16>) -> Result<Console, Error> {
        if let Some(queues) = queues.filter(|queues| *queues != QUEUES) {
            return Err(self.wrong(format!("queues={queues}: a virtio-console with one port has two queues")));
        }
        let mut path = |key| self.text(key).filter(|path| !path.is_empty()).map(PathBuf::from);
        let (file, connect, listen) = (path("path"), path("connect"), path("listen"));
        let pty = self.switch("pty", false)?.then_some(Place::Pty);
        let stdio = self.switch("stdio", false)?.then_some(Place::Stdio);
        let size = self.text("size").map(|text| text.parse().map_err(|error| (text, error))).transpose();
        let size = size.map_err(|(text, error)| self.wrong(format!("size={text}: {error}")))?;
        let file_limit = match self.text("limit") {
            None => Some(limits::DEFAULT_CONSOLE_FILE),
            Some("off") => None,
            Some(text) => Some(self.limit(text)?),
        };
        self.known.extend(["on-failure", "give-up", "spare"]);
        // A slip in the name of an option is the likelier cause, and says more.
        self.nothing_else()?;
        let said =
            [file.map(Place::Path), pty, stdio, connect.map(Place::Connect), listen.map(Place::Listen)];
        let mut said = said.into_iter().flatten();
        match (said.next(), said.next()) {
            (Some(place), None) => Ok(Console { place, options: ConsoleOptions { size, file_limit } }),
            _ => Err(self.wrong(
                "say where it is, once: path=FILE, pty=on, stdio=on, connect=PATH, listen=PATH or socket=PATH".to_owned(),
            )),
        }
    }

    fn limit(&self, text: &str) -> Result<u64, Error> {
        match text.parse() {
            Ok(Size(bytes)) if bytes > 0 => Ok(bytes),
            Ok(_) => Err(self.wrong(format!("limit={text}: write a size, or off for none"))),
            Err(error) => Err(self.wrong(format!("limit={text}: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::ConsoleSize;

    use super::*;
    use crate::device::{BackEnd, devices};

    fn parsed(word: &str) -> Result<Console, String> {
        match devices(&[word.parse().unwrap()]).map(|mut devices| devices.remove(0)) {
            Ok(device) => {
                assert_eq!((device.virtio_type, device.queues), (3, QUEUES));
                let BackEnd::Console(console) = device.back_end else { panic!("{:?}", device.back_end) };
                Ok(console)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_console_is_in_one_place() {
        let place = |word| parsed(word).unwrap().place;
        assert_eq!(place("console,pty=on"), Place::Pty);
        assert_eq!(place("console,stdio=on,pty=off,queues=2"), Place::Stdio);
        assert_eq!(place("console,path=f"), Place::Path(PathBuf::from("f")));
        assert_eq!(place("console,connect=/c"), Place::Connect(PathBuf::from("/c")));
        assert_eq!(place("console,listen=/l"), Place::Listen(PathBuf::from("/l")));
        for word in ["console", "console,pty=off", "console,path=", "console,pty=on,path=f"] {
            assert!(parsed(word).unwrap_err().contains("say where it is, once"), "{word}");
        }
    }

    #[test]
    fn what_its_program_is_told_has_defaults() {
        let options = |word| parsed(word).unwrap().options;
        let usual = ConsoleOptions { size: None, file_limit: Some(64 << 20) };
        assert_eq!(options("console,path=f"), usual);
        let size = Some(ConsoleSize { columns: 132, rows: 43 });
        let limited = ConsoleOptions { size, file_limit: Some(1 << 20) };
        assert_eq!(options("console,path=f,size=132x43,limit=1M"), limited);
        assert_eq!(options("console,path=f,limit=off").file_limit, None);
    }

    #[test]
    fn slips_are_named() {
        for (word, part) in [
            ("console,pty=on,size=80", "size=80: it is not COLUMNSxROWS"),
            ("console,path=f,limit=0M", "limit=0M"),
            ("console,path=f,limit=1", "has no unit"),
            ("console,pty=yes", "neither on nor off"),
            ("console,ptty=on", "did you mean 'pty'"),
            ("console,pty=on,queues=4", "two queues"),
            ("console,pty=on,spare=on,on-failure=stop", "on-failure=restart alone"),
        ] {
            let said = parsed(word).unwrap_err();
            assert!(said.contains(part), "{word}: {said}");
        }
    }
}
