//! What a console is told.

use std::str::FromStr;

use bincode::{Decode, Encode};

use super::within;
use crate::{Error, Fields, limits};

/// Optional field of the set-up: ports.
const PORTS: u16 = 9;

/// A console. Its resource is where the guest's output goes and its input comes from: a terminal, a pseudoterminal's
/// master, a pipe or a stream socket that does not block, a listening one, or a file that is written at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleOptions {
    /// What the driver is told of the terminal's size.
    pub size: Option<ConsoleSize>,
    /// The most bytes that a file is let grow to.
    pub file_limit: Option<u64>,
    /// Its ports in the order of their numbers, each with a resource; none of a device with one, which is a console and has
    /// no name. Optional field, since minor version 5, sent only when there are any: a program that does not know of it
    /// serves one, so a launcher whose user asked for more has to look at the version of its peer. The resources beyond the
    /// first follow by `More`.
    pub ports: Vec<ConsolePort>,
}

/// A port of a console device with several.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ConsolePort {
    /// By which the guest finds it: letters, digits, `.`, `_` and `-`. A console needs none.
    pub name: String,
    /// Whether it is a console, which number 0 alone can be.
    pub console: bool,
}

impl ConsolePort {
    /// Checks its name.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub fn check(&self) -> Result<(), Error> {
        let fine = self.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        let length = if fine { self.name.len() as u64 } else { u64::MAX };
        let (least, most) = (u64::from(!self.console), limits::MAX_PORT_NAME as u64);
        within("length of a port's name", length, least, most, "1 to 64 letters, digits, ., _ and -")
    }
}

/// In characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct ConsoleSize {
    /// Of a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// Not a size that a console can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not COLUMNSxROWS, as in 80x24, each from 1 to 9999")]
pub struct NoConsoleSize;

impl ConsoleSize {
    /// Whether a console can have it.
    #[must_use]
    pub fn is_possible(self) -> bool {
        self.check().is_ok()
    }

    pub(super) fn check(self) -> Result<(), Error> {
        let most = limits::MAX_CONSOLE_SIZE;
        within("columns of a console", self.columns.into(), 1, most.into(), "1 to 9999")?;
        within("rows of a console", self.rows.into(), 1, most.into(), "1 to 9999")
    }
}

impl FromStr for ConsoleSize {
    type Err = NoConsoleSize;

    fn from_str(text: &str) -> Result<Self, NoConsoleSize> {
        let (columns, rows) = text.split_once('x').ok_or(NoConsoleSize)?;
        let count = |text: &str| {
            // A sign would be taken for a number's.
            let digits = text.bytes().all(|digit| digit.is_ascii_digit());
            let count = text.parse().ok().filter(|count| (1..=limits::MAX_CONSOLE_SIZE).contains(count));
            count.filter(|_| digits).ok_or(NoConsoleSize)
        };
        Ok(Self { columns: count(columns)?, rows: count(rows)? })
    }
}

/// The required part as it stands on the wire: zeros for what is not said.
#[derive(Encode, Decode)]
pub(super) struct Wire {
    columns: u16,
    rows: u16,
    file_limit: u64,
}

impl ConsoleOptions {
    /// Checks what is to be sent.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub fn check(&self) -> Result<(), Error> {
        self.size.map_or(Ok(()), ConsoleSize::check)?;
        let count = self.ports.len() as u64;
        within("ports of a console", count, 0, limits::MAX_CONSOLE_PORTS as u64, "at most 8")?;
        self.ports.iter().try_for_each(ConsolePort::check)?;
        let consoles = self.ports.iter().skip(1).filter(|port| port.console).count();
        within("consoles beside port 0", consoles as u64, 0, 0, "none")?;
        match self.file_limit {
            Some(bytes) => within("limit of a console's file", bytes, 1, u64::MAX, "1 or more"),
            None => Ok(()),
        }
    }

    pub(super) fn wire(&self) -> Wire {
        let (columns, rows) = self.size.map_or((0, 0), |size| (size.columns, size.rows));
        Wire { columns, rows, file_limit: self.file_limit.unwrap_or(0) }
    }

    /// How many descriptors there are beside the one of port 0.
    pub(super) fn more(&self) -> u8 {
        u8::try_from(self.ports.len().saturating_sub(1)).unwrap_or(u8::MAX)
    }

    /// The optional fields.
    pub(super) fn fields(&self) -> Result<Fields, Error> {
        if self.ports.is_empty() { Ok(Fields::default()) } else { Fields::default().with(PORTS, &self.ports) }
    }

    pub(super) fn from_wire(wire: &Wire, fields: &Fields) -> Result<Self, Error> {
        let Wire { columns, rows, file_limit } = *wire;
        let size = Some(ConsoleSize { columns, rows }).filter(|_| (columns, rows) != (0, 0));
        let ports = fields.value(PORTS, Vec::new())?;
        Ok(Self { size, file_limit: Some(file_limit).filter(|bytes| *bytes > 0), ports })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_that_a_console_can_have() {
        assert_eq!("132x43".parse(), Ok(ConsoleSize { columns: 132, rows: 43 }));
        for wrong in ["", "80", "80x", "x24", "80x24x1", "+80x24", "80x0", "10000x24", "80 x24", "80X24"] {
            assert_eq!(wrong.parse::<ConsoleSize>(), Err(NoConsoleSize), "{wrong}");
        }
    }
}
