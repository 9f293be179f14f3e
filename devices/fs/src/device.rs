//! The virtio file system device (virtio 1.2, §5.11): its configuration, and requests between a queue and the server. No
//! direct access to files (§5.11.6.4) and no notifications are offered.

use std::fs::File;
use std::sync::Arc;

use device_backend::{Device, Durability, Error, Handler, Outside, Reader, Service, Writer};
use nix::errno::Errno;
use protocol::FsOptions;

use crate::host::Host;
use crate::request::{self, LONGEST, Operation, Span};
use crate::server::Server;
use crate::wire::{self, IN_HEADER, InHeader, OUT_HEADER, WRITE_IN, opcode};

/// A directory of the host as a virtio device.
#[derive(Debug)]
pub struct Fs {
    server: Arc<Server>,
    options: FsOptions,
}

impl Fs {
    /// Serves the root of this process.
    ///
    /// # Errors
    /// [`Error::Resource`]: it cannot be used.
    pub fn new(options: FsOptions) -> Result<Self, Error> {
        let host = Host::new(options.readonly);
        Self::on(host, options)
    }

    /// Serves `directory` in a process that has another root.
    ///
    /// # Errors
    /// [`Error::Resource`]: it cannot be used.
    #[cfg(feature = "fuzzing")]
    pub fn at(directory: File, options: FsOptions) -> Result<Self, Error> {
        Self::on(Host::at(directory, options.readonly), options)
    }

    fn on(host: Result<Host, String>, options: FsOptions) -> Result<Self, Error> {
        let wrong = |what: &str| Error::Resource(format!("the directory cannot be used: {what}"));
        let host = host.map_err(|what| wrong(&what))?;
        let server = Server::new(host).map_err(|errno| wrong(errno.desc()))?;
        Ok(Self { server: Arc::new(server), options })
    }
}

impl Device for Fs {
    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> Vec<u8> {
        let mut config = self.options.tag.clone().into_bytes();
        config.resize(wire::TAG, 0);
        config.extend(u32::from(self.options.queues).to_le_bytes());
        config
    }

    fn queues(&self) -> u16 {
        self.options.all_queues()
    }

    fn reset(&self) -> bool {
        self.server.clear();
        false
    }

    fn service(self: &Arc<Self>, _queue: u16) -> Service {
        Service::Requests(Box::new(RequestQueue(Arc::clone(&self.server))))
    }
}

/// The header of a request of which nothing is looked at.
const UNKNOWN: InHeader = InHeader { length: 0, opcode: opcode::INTERRUPT, unique: 0, node: 0 };

/// Any of the queues: each serves every operation.
struct RequestQueue(Arc<Server>);

impl Handler for RequestQueue {
    fn handle(
        &mut self,
        _features: u64,
        mut reader: Reader<'_, '_>,
        writer: Writer<'_, '_>,
    ) -> Result<u32, &'static str> {
        let mut bytes = [0; IN_HEADER];
        reader.read_exact(&mut bytes).map_err(|_| "a request is shorter than its header")?;
        let header = InHeader::from_bytes(&bytes);
        // What the driver says of the length behind the header is not needed: the descriptors say it.
        let body = reader.remaining().min(if header.opcode == opcode::WRITE { WRITE_IN } else { LONGEST });
        let mut buffer = vec![0; body];
        reader.read_exact(&mut buffer).map_err(|_| "a request is shorter than it is")?;
        match request::parse(&header, &buffer) {
            Ok(Operation::Write(span)) => answer(writer, &header, self.write(span, reader).map(Some)),
            Ok(Operation::Read(span)) => self.read(&header, span, writer),
            Ok(operation) => answer(writer, &header, self.0.operate(header.node, operation)),
            Err(errno) => answer(writer, &header, Err(errno)),
        }
    }

    /// With an I/O error, and without the number of the request, for nothing of it is looked at: the driver knows what it
    /// put into the buffer.
    fn refuse(&mut self, writer: Writer<'_, '_>) -> Result<u32, &'static str> {
        answer(writer, &UNKNOWN, Err(Errno::EIO))
    }

    /// With an I/O error: an application that reads or writes past the page cache (O_DIRECT) into a file in persistent memory
    /// (DAX) has the guest's kernel make such requests.
    fn refuse_outside(&mut self, request: Outside<'_, '_>) -> Result<u32, &'static str> {
        let (mut bytes, mut reader) = ([0; IN_HEADER], request.reader);
        let header = reader.read_exact(&mut bytes).map_or(UNKNOWN, |()| InHeader::from_bytes(&bytes));
        answer(request.before, &header, Err(Errno::EIO))
    }
}

impl RequestQueue {
    /// From guest memory straight into the file.
    fn write(&self, span: Span, mut data: Reader<'_, '_>) -> Result<Vec<u8>, Errno> {
        let handle = self.0.handle(span.handle)?;
        let _more = data.split_off(length(span)?);
        let written = write_what_fits(&mut data, &handle.file, span.offset)?;
        Ok(wire::write_out(u32::try_from(written).unwrap_or(u32::MAX)))
    }

    /// From the file straight into guest memory, behind the header.
    fn read(&self, header: &InHeader, span: Span, mut writer: Writer<'_, '_>) -> Result<u32, &'static str> {
        let mut data = writer.split_off(OUT_HEADER);
        let read = self.0.handle(span.handle).and_then(|handle| {
            let _more = data.split_off(length(span)?);
            data.fill_from(&handle.file as &File, span.offset)
        });
        match read {
            Ok(bytes) => {
                let length = total(bytes).ok_or("an answer is too long")?;
                head(&mut writer, &wire::out_header(length, 0, header.unique))?;
                Ok(length)
            }
            Err(errno) => answer(writer, header, Err(errno)),
        }
    }
}

/// Writes, and answers how many bytes: an error that comes after some is told by the next write, as write(2) does it, or the
/// guest takes for unwritten what is in the file.
fn write_what_fits(data: &mut Reader<'_, '_>, file: &File, offset: u64) -> Result<usize, Errno> {
    let all = data.remaining();
    match data.drain_to(file, offset, Durability::Flushed) {
        Err(errno) if data.remaining() == all => Err(errno),
        Err(_) => Ok(all.saturating_sub(data.remaining())),
        written => written,
    }
}

/// Bytes that are to be moved, at most as many as the driver was told it may ask for.
fn length(span: Span) -> Result<usize, Errno> {
    let end = span.offset.checked_add(span.size.into()).filter(|end| i64::try_from(*end).is_ok());
    end.ok_or(Errno::EFBIG)?;
    usize::try_from(span.size.min(wire::MAX_TRANSFER)).map_err(|_| Errno::EINVAL)
}

/// Bytes of an answer with so many behind its header.
fn total(bytes: usize) -> Option<u32> {
    u32::try_from(bytes.checked_add(OUT_HEADER)?).ok()
}

fn head(writer: &mut Writer<'_, '_>, header: &[u8]) -> Result<(), &'static str> {
    writer.write_all(header).map_err(|_| "a request has no room for its answer")
}

fn answer(
    mut writer: Writer<'_, '_>,
    header: &InHeader,
    outcome: Result<Option<Vec<u8>>, Errno>,
) -> Result<u32, &'static str> {
    // What has no answer has no room for one, whatever becomes of it.
    let unanswered = matches!(header.opcode, opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT);
    if matches!(outcome, Ok(None)) || unanswered && writer.remaining() == 0 {
        return Ok(0);
    }
    let room = writer.remaining().saturating_sub(OUT_HEADER);
    let (body, error) = match outcome {
        Ok(body) => match body.unwrap_or_default() {
            body if body.len() <= room => (body, 0),
            _ => (Vec::new(), Errno::ERANGE as i32),
        },
        Err(errno) => (Vec::new(), errno as i32),
    };
    let length = total(body.len()).ok_or("an answer is too long")?;
    head(&mut writer, &wire::out_header(length, error, header.unique))?;
    head(&mut writer, &body)?;
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use vm_memory::VolatileSlice;

    /// A file that takes no more than it has room for, which the host says to the second call.
    #[test]
    fn a_write_that_fails_half_way_has_written_the_first_half() {
        let file = File::from(memfd_create("full", MFdFlags::MFD_ALLOW_SEALING).unwrap());
        file.set_len(4096).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).unwrap();
        let mut bytes = vec![7; 8192];
        let slices = [VolatileSlice::from(&mut bytes[..])];
        assert_eq!(write_what_fits(&mut Reader::new(&slices), &file, 0), Ok(4096));
        assert_eq!(write_what_fits(&mut Reader::new(&slices), &file, 4096), Err(Errno::EPERM));
        assert_eq!(write_what_fits(&mut Reader::new(&slices), &file, 1024), Ok(3072));
    }
}
