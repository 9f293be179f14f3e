//! The virtio persistent memory device (virtio 1.2, §5.19): memory that outlives the guest, which the front end maps, and
//! one queue of requests to make it durable. The memory itself never comes here, only the file behind it, opened for
//! reading: enough to have it flushed, and too little to change it.
//!
//! # When a flush has failed
//!
//! A kernel reports that it could not write something once to each open file, and then takes the pages for clean: the next
//! fdatasync(2) succeeds although what was to be written is lost. So an error stays: every later flush fails as well, until
//! the machine ends. It is kept before it is told, so that a process that follows this one knows of it. A driver's reset
//! does not undo it, since it does not bring back what is lost.
//!
//! What that does not cover: all processes of the device have the one open file, and an error that the kernel reports to a
//! process which is killed within that very call nobody has heard. The flush is done again, and succeeds.
//!
//! A device that can only be read fails each flush: whoever flushes has written, and that went nowhere.

use std::fs::{File, FileType};
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use device_backend::{Device, Error, Handler, Keeper, Kept, Reader, Service, Writer, log_line};
use nix::errno::Errno;
use nix::unistd::fdatasync;
use protocol::PmemOptions;

use crate::wire::{self, REQUEST_SIZE, RESPONSE_SIZE, Request, Response};

/// Of the state that outlives a process: one byte, 1 when a flush has failed.
const VERSION: u16 = 1;

/// A file as persistent memory.
pub struct Pmem<F = File> {
    file: F,
    options: PmemOptions,
    failed: AtomicBool,
    keeper: OnceLock<Keeper>,
}

/// What can be made durable.
pub trait Flush: Send + Sync + 'static {
    /// Everything written to it is on the medium when this returns.
    ///
    /// # Errors
    /// The host's: something that was written may be lost.
    fn flush(&self) -> Result<(), Errno>;
}

impl Flush for File {
    fn flush(&self) -> Result<(), Errno> {
        // What a guest has written through its mapping is the file's as soon as it is written: the kernel finds it in the
        // page cache, and marks the pages so that it learns of the next write.
        fdatasync(self.as_fd())
    }
}

/// Whether a file of this type can be persistent memory.
///
/// # Errors
/// Says what can.
pub fn check(file_type: FileType) -> Result<(), &'static str> {
    if file_type.is_file() || file_type.is_block_device() {
        Ok(())
    } else {
        Err("it is neither a regular file nor a block device")
    }
}

impl Pmem {
    /// The device of the first bytes of `file`, as many as `options` say.
    ///
    /// # Errors
    /// What cannot be mapped and flushed, or is smaller.
    pub fn new(file: OwnedFd, options: PmemOptions) -> Result<Self, Error> {
        let wrong = |what: &str| Error::Resource(format!("the file cannot be persistent memory: {what}"));
        let io = |error: std::io::Error| wrong(&error.to_string());
        let mut file = File::from(file);
        check(file.metadata().map_err(io)?.file_type()).map_err(wrong)?;
        let found = file.seek(SeekFrom::End(0)).map_err(io)?;
        let size = options.region.size;
        if found < size {
            return Err(wrong(&format!("it has {found} bytes, the device {size}")));
        }
        Ok(Self::of(file, options))
    }
}

impl<F: Flush> Pmem<F> {
    fn of(file: F, options: PmemOptions) -> Self {
        Self { file, options, failed: AtomicBool::new(false), keeper: OnceLock::new() }
    }

    fn flush(&self) -> Response {
        if self.options.readonly || self.failed.load(Relaxed) {
            return Response::Eio;
        }
        match self.file.flush() {
            Ok(()) => Response::Ok,
            Err(errno) => {
                self.fail(errno);
                Response::Eio
            }
        }
    }

    fn fail(&self, errno: Errno) {
        self.failed.store(true, Relaxed);
        let lasts = match self.keeper.get().map(|keeper| keeper.keep(&self.state())) {
            Some(Ok(())) => "until the machine ends",
            _ => "as long as this process lives",
        };
        log_line(format_args!(
            "the file cannot be written: {errno}: what the guest wrote may be lost, and each flush fails from now on, \
             {lasts}"
        ));
    }

    fn state(&self) -> Kept {
        Kept { version: VERSION, state: vec![u8::from(self.failed.load(Relaxed))] }
    }
}

impl<F: Flush> Device for Pmem<F> {
    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> Vec<u8> {
        wire::config(self.options.region)
    }

    fn queues(&self) -> u16 {
        1
    }

    fn kept(&self) -> Option<Kept> {
        Some(self.state())
    }

    fn restore(&self, kept: &Kept) -> bool {
        // What is not understood may say that a flush has failed, and is taken for that.
        let understood = kept.version == VERSION && matches!(kept.state.as_slice(), [0 | 1]);
        self.failed.store(!understood || kept.state == [1], Relaxed);
        understood
    }

    fn keep_with(&self, keeper: Keeper) {
        // Called once.
        let _ = self.keeper.set(keeper);
    }

    fn service(self: &Arc<Self>, _queue: u16) -> Service {
        Service::Requests(Box::new(FlushQueue { pmem: Arc::clone(self), flushed: None }))
    }
}

/// `req_vq`, the only queue.
struct FlushQueue<F> {
    pmem: Arc<Pmem<F>>,
    /// What came of the flush of this batch. Each of its requests was made before it, and so covers only what was written
    /// before it: one flush is enough for all, however many there are.
    flushed: Option<Response>,
}

impl<F: Flush> FlushQueue<F> {
    fn answer(&mut self, reader: &mut Reader<'_, '_>) -> Response {
        let mut bytes = [0; REQUEST_SIZE];
        let request = reader.read_exact(&mut bytes).ok().and_then(|()| Request::parse(bytes));
        match request {
            Some(Request::Flush) => *self.flushed.get_or_insert_with(|| self.pmem.flush()),
            None => Response::Eio,
        }
    }
}

impl<F: Flush> Handler for FlushQueue<F> {
    fn begin_batch(&mut self) {
        self.flushed = None;
    }

    fn handle(
        &mut self,
        _features: u64,
        mut reader: Reader<'_, '_>,
        writer: Writer<'_, '_>,
    ) -> Result<u32, &'static str> {
        if writer.remaining() < RESPONSE_SIZE {
            return Err("a request has no room for its answer");
        }
        let answer = self.answer(&mut reader);
        respond(writer, answer)
    }

    fn refuse(&mut self, writer: Writer<'_, '_>) -> Result<u32, &'static str> {
        respond(writer, Response::Eio)
    }
}

fn respond(mut writer: Writer<'_, '_>, response: Response) -> Result<u32, &'static str> {
    writer.write_all(&response.bytes()).map_err(|_| "a request has no room for its answer")?;
    Ok(4)
}

#[cfg(test)]
mod tests;
