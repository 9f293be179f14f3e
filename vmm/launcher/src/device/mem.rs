//! The words of memory that the guest plugs in and out, which `device-mem` serves.

use protocol::{MemOptions, MemoryRegion, limits};

use super::{BackEnd, Device, Options};
use crate::error::Error;
use crate::size::Size;

/// `guest_request_queue` (virtio 1.2, 5.15.2).
pub const QUEUES: u16 = 1;
/// Of a machine: with two of RAM they are the regions of memory that every vhost-user back end takes.
const MOST: usize = 6;

impl Options<'_> {
    /// Where it lies is not known before all memory is.
    pub(super) fn mem(&mut self, socket: Option<&str>, queues: Option<u16>) -> Result<MemOptions, Error> {
        if socket.is_some() {
            // Memory is the core's to map: a back end of somebody else could not bring it along.
            return Err(
                self.wrong("socket=: the memory is vmm's, served by device-mem: give size=SIZE".to_owned())
            );
        }
        if let Some(queues) = queues.filter(|queues| *queues != QUEUES) {
            return Err(self.wrong(format!("queues={queues}: a virtio-mem has one queue")));
        }
        let size = self.text("size").map(|text| self.mem_size("size", text)).transpose()?;
        let block = self.text("block").map(|text| self.mem_size("block", text)).transpose()?;
        let requested = self.text("requested").map(|text| self.mem_size("requested", text)).transpose()?;
        self.nothing_misspelt(false)?;
        let size = size.ok_or_else(|| self.wrong("size=SIZE is not given".to_owned()))?;
        let block = block.unwrap_or_else(|| usual_block(size));
        // Wherever it is going to lie.
        let region = MemoryRegion { guest_phys: limits::MAX_MEM_BLOCK, size };
        let options = MemOptions { region, block, requested: requested.unwrap_or(0) };
        options.check().map_err(|error| self.wrong(format!("blocks of {}: {error}", Size(block))))?;
        Ok(options)
    }

    fn mem_size(&self, key: &str, text: &str) -> Result<u64, Error> {
        let size: Size = text.parse().map_err(|error| self.wrong(format!("{key}={text}: {error}")))?;
        Ok(size.0)
    }
}

/// The smallest that makes no more of them than can be kept track of.
fn usual_block(size: u64) -> u64 {
    let least = size.div_ceil(limits::MAX_MEM_BLOCKS).checked_next_power_of_two().unwrap_or(u64::MAX);
    least.clamp(limits::MIN_MEM_BLOCK, limits::MAX_MEM_BLOCK)
}

/// Each is a region of memory of its own.
pub(super) fn few(others: &[Device], device: &Device) -> Result<(), Error> {
    let is_mem = |device: &&Device| matches!(device.back_end, BackEnd::Mem(_));
    if is_mem(&device) && others.iter().filter(is_mem).count() >= MOST {
        let text = format!("a machine has at most {MOST} of them");
        return Err(Error::Device { name: device.name.clone(), text });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::devices;

    fn parsed(word: &str) -> Result<MemOptions, String> {
        let device = devices(&[word.parse().unwrap()]).map_err(|error| error.to_string())?.remove(0);
        assert_eq!((device.virtio_type, device.queues), (24, QUEUES));
        match device.back_end {
            BackEnd::Mem(options) => Ok(options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn blocks_are_as_small_as_they_can_be_unless_the_user_says_otherwise() {
        let of = |word: &str| {
            let options = parsed(word).unwrap();
            (options.region.size >> 20, options.block >> 20, options.requested >> 20)
        };
        assert_eq!(of("mem,size=4G"), (4096, 2, 0));
        assert_eq!(of("mem,size=4G,block=128M,requested=1G,queues=1"), (4096, 128, 1024));
        assert_eq!(of("mem,size=31G").1, 2);
        assert_eq!(of("mem,size=32G").1, 4);
        assert_eq!(of("mem,size=384G").1, 32);
    }

    #[test]
    fn slips_are_named() {
        for (word, part) in [
            ("mem", "size=SIZE is not given"),
            ("mem,socket=/s", "size=SIZE"),
            ("mem,size=4", "no unit"),
            ("mem,size=0M", "whole blocks"),
            ("mem,size=3M", "whole blocks"),
            ("mem,size=385G", "whole blocks"),
            ("mem,size=4G,block=3M", "a power of two"),
            ("mem,size=4G,block=2G", "a power of two"),
            ("mem,size=4G,requested=5G", "memory that is wanted"),
            ("mem,size=4G,requested=1M", "memory that is wanted"),
            ("mem,size=4G,queues=2", "one queue"),
            ("mem,size=4G,operations=5", "unknown option 'operations'"),
            ("mem,siez=4G", "did you mean 'size'"),
        ] {
            let said = parsed(word).unwrap_err();
            assert!(said.contains(part), "{word}: {said}");
        }
        let words: Vec<_> = (0..7).map(|_| "mem,size=2M".parse().unwrap()).collect();
        assert!(devices(&words[..6]).is_ok());
        assert!(devices(&words).unwrap_err().to_string().contains("mem6"));
    }
}
