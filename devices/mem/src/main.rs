//! `device-mem`: memory that a guest plugs in and out while it runs (virtio 1.2, §5.15).

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use device_backend::{Capabilities, DeviceProgram, Error};
use device_mem::Mem;
use lexopt::{Parser, ValueExt};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use protocol::{DeviceOptions, MemOptions, MemoryRegion, limits};

fn main() -> ExitCode {
    device_backend::run::<DeviceMem>()
}

struct DeviceMem;

/// The stand-alone command line.
#[derive(Default)]
struct Arguments {
    address: Option<u64>,
    size: Option<u64>,
    block: Option<u64>,
    requested: u64,
}

impl DeviceProgram for DeviceMem {
    type Device = Mem;
    type Arguments = Arguments;
    const PROGRAM: sandbox_policies::Program = sandbox_policies::Program::DeviceMem;
    const CAPABILITIES: Capabilities = Capabilities { kind: "mem", features: &[] };
    const HELP: &'static str = "The memory:\n\
        \x20 --address=ADDRESS      where the front end maps it in the guest, in hexadecimal with 0x\n\
        \x20 --size=N               bytes that there can be of it\n\
        \x20 --block=N              bytes that are plugged in at once, a power of two, default 2 MiB\n\
        \x20 --requested=N          bytes that the guest is to plug in, default 0\n";

    fn argument(arguments: &mut Arguments, name: &str, parser: &mut Parser) -> Result<bool, Error> {
        match name {
            "address" => arguments.address = Some(number(parser)?),
            "size" => arguments.size = Some(number(parser)?),
            "block" => arguments.block = Some(number(parser)?),
            "requested" => arguments.requested = number(parser)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The resource is the page on which the device shows how much is plugged, which no front end of somebody else's reads.
    fn open(arguments: Arguments) -> Result<(DeviceOptions, OwnedFd), Error> {
        let usage = |what: &str| Error::Usage(what.to_owned());
        let Arguments { address, size, block, requested } = arguments;
        let guest_phys =
            address.ok_or_else(|| usage("where does the front end map it? Give --address=ADDRESS"))?;
        let size = size.ok_or_else(|| usage("how much is there of it? Give --size=N"))?;
        let region = MemoryRegion { guest_phys, size };
        let options = MemOptions { region, block: block.unwrap_or(limits::MIN_MEM_BLOCK), requested };
        options.check().map_err(|error| Error::Usage(error.to_string()))?;
        let page = page().map_err(|errno| Error::Resource(format!("cannot make a page: {errno}")))?;
        Ok((DeviceOptions::Mem(options), page))
    }

    fn device(options: DeviceOptions, page: OwnedFd) -> Result<Mem, Error> {
        let DeviceOptions::Mem(options) = options else { return Err(Error::DeviceType) };
        Mem::new(options, page)
    }
}

/// A page that stays one.
fn page() -> Result<OwnedFd, Errno> {
    let page = memfd_create("plugged", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    ftruncate(&page, 4096)?;
    fcntl(&page, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))?;
    Ok(page)
}

/// The next value: decimal, or hexadecimal with 0x.
fn number(parser: &mut Parser) -> Result<u64, Error> {
    let text = parser.value()?.string()?;
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| Error::Usage(format!("{text} is not a number")))
}
