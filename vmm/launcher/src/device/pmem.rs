//! The words of persistent memory: a file that becomes memory of the guest, whose flushes `device-pmem` serves.

use std::path::PathBuf;

use protocol::limits;

use super::Options;
use crate::error::Error;
use crate::size::Size;

/// `req_vq` (virtio 1.2, 5.19.2).
pub const QUEUES: u16 = 1;

/// Persistent memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pmem {
    /// The file or block device.
    pub path: PathBuf,
    /// How much of it, from its start; all if nothing is said.
    pub size: Option<Size>,
    /// Whether the guest can only read it.
    pub readonly: bool,
    /// Whether to claim it against other programs.
    pub lock: bool,
}

impl Options<'_> {
    pub(super) fn pmem(&mut self, socket: Option<&str>, queues: Option<u16>) -> Result<Pmem, Error> {
        if socket.is_some() {
            // Memory is the core's to map: a back end of somebody else could not bring it along.
            let text = "socket=: the memory is a file of yours, served by device-pmem: give path=FILE";
            return Err(self.wrong(text.to_owned()));
        }
        if let Some(queues) = queues.filter(|queues| *queues != QUEUES) {
            return Err(self.wrong(format!("queues={queues}: a virtio-pmem has one queue")));
        }
        let path = self.text("path").filter(|path| !path.is_empty());
        let size = self.text("size").map(|text| self.memory_size(text)).transpose()?;
        let (readonly, lock) = (self.switch("readonly", false)?, self.switch("lock", true)?);
        self.nothing_misspelt(true)?;
        let path = path.ok_or_else(|| self.wrong("path=FILE is not given".to_owned()))?;
        Ok(Pmem { path: PathBuf::from(path), size, readonly, lock })
    }

    fn memory_size(&self, text: &str) -> Result<Size, Error> {
        let size: Size = text.parse().map_err(|error| self.wrong(format!("size={text}: {error}")))?;
        if size.0 == 0 || !size.0.is_multiple_of(limits::PMEM_ALIGNMENT) {
            return Err(self.wrong(format!("size={text} is not a multiple of 2M")));
        }
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{BackEnd, Device, devices};

    fn parsed(word: &str) -> Result<Device, Error> {
        Ok(devices(&[word.parse().unwrap()])?.remove(0))
    }

    #[test]
    fn memory_has_the_options_that_it_was_given() {
        let pmem = |word: &str| match parsed(word).unwrap().back_end {
            BackEnd::Pmem(pmem) => pmem,
            other => panic!("{other:?}"),
        };
        let plain = Pmem { path: PathBuf::from("f"), size: None, readonly: false, lock: true };
        assert_eq!(pmem("pmem,path=f"), plain);
        let full = Pmem { size: Some(Size(4 << 20)), readonly: true, lock: false, ..plain };
        assert_eq!(pmem("pmem,path=f,size=4M,readonly=on,lock=off,queues=1"), full);
        let device = parsed("pmem,path=f,queue-size=64,spare=on,operations=10").unwrap();
        assert_eq!((device.name.as_str(), device.virtio_type, device.queues), ("pmem0", 27, 1));
        assert!(device.queue_size == 64 && device.spare && device.rates.any());
    }

    #[test]
    fn what_makes_no_memory_is_refused() {
        for (word, says) in [
            ("pmem", "path=FILE is not given"),
            ("pmem,path=", "path=FILE is not given"),
            ("pmem,socket=/s", "path=FILE"),
            ("pmem,path=f,queues=2", "one queue"),
            ("pmem,path=f,size=3M", "multiple of 2M"),
            ("pmem,path=f,size=0M", "multiple of 2M"),
            ("pmem,path=f,size=4", "no unit"),
            ("pmem,path=f,readonly=yes", "neither on nor off"),
            ("pmem,path=f,readnoly=on", "did you mean 'readonly'"),
        ] {
            let said = parsed(word).unwrap_err().to_string();
            assert!(said.contains(says), "{word}: {said}");
        }
    }
}
