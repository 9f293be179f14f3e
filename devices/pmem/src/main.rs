//! `device-pmem`: the flushes of a virtio persistent memory device (virtio 1.2, §5.19). The memory, a file, is mapped by the
//! front end; this program makes what was written to it durable, and does nothing else.

use std::fs::{File, OpenOptions, metadata};
use std::io::{Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use device_backend::{Capabilities, DeviceProgram, Error};
use device_pmem::{Pmem, check};
use lexopt::{Parser, ValueExt};
use nix::fcntl::OFlag;
use protocol::{DeviceOptions, MemoryRegion, PmemOptions, limits};

fn main() -> ExitCode {
    device_backend::run::<DevicePmem>()
}

struct DevicePmem;

/// The stand-alone command line.
#[derive(Default)]
struct Arguments {
    path: Option<PathBuf>,
    address: Option<u64>,
    size: Option<u64>,
    readonly: bool,
}

impl DeviceProgram for DevicePmem {
    type Device = Pmem;
    type Arguments = Arguments;
    const PROGRAM: sandbox_policies::Program = sandbox_policies::Program::DevicePmem;
    const CAPABILITIES: Capabilities = Capabilities { kind: "pmem", features: &["read-only"] };
    const HELP: &'static str = "The memory:\n\
        \x20 --path=PATH            a file or a block device, which the front end maps\n\
        \x20 --address=ADDRESS      where it does so in the guest: a multiple of 2 MiB, in hexadecimal with 0x\n\
        \x20 --size=N               bytes of it from its start, a multiple of 2 MiB, default all\n\
        \x20 --read-only            the guest cannot write: each flush is an error\n";

    fn argument(arguments: &mut Arguments, name: &str, parser: &mut Parser) -> Result<bool, Error> {
        match name {
            "path" => arguments.path = Some(parser.value()?.into()),
            "address" => arguments.address = Some(number(&parser.value()?.string()?)?),
            "size" => arguments.size = Some(number(&parser.value()?.string()?)?),
            "read-only" => arguments.readonly = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn open(arguments: Arguments) -> Result<(DeviceOptions, OwnedFd), Error> {
        let usage = |what: &str| Error::Usage(what.to_owned());
        let path = arguments.path.ok_or_else(|| usage("which file? Give --path=PATH"))?;
        let guest_phys = arguments
            .address
            .ok_or_else(|| usage("where does the front end map it? Give --address=ADDRESS"))?;
        let wrong = |what: String| Error::Resource(format!("cannot use {}: {what}", path.display()));
        let io = |error: std::io::Error| wrong(error.to_string());
        // Before it is opened: opening a pipe would wait for its other end.
        check(metadata(&path).map_err(io)?.file_type()).map_err(|what| wrong(what.to_owned()))?;
        // For reading: a file can be flushed by whoever has it open.
        let flags = OFlag::O_NONBLOCK.bits();
        let mut file: File = OpenOptions::new().read(true).custom_flags(flags).open(&path).map_err(io)?;
        let found = file.seek(SeekFrom::End(0)).map_err(io)?;
        let size = arguments.size.unwrap_or(found);
        let fits = size > 0 && size.is_multiple_of(limits::PMEM_ALIGNMENT) && size <= found;
        if !fits {
            return Err(wrong(format!(
                "{size} of its {found} bytes: give a --size up to that, which is a multiple of 2 MiB"
            )));
        }
        if guest_phys == 0 || !guest_phys.is_multiple_of(limits::PMEM_ALIGNMENT) {
            return Err(usage("--address is not a multiple of 2 MiB, or 0"));
        }
        let region = MemoryRegion { guest_phys, size };
        Ok((DeviceOptions::Pmem(PmemOptions { region, readonly: arguments.readonly }), file.into()))
    }

    fn device(options: DeviceOptions, resource: OwnedFd) -> Result<Pmem, Error> {
        let DeviceOptions::Pmem(options) = options else { return Err(Error::DeviceType) };
        Pmem::new(resource, options)
    }
}

/// Decimal, or hexadecimal with 0x.
fn number(text: &str) -> Result<u64, Error> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| Error::Usage(format!("{text} is not a number")))
}
