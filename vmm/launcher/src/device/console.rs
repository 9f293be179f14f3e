//! The words of a console that `device-console` serves: where it is, of which one thing is said, and what its driver is
//! told.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use protocol::{ConsoleOptions, ConsolePort, ConsoleSize, limits};

use super::Options;
use crate::error::Error;
use crate::size::Size;

/// `receiveq` and `transmitq`.
const QUEUES: u16 = 2;
/// How the options begin that name a port.
const PORT: &str = "port.";

/// A console that `device-console` serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Console {
    /// Where its ports are, in the order of their numbers.
    pub places: Vec<Place>,
    /// What the program is told.
    pub options: ConsoleOptions,
}

impl Console {
    /// Of its device: two for each port, and two for control where there can be several.
    pub fn queues(&self) -> u16 {
        let ports = u16::try_from(self.options.ports.len()).unwrap_or(u16::MAX);
        if ports == 0 { QUEUES } else { ports.saturating_add(1).saturating_mul(QUEUES) }
    }
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
        let ports = self.ports()?;
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
        self.nothing_misspelt(true)?;
        let said =
            [file.map(Place::Path), pty, stdio, connect.map(Place::Connect), listen.map(Place::Listen)];
        let mut said = said.into_iter().flatten();
        let place = match (said.next(), said.next()) {
            (Some(place), None) => Some(place),
            (None, _) if !ports.is_empty() => None,
            _ => {
                return Err(self.wrong(
                    "say where it is, once: path=FILE, pty=on, stdio=on, connect=PATH, listen=PATH or socket=PATH"
                        .to_owned(),
                ));
            }
        };
        let console = numbered(place, ports, size, file_limit);
        console.options.check().map_err(|error| self.wrong(error.to_string()))?;
        match queues.filter(|queues| *queues != console.queues()) {
            Some(queues) => {
                let has = console.queues();
                Err(self.wrong(format!("queues={queues}: this virtio-console has {has} queues")))
            }
            None => Ok(console),
        }
    }

    /// The ports that have names, by these.
    fn ports(&mut self) -> Result<BTreeMap<String, Place>, Error> {
        self.takes_ports = true;
        let mut ports = BTreeMap::new();
        for (key, text) in &self.word.options {
            let Some(name) = key.strip_prefix(PORT) else { continue };
            let place = match (text.as_str(), text.split_once(':')) {
                ("pty", _) => Place::Pty,
                (_, Some(("path", path))) => Place::Path(PathBuf::from(path)),
                (_, Some(("connect", path))) => Place::Connect(PathBuf::from(path)),
                (_, Some(("listen", path))) => Place::Listen(PathBuf::from(path)),
                _ => {
                    let places = "path:FILE, pty, connect:PATH or listen:PATH";
                    return Err(self.wrong(format!("{key}={text}: a port is at {places}")));
                }
            };
            let port = ConsolePort { name: name.to_owned(), console: false };
            port.check().map_err(|error| self.wrong(format!("{key}: {error}")))?;
            ports.insert(port.name, place);
        }
        Ok(ports)
    }

    /// Whether `key` names a port of a device that has them.
    pub(super) fn is_known_port(&self, key: &str) -> bool {
        self.takes_ports && key.starts_with(PORT)
    }

    fn limit(&self, text: &str) -> Result<u64, Error> {
        match text.parse() {
            Ok(Size(bytes)) if bytes > 0 => Ok(bytes),
            Ok(_) => Err(self.wrong(format!("limit={text}: write a size, or off for none"))),
            Err(error) => Err(self.wrong(format!("limit={text}: {error}"))),
        }
    }
}

/// The console has number 0, the others follow in the order of their names; one console alone needs no numbers.
fn numbered(
    console: Option<Place>,
    ports: BTreeMap<String, Place>,
    size: Option<ConsoleSize>,
    file_limit: Option<u64>,
) -> Console {
    let mut described = Vec::new();
    if !ports.is_empty() {
        described.extend(console.iter().map(|_| ConsolePort { name: String::new(), console: true }));
        described.extend(ports.keys().map(|name| ConsolePort { name: name.clone(), console: false }));
    }
    let places = console.into_iter().chain(ports.into_values()).collect();
    Console { places, options: ConsoleOptions { size, file_limit, ports: described } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{BackEnd, devices};

    fn parsed(word: &str) -> Result<Console, String> {
        match devices(&[word.parse().unwrap()]).map(|mut devices| devices.remove(0)) {
            Ok(device) => {
                assert_eq!(device.virtio_type, 3);
                let BackEnd::Console(console) = device.back_end else { panic!("{:?}", device.back_end) };
                assert_eq!(device.queues, console.queues());
                Ok(console)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_console_is_in_one_place() {
        let place = |word| parsed(word).unwrap().places.remove(0);
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
    fn ports_are_numbered_by_name_after_the_console() {
        let console = parsed("console,port.b=listen:/b,pty=on,port.a.0=path:/a,,x,queues=8").unwrap();
        let path = |path: &str| PathBuf::from(path);
        assert_eq!(console.places, [Place::Pty, Place::Path(path("/a,x")), Place::Listen(path("/b"))]);
        let port = |name: &str, console| ConsolePort { name: name.to_owned(), console };
        assert_eq!(console.options.ports, [port("", true), port("a.0", false), port("b", false)]);
        let console = parsed("console,port.a=connect:/a").unwrap();
        assert_eq!((console.places.len(), console.options.ports), (1, vec![port("a", false)]));
        let many = |count| (0..count).map(|number| format!(",port.p{number}=pty")).collect::<String>();
        assert_eq!(parsed(&format!("console{}", many(8))).unwrap().queues(), 18);
        assert!(parsed(&format!("console,pty=on{}", many(8))).unwrap_err().contains("at most 8"));
    }

    #[test]
    fn what_its_program_is_told_has_defaults() {
        let options = |word| parsed(word).unwrap().options;
        let usual = ConsoleOptions { size: None, file_limit: Some(64 << 20), ports: Vec::new() };
        assert_eq!(options("console,path=f"), usual);
        let size = Some(ConsoleSize { columns: 132, rows: 43 });
        let limited = ConsoleOptions { size, file_limit: Some(1 << 20), ports: Vec::new() };
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
            ("console,pty=on,queues=4", "has 2 queues"),
            ("console,pty=on,port.a=pty,queues=4", "has 6 queues"),
            ("console,port.a=b", "port.a=b: a port is at"),
            ("console,port.=pty", "1 to 64 letters"),
            ("console,port.a b=pty", "1 to 64 letters"),
            ("rng,port.a=pty", "unknown option 'port.a'"),
            ("console,pty=on,spare=on,on-failure=stop", "on-failure=restart alone"),
        ] {
            let said = parsed(word).unwrap_err();
            assert!(said.contains(part), "{word}: {said}");
        }
    }
}
