//! A tap, attached to or made, or a stream, connected to, and the address of the device that is to serve it.
//!
//! A user who gives no address gets one that is the same each time and not another machine's: locally administered,
//! SipHash-2-4 of the interface's name, or of what stands for it, under the host's machine id as the key. On one host no two running machines
//! have an interface of the same name (but in different network namespaces), and the key keeps hosts apart. It is
//! a key so that a guest, which learns its address, learns nothing of the machine id, as machine-id(5) wants it.

use std::hash::Hasher;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use protocol::tap::{self, NoTap, Tap};
use protocol::{MacAddress, NetOptions, limits};

use crate::device::{Interface, Net};
use crate::error::Error;
use crate::exit_code::Code;
use crate::inputs::Purpose;
use crate::open;
use crate::user_network::{self, Planned};

/// What stands behind a network device.
#[derive(Debug)]
pub struct Network {
    /// The tap's queue, or the stream; none if it was only looked at.
    fd: Option<OwnedFd>,
    /// Those of the other pairs.
    more: Vec<OwnedFd>,
    /// The interface, or what stands for it.
    pub name: String,
    /// Whether the interface is made for this machine, and goes with it.
    pub made: bool,
    /// The program that it is, if `vmm` is to start it.
    pub user: Option<Box<Planned>>,
    /// What the program is told.
    pub options: NetOptions,
}

impl Network {
    /// What the program is handed.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// And what it is handed after that.
    pub fn more(&self) -> Vec<BorrowedFd<'_>> {
        self.more.iter().map(AsFd::as_fd).collect()
    }
}

/// Attaches to the tap, or makes it, connects to the stream, or starts what is at its other end, for `device`; only to look
/// leaves all of it alone.
pub fn open(device: &str, net: &Net, purpose: Purpose) -> Result<Network, Error> {
    let of_descriptor =
        |number: i32, why| refuse("use the tap of descriptor", number.to_string().into(), why);
    let tap = match &net.interface {
        Interface::Named(name) => {
            let wrong = |why: NoTap| refuse("use tap", PathBuf::from(name), why);
            match purpose {
                Purpose::Run if tap::is_there(name) => tap::attach(name, net.pairs).map_err(wrong),
                Purpose::Run => tap::make(name, net.mtu, net.pairs).map_err(wrong),
                Purpose::DryRun => {
                    tap::look().map_err(wrong)?;
                    let options = options(net, name, false);
                    let (made, name) = (!tap::is_there(name), name.clone());
                    return Ok(Network { fd: None, more: Vec::new(), name, made, user: None, options });
                }
            }
        }
        Interface::Inherited(numbers) => {
            let Some((first, others)) = numbers.split_first() else {
                return Err(of_descriptor(-1, NoTap::NotInherited));
            };
            tap::inherited(*first, others).map_err(|(number, why)| of_descriptor(number, why))
        }
        Interface::Stream(path) => {
            open::stream_identity(path)?;
            let fd = if purpose == Purpose::Run { Some(open::stream(path)?) } else { None };
            return Ok(over_stream(net, fd, None, path.display().to_string()));
        }
        Interface::User(program) => {
            let name = format!("user {device}");
            if purpose == Purpose::DryRun {
                user_network::look(program)?;
                return Ok(over_stream(net, None, None, name));
            }
            let mtu = net.mtu.unwrap_or(limits::USUAL_MTU);
            let (user, fd) = Planned::new(device, program, mtu)?;
            return Ok(over_stream(net, Some(fd), Some(Box::new(user)), name));
        }
    };
    let Tap { fd, more, name, segments_udp, made } = tap?;
    let options = options(net, &name, segments_udp);
    Ok(Network { fd: Some(fd), more, name, made, user: None, options })
}

fn over_stream(net: &Net, fd: Option<OwnedFd>, user: Option<Box<Planned>>, name: String) -> Network {
    let options = options(net, &name, false);
    Network { fd, more: Vec::new(), name, made: false, user, options }
}

fn options(net: &Net, name: &str, segments_udp: bool) -> NetOptions {
    let mac = net.mac.unwrap_or_else(|| usual_mac(open::machine_id(), name));
    let stream = net.interface.is_stream();
    NetOptions { mac, any_source: net.any_source, mtu: net.mtu, segments_udp, pairs: net.pairs, stream }
}

fn refuse(what: &'static str, path: PathBuf, why: NoTap) -> Error {
    Error::Path { what, path, text: why.to_string(), code: Code::Resource }
}

/// See above.
#[expect(
    deprecated,
    reason = "the one hasher of the standard library whose algorithm has a name, and so stays"
)]
fn usual_mac([first, second]: [u64; 2], interface: &str) -> MacAddress {
    let mut hasher = std::hash::SipHasher::new_with_keys(first, second);
    hasher.write(interface.as_bytes());
    let [a, b, c, d, e, f, ..] = hasher.finish().to_be_bytes();
    MacAddress::local([a, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_address_is_the_same_each_time_and_nobody_elses() {
        // The key 00 01 … 0f of the paper's test vectors, and what its reference implementation makes of "tap0".
        let id = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(usual_mac(id, "tap0").to_string(), "32:0a:ea:3d:7e:3a");
        assert_ne!(usual_mac(id, "tap0"), usual_mac(id, "tap1"));
        assert_ne!(usual_mac(id, "tap0"), usual_mac([id[0] + 1, id[1]], "tap0"));
        assert_ne!(usual_mac(id, "tap0"), usual_mac([id[0], id[1] + 1], "tap0"));
    }

    #[test]
    fn to_look_neither_makes_nor_attaches() {
        let interface = Interface::Named("no-such-tap0".to_owned());
        let net = Net { interface, mac: None, mtu: Some(1400), any_source: false, pairs: 2 };
        if tap::look().is_err() {
            return assert!(
                open("net0", &net, Purpose::DryRun).unwrap_err().to_string().contains("/dev/net/tun")
            );
        }
        let looked = open("net0", &net, Purpose::DryRun).unwrap();
        assert!(looked.descriptor().is_none() && looked.made && !tap::is_there("no-such-tap0"));
        assert_eq!(looked.options.mtu, Some(1400));
    }
}
