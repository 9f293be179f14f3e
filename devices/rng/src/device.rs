//! The virtio entropy device (virtio 1.3, §5.4): one queue, no features, no configuration. The driver offers buffers
//! that the device may write; each comes back with at least one random byte in it.
//!
//! The kernel writes a generator's bytes straight into guest memory. This process never has a copy: what a guest makes
//! its keys of cannot be left behind in a buffer, and is given to nobody twice.

use std::fs::{File, FileType};
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;

use device_backend::{Device, Error, Handler, Reader, Service, Writer, read_at};

/// Most bytes for one request. The device may use less than the whole buffer (§5.4.6.1), and the driver asks again.
///
/// A request may be as large as guest memory, a hardware generator as slow as some KiB a second, and stopping a ring
/// waits for the request in hand: a bound is what makes that wait short. Linux asks for 64 bytes at a time.
const MOST: usize = 4096;

/// A generator of the host as a virtio device.
#[derive(Debug)]
pub struct Rng {
    source: File,
}

/// Whether a file of this type can be a generator.
///
/// # Errors
/// Says what it is not: a regular file, for one, would give each guest the same bytes.
pub fn check(file_type: FileType) -> Result<(), &'static str> {
    if file_type.is_char_device() {
        Ok(())
    } else {
        Err("it is not a character device, as a generator (/dev/urandom, /dev/hwrng) is")
    }
}

impl Rng {
    /// Serves from `source`, which must give a byte (that nobody gets to see).
    ///
    /// # Errors
    /// A source that is no generator, has ended, or fails.
    pub fn new(source: File) -> Result<Self, Error> {
        let wrong = |what: &str| Error::Resource(format!("the source of entropy cannot be used: {what}"));
        let file_type = source.metadata().map_err(|error| wrong(&error.to_string()))?.file_type();
        check(file_type).map_err(wrong)?;
        match read_at(&source, &mut [0], 0) {
            Ok(0) => Err(wrong("it gives nothing")),
            Ok(_) => Ok(Self { source }),
            Err(errno) => Err(wrong(errno.desc())),
        }
    }
}

impl Device for Rng {
    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn queues(&self) -> u16 {
        1
    }

    fn service(self: &Arc<Self>, _queue: u16) -> Service {
        Service::Requests(Box::new(RequestQueue(Arc::clone(self))))
    }
}

/// `requestq`, the only queue.
struct RequestQueue(Arc<Rng>);

impl Handler for RequestQueue {
    /// What the driver put into the buffer for reading, which it must not (§5.4.6.2), is not looked at.
    fn handle(
        &mut self,
        _features: u64,
        _reader: Reader<'_, '_>,
        mut writer: Writer<'_, '_>,
    ) -> Result<u32, &'static str> {
        let _untouched = writer.split_off(MOST);
        let room = writer.remaining();
        if room == 0 {
            return Err("a request for entropy has nothing to write to");
        }
        // An error after the first byte is the next request's. Before it there is no answer: none that says
        // "failed" exists, and a driver told of zero bytes asks again at once, for ever.
        let _ = writer.fill_from(&self.0.source, 0);
        match u32::try_from(room.saturating_sub(writer.remaining())) {
            Ok(written) if written > 0 => Ok(written),
            _ => Err("the source of entropy gives nothing any more"),
        }
    }

    /// With one byte, the least that the device owes (§5.4.6.2) and the least that can go wrong again. None at all would be
    /// the end of it: Linux takes that for the device being taken away, and waits for a completion without a request.
    fn refuse(&mut self, mut writer: Writer<'_, '_>) -> Result<u32, &'static str> {
        let _untouched = writer.split_off(1);
        if writer.remaining() == 0 {
            return Err("a request for entropy has nothing to write to");
        }
        let _ = writer.fill_from(&self.0.source, 0);
        if writer.remaining() == 0 { Ok(1) } else { Err("the source of entropy gives nothing any more") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::VolatileSlice;

    fn rng(path: &str) -> Result<Rng, Error> {
        Rng::new(File::open(path).unwrap())
    }

    /// One request with two writable pieces, the first of `first` bytes.
    fn request(rng: Rng, buffer: &mut [u8], first: usize) -> Result<u32, &'static str> {
        let (left, right) = buffer.split_at_mut(first);
        let slices = [VolatileSlice::from(left), VolatileSlice::from(right)];
        let mut handler = RequestQueue(Arc::new(rng));
        handler.handle(0, Reader::new(&[]), Writer::new(&slices))
    }

    #[test]
    fn every_byte_of_a_request_is_written() {
        let mut buffer = [0xff; 100];
        assert_eq!(request(rng("/dev/zero").unwrap(), &mut buffer, 33), Ok(100));
        assert_eq!(buffer, [0; 100]);
    }

    #[test]
    fn a_large_request_gets_its_bound_and_nothing_behind_it() {
        let mut buffer = vec![0xff; 1 << 20];
        assert_eq!(request(rng("/dev/zero").unwrap(), &mut buffer, 1000), Ok(4096));
        assert!(
            buffer[..MOST].iter().all(|byte| *byte == 0) && buffer[MOST..].iter().all(|byte| *byte == 0xff)
        );
    }

    #[test]
    fn two_requests_get_different_bytes() {
        let (mut one, mut other) = ([0; 32], [0; 32]);
        assert_eq!(request(rng("/dev/urandom").unwrap(), &mut one, 5), Ok(32));
        assert_eq!(request(rng("/dev/urandom").unwrap(), &mut other, 5), Ok(32));
        assert_ne!(one, other);
    }

    #[test]
    fn a_request_without_room_and_one_without_a_byte_to_give_are_no_answers() {
        assert!(request(rng("/dev/urandom").unwrap(), &mut [], 0).is_err());
        let ended = Rng { source: File::open("/dev/null").unwrap() };
        let mut buffer = [0xff; 8];
        assert!(request(ended, &mut buffer, 4).is_err());
        assert_eq!(buffer, [0xff; 8]);
    }

    #[test]
    fn a_refused_request_gets_one_byte_for_a_driver_with_none_waits_for_ever() {
        let mut buffer = [0xff; 8];
        let slices = [VolatileSlice::from(&mut buffer[..])];
        let mut handler = RequestQueue(Arc::new(rng("/dev/urandom").unwrap()));
        assert_eq!(handler.refuse(Writer::new(&slices)), Ok(1));
        assert_eq!(buffer[1..], [0xff; 7]);
        assert!(handler.refuse(Writer::new(&[])).is_err());
        let mut other = [0xff; 8];
        let slices = [VolatileSlice::from(&mut other[..])];
        let mut ended = RequestQueue(Arc::new(Rng { source: File::open("/dev/null").unwrap() }));
        assert!(ended.refuse(Writer::new(&slices)).is_err());
    }

    #[test]
    fn what_is_no_generator_or_gives_nothing_is_refused() {
        assert!(rng("/proc/self/exe").unwrap_err().to_string().contains("not a character device"));
        assert!(rng("/dev/null").unwrap_err().to_string().contains("gives nothing"));
    }
}
