//! `device-net`: a virtio network device (virtio 1.2, §5.1) on a tap interface of the host.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::ExitCode;

use device_backend::{Capabilities, DeviceProgram, Error};
use device_net::{Net, Tap};
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
        \x20 --mac=ADDRESS          the device's address, as in 52:54:00:12:34:56\n\
        \x20 --mtu=N                the largest packet that the driver is told of, 68 to 65521\n\
        \x20 --any-source           let the guest send from other addresses than its own\n\
        \x20 --queues=N             pairs of queues, 1 (default) to 16; a tap of several was made with multi_queue\n";

    fn argument(arguments: &mut Arguments, name: &str, parser: &mut Parser) -> Result<bool, Error> {
        match name {
            "tap" => arguments.tap = Some(parser.value()?.string()?),
            "mac" => arguments.mac = Some(mac(&parser.value()?.string()?)?),
            "mtu" => arguments.mtu = Some(mtu(parser.value()?.parse()?)?),
            "any-source" => arguments.any_source = true,
            "queues" => arguments.queues = Some(pairs(parser.value()?.parse()?)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn open(arguments: Arguments) -> Result<(DeviceOptions, OwnedFd), Error> {
        let Arguments { tap, mac, mtu, any_source, queues } = arguments;
        let missing = |what: &str| Error::Usage(what.to_owned());
        let name = tap.ok_or_else(|| missing("which network? Give --tap=NAME"))?;
        let mac = mac.ok_or_else(|| missing("what is the device's address? Give --mac=ADDRESS"))?;
        let pairs = queues.unwrap_or(1);
        // Only an administrator can make one, and this program makes none.
        let attached = protocol::tap::attach(&name, 1);
        let protocol::tap::Tap { fd, segments_udp, .. } =
            attached.map_err(|why| Error::Resource(format!("cannot use tap {name:?}: {why}")))?;
        Ok((DeviceOptions::Net(NetOptions { mac, any_source, mtu, segments_udp, pairs }), fd))
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
        Ok(Net::new(Tap::new(resource)?, options))
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

fn mtu(bytes: u16) -> Result<u16, Error> {
    if (limits::MIN_MTU..=limits::MAX_MTU).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(Error::Usage(format!("--mtu={bytes} is not 68 to 65521")))
    }
}
