//! What a console is told.

use std::str::FromStr;

use bincode::{Decode, Encode};

use super::within;
use crate::{Error, limits};

/// A console. The resource is where the guest's output goes and its input comes from: a terminal, a pseudoterminal's
/// master, a pipe or a stream socket that does not block, a listening one, or a file that is written at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleOptions {
    /// What the driver is told of the terminal's size.
    pub size: Option<ConsoleSize>,
    /// The most bytes that a file is let grow to.
    pub file_limit: Option<u64>,
}

/// In characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    pub(super) fn check(&self) -> Result<(), Error> {
        if let Some(ConsoleSize { columns, rows }) = self.size {
            let most = limits::MAX_CONSOLE_SIZE;
            within("columns of a console", columns.into(), 1, most.into(), "1 to 9999")?;
            within("rows of a console", rows.into(), 1, most.into(), "1 to 9999")?;
        }
        match self.file_limit {
            Some(bytes) => within("limit of a console's file", bytes, 1, u64::MAX, "1 or more"),
            None => Ok(()),
        }
    }

    pub(super) fn wire(&self) -> Wire {
        let (columns, rows) = self.size.map_or((0, 0), |size| (size.columns, size.rows));
        Wire { columns, rows, file_limit: self.file_limit.unwrap_or(0) }
    }

    pub(super) fn from_wire(wire: &Wire) -> Self {
        let Wire { columns, rows, file_limit } = *wire;
        let size = Some(ConsoleSize { columns, rows }).filter(|_| (columns, rows) != (0, 0));
        Self { size, file_limit: Some(file_limit).filter(|bytes| *bytes > 0) }
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
