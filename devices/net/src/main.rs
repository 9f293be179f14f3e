//! `device-net`: a virtio network device (virtio 1.2, §5.1) on a tap interface of the host, or on a stream.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use device_backend::{Capabilities, DeviceProgram, Error};
use device_net::{Host, Net, Stream, Tap};
use lexopt::{Parser, ValueExt};
use protocol::{DeviceOptions, MacAddress, NetOptions, limits};

fn main() -> ExitCode {
    device_backend::run::<DeviceNet>()
}

struct DeviceNet;

/// The stand-alone command line.
#[derive(Default)]
struct Arguments {
    tap: Option<String>,
    stream: Option<PathBuf>,
    mac: Option<MacAddress>,
    mtu: Option<u16>,
    any_source: bool,
    queues: Option<u16>,
}

impl DeviceProgram for DeviceNet {
    type Device = Net;
    type Arguments = Arguments;
    const PROGRAM: sandbox_policies::Program = sandbox_policies::Program::DeviceNet;
    const CAPABILITIES: Capabilities = Capabilities { kind: "net", features: &[] };
    const HELP: &'static str = "The network:\n\
        \x20 --tap=NAME             a tap interface that is there\n\
        \x20 --stream=PATH          or a Unix socket to connect to, for frames each with its length in front, as passt\n\
        \x20                        and QEMU (-netdev stream) have them\n\
        \x20 --mac=ADDRESS          the device's address, as in 52:54:00:12:34:56\n\
        \x20 --mtu=N                the largest packet that the driver is told of, 68 to 65521; on a stream at most\n\
        \x20                        32746, and 1500 if it is not given\n\
        \x20 --any-source           let the guest send from other addresses than its own\n\
        \x20 --queues=N             pairs of queues, 1 (default) to 16; a tap of several was made with multi_queue\n";

    fn argument(arguments: &mut Arguments, name: &str, parser: &mut Parser) -> Result<bool, Error> {
        match name {
            "tap" => arguments.tap = Some(parser.value()?.string()?),
            "stream" => arguments.stream = Some(parser.value()?.into()),
            "mac" => arguments.mac = Some(mac(&parser.value()?.string()?)?),
            "mtu" => arguments.mtu = Some(mtu(parser.value()?.parse()?)?),
            "any-source" => arguments.any_source = true,
            "queues" => arguments.queues = Some(pairs(parser.value()?.parse()?)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn open(arguments: Arguments) -> Result<(DeviceOptions, OwnedFd), Error> {
        let Arguments { tap, stream, mac, mtu, any_source, queues } = arguments;
        let wrong = |what: &str| Error::Usage(what.to_owned());
        if tap.is_some() == stream.is_some() {
            return Err(wrong("which network? Give one of --tap=NAME and --stream=PATH"));
        }
        let mac = mac.ok_or_else(|| wrong("what is the device's address? Give --mac=ADDRESS"))?;
        let pairs = queues.unwrap_or(1);
        if let Some(path) = stream {
            if pairs > 1 {
                return Err(wrong("a stream has one pair of queues: leave out --queues"));
            }
            let mtu = Some(stream_mtu(mtu)?);
            let options = NetOptions { mac, any_source, mtu, segments_udp: false, pairs, stream: true };
            return Ok((DeviceOptions::Net(options), connect(&path)?));
        }
        let name = tap.unwrap_or_default();
        // Only an administrator can make one, and this program makes none.
        let attached = protocol::tap::attach(&name, 1);
        let protocol::tap::Tap { fd, segments_udp, .. } =
            attached.map_err(|why| Error::Resource(format!("cannot use tap {name:?}: {why}")))?;
        Ok((DeviceOptions::Net(NetOptions { mac, any_source, mtu, segments_udp, pairs, stream: false }), fd))
    }

    fn open_rest(options: &DeviceOptions, first: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Error> {
        protocol::tap::other_queues(first, options.more())
            .map_err(|why| Error::Resource(format!("cannot use the tap: {why}")))
    }

    fn add(net: &mut Net, rest: Vec<OwnedFd>) -> Result<(), Error> {
        net.add(rest.into_iter().map(Tap::new).collect::<Result<Vec<_>, _>>()?);
        Ok(())
    }

    fn device(options: DeviceOptions, resource: OwnedFd) -> Result<Net, Error> {
        let DeviceOptions::Net(options) = options else { return Err(Error::DeviceType) };
        let host = if options.stream {
            Host::Stream(Stream::new(resource)?)
        } else {
            Host::tap(Tap::new(resource)?)
        };
        Ok(Net::new(host, options))
    }
}

fn mac(text: &str) -> Result<MacAddress, Error> {
    text.parse().map_err(|error| Error::Usage(format!("--mac={text}: {error}")))
}

fn pairs(queues: u16) -> Result<u16, Error> {
    if (1..=limits::MAX_NET_PAIRS).contains(&queues) {
        Ok(queues)
    } else {
        Err(Error::Usage(format!("--queues={queues} is not 1 to {} pairs", limits::MAX_NET_PAIRS)))
    }
}

/// As it is for a stream.
fn stream_mtu(given: Option<u16>) -> Result<u16, Error> {
    match given.unwrap_or(limits::USUAL_MTU) {
        mtu if mtu <= limits::MAX_STREAM_MTU => Ok(mtu),
        mtu => Err(Error::Usage(format!("--mtu={mtu} is more than a stream has, 32746"))),
    }
}

fn connect(path: &Path) -> Result<OwnedFd, Error> {
    let connected = UnixStream::connect(path)
        .map_err(|error| Error::Resource(format!("cannot connect to {}: {error}", path.display())))?;
    protocol::take_no_descriptors(&connected);
    Ok(connected.into())
}

fn mtu(bytes: u16) -> Result<u16, Error> {
    if (limits::MIN_MTU..=limits::MAX_MTU).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(Error::Usage(format!("--mtu={bytes} is not 68 to 65521")))
    }
}
