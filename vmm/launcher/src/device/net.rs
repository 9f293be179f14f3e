//! The words of a network device: which tap or stream, and what its driver is told.

use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;

use protocol::{MacAddress, limits, tap};

use super::Options;
use crate::error::Error;

/// Where distributions have passt. Not looked for in PATH: what is executed with the network of the user is his word.
pub const PASST: &str = "/usr/bin/passt";

/// A network that `device-net` serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Net {
    /// What is at its other end.
    pub interface: Interface,
    /// The device's address, if the user gave it one; see [`crate::network`].
    pub mac: Option<MacAddress>,
    /// The largest packet that the driver is told of.
    pub mtu: Option<u16>,
    /// Whether the guest may send from other addresses than its own.
    pub any_source: bool,
    /// Pairs of queues.
    pub pairs: u16,
}

impl Net {
    /// `receiveq` and `transmitq` of each pair, and the control queue (virtio 1.3, 5.1.2).
    pub fn queues(&self) -> u16 {
        self.pairs.saturating_mul(2).saturating_add(1)
    }
}

/// What a network's frames go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interface {
    /// A tap: the interface of this name, which is made if it is not there.
    Named(String),
    /// A tap's descriptors that whoever started `vmm` opened and left open, one for each pair of queues.
    Inherited(Vec<RawFd>),
    /// Whoever listens there, on a stream of frames with their lengths.
    Stream(PathBuf),
    /// The same with this program, passt, which `vmm` starts, and which is a network as the user has it.
    User(PathBuf),
}

impl Interface {
    /// Whether frames go over a stream.
    pub fn is_stream(&self) -> bool {
        match self {
            Self::Named(_) | Self::Inherited(_) => false,
            Self::Stream(_) | Self::User(_) => true,
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "tap {name:?}"),
            Self::Inherited(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                write!(f, "descriptor {}", numbers.join(":"))
            }
            Self::Stream(path) => write!(f, "stream {}", path.display()),
            Self::User(program) => write!(f, "user's network by {}", program.display()),
        }
    }
}

impl Options<'_> {
    pub(super) fn net(&mut self, queues: Option<u16>) -> Result<Net, Error> {
        if let Some(queues) = queues.filter(|queues| *queues > limits::MAX_NET_PAIRS) {
            let most = limits::MAX_NET_PAIRS;
            return Err(
                self.wrong(format!("queues={queues}: a network device has at most {most} pairs of queues"))
            );
        }
        let (tap, fd, stream) = (self.text("tap"), self.text("fd"), self.text("stream"));
        let (user, passt) = (self.switch("user", false)?.then_some(()), self.text("passt"));
        let (mac, mtu) = (self.mac()?, self.mtu()?);
        let any_source = self.switch("any-source", false)?;
        self.nothing_misspelt(true)?;
        let interface = match (tap, fd, stream, user) {
            (Some(name), None, None, None) => {
                tap::check_name(name).map_err(|why| self.wrong(format!("tap={name}: {why}")))?;
                Interface::Named(name.to_owned())
            }
            (None, Some(numbers), None, None) => Interface::Inherited(self.descriptors(numbers, queues)?),
            (None, None, Some(path), None) => Interface::Stream(PathBuf::from(path)),
            (None, None, None, Some(())) => Interface::User(PathBuf::from(passt.unwrap_or(PASST))),
            (None, None, None, None) => {
                let what = "none of tap=NAME, fd=N, stream=PATH, user=on and socket=PATH is given";
                return Err(self.wrong(what.to_owned()));
            }
            _ => {
                let what = "more than one of tap=, fd=, stream= and user=on says which network";
                return Err(self.wrong(what.to_owned()));
            }
        };
        if let (Some(path), false) = (passt, matches!(interface, Interface::User(_))) {
            return Err(self.wrong(format!("passt={path} goes with user=on")));
        }
        let mtu = match &interface {
            Interface::Named(_) | Interface::Inherited(_) => mtu,
            Interface::Stream(_) => Some(self.for_stream(queues, mtu.unwrap_or(limits::USUAL_MTU))?),
            // passt ends connections and makes them anew, so that nobody but the two has to have packets of this size.
            Interface::User(_) => Some(self.for_stream(queues, mtu.unwrap_or(limits::MAX_STREAM_MTU))?),
        };
        let pairs = match &interface {
            Interface::Named(_) => queues.unwrap_or(1),
            Interface::Stream(_) | Interface::User(_) => 1,
            Interface::Inherited(numbers) => u16::try_from(numbers.len()).unwrap_or(u16::MAX),
        };
        Ok(Net { interface, mac, mtu, any_source, pairs })
    }

    /// The MTU of a network on a stream, if that can have it.
    fn for_stream(&self, queues: Option<u16>, mtu: u16) -> Result<u16, Error> {
        if let Some(queues) = queues.filter(|queues| *queues > 1) {
            return Err(self.wrong(format!("queues={queues}: a network on a stream has one pair of queues")));
        }
        let most = limits::MAX_STREAM_MTU;
        if mtu <= most { Ok(mtu) } else { Err(self.wrong(format!("mtu={mtu}: a stream has at most {most}"))) }
    }

    /// As in `3` or `3:4:5`, as many as there are pairs of queues if the user said how many.
    fn descriptors(&self, text: &str, queues: Option<u16>) -> Result<Vec<RawFd>, Error> {
        let mut numbers = Vec::new();
        for word in text.split(':') {
            match word.parse() {
                Ok(number) if number > 2 && !numbers.contains(&number) => numbers.push(number),
                Ok(number) if number > 2 => {
                    return Err(self.wrong(format!("fd={text} names {number} twice")));
                }
                _ => {
                    let each = "one for each pair of queues with ':' between them";
                    let what = format!("fd={text} is not the number of a descriptor, 3 or more, or {each}");
                    return Err(self.wrong(what));
                }
            }
        }
        let most = usize::from(limits::MAX_NET_PAIRS);
        match queues.map_or(numbers.len(), usize::from) {
            wanted if wanted == numbers.len() && wanted <= most => Ok(numbers),
            wanted => {
                let found = numbers.len();
                let wanted = wanted.min(most);
                Err(self.wrong(format!("fd= names {found} descriptors for {wanted} pairs of queues")))
            }
        }
    }

    fn mac(&mut self) -> Result<Option<MacAddress>, Error> {
        let parsed = self.text("mac").map(|text| (text, text.parse()));
        parsed.map(|(text, mac)| mac.map_err(|why| self.wrong(format!("mac={text}: {why}")))).transpose()
    }

    fn mtu(&mut self) -> Result<Option<u16>, Error> {
        let (least, most) = (limits::MIN_MTU, limits::MAX_MTU);
        match self.text("mtu").map(|text| (text, text.parse())) {
            None => Ok(None),
            Some((_, Ok(mtu))) if (least..=most).contains(&mtu) => Ok(Some(mtu)),
            Some((text, _)) => Err(self.wrong(format!("mtu={text} is not a number from {least} to {most}"))),
        }
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
    fn a_network_has_the_options_that_it_was_given() {
        let net = |word: &str| match parsed(word).unwrap().back_end {
            BackEnd::Net(net) => net,
            other => panic!("{other:?}"),
        };
        let named = Interface::Named("tap0".to_owned());
        let plain = Net { interface: named, mac: None, mtu: None, any_source: false, pairs: 1 };
        assert_eq!(net("net,tap=tap0"), plain);
        let mac = Some("52:54:00:12:34:56".parse().unwrap());
        let full = Net { mac, mtu: Some(1400), any_source: true, pairs: 2, ..plain.clone() };
        assert_eq!(net("net,tap=tap0,mac=52:54:00:12:34:56,mtu=1400,any-source=on,queues=2"), full);
        assert_eq!(net("net,fd=3"), Net { interface: Interface::Inherited(vec![3]), ..plain.clone() });
        let several = Net { interface: Interface::Inherited(vec![7, 3, 9]), pairs: 3, ..plain };
        assert_eq!((net("net,fd=7:3:9"), net("net,fd=7:3:9,queues=3")), (several.clone(), several));
        let interface = Interface::Stream("/run/passt.sock".into());
        let stream = Net { interface, mac: None, mtu: Some(1500), any_source: false, pairs: 1 };
        assert_eq!(net("net,stream=/run/passt.sock,queues=1"), stream);
        assert_eq!(net("net,stream=/run/passt.sock,mtu=32746"), Net { mtu: Some(32746), ..stream.clone() });
        let interface = Interface::User("/usr/bin/passt".into());
        let user = Net { interface, mtu: Some(32746), ..stream };
        assert_eq!((net("net,user=on"), net("net,user=on,mtu=1500").mtu), (user.clone(), Some(1500)));
        let interface = Interface::User("/opt/passt".into());
        assert_eq!(net("net,user=on,passt=/opt/passt"), Net { interface, ..user });
        let device = parsed("net,tap=tap0,queue-size=512,on-failure=restart,spare=on").unwrap();
        assert_eq!((device.virtio_type, device.queues, device.queue_size, device.spare), (1, 3, 512, true));
        assert_eq!(parsed("net,tap=tap0,queues=16").unwrap().queues, 33);
    }

    #[test]
    fn what_makes_no_network_is_refused() {
        for (word, says) in [
            ("net", "none of tap=NAME, fd=N, stream=PATH, user=on and socket=PATH"),
            ("net,tap=", "1 to 15 bytes"),
            ("net,tap=a-name-of-16-byt", "1 to 15 bytes"),
            ("net,tap=tap%d", "'%'"),
            ("net,tap=tap0,fd=3", "more than one of tap=, fd=, stream= and user=on"),
            ("net,stream=/s,fd=3", "more than one of tap=, fd=, stream= and user=on"),
            ("net,user=on,tap=tap0", "more than one of tap=, fd=, stream= and user=on"),
            ("net,user=off", "none of tap=NAME"),
            ("net,user=me", "neither on nor off"),
            ("net,user=on,queues=2", "queues=2: a network on a stream has one pair"),
            ("net,tap=tap0,passt=/p", "passt=/p goes with user=on"),
            ("net,stream=/s,queues=2", "queues=2: a network on a stream has one pair"),
            ("net,stream=/s,mtu=32747", "at most 32746"),
            ("net,fd=2", "3 or more"),
            ("net,fd=three", "3 or more"),
            ("net,tap=tap0,mac=53:54:00:12:34:56", "mac=53:54:00:12:34:56"),
            ("net,tap=tap0,mtu=67", "68 to 65521"),
            ("net,tap=tap0,mtu=65522", "68 to 65521"),
            ("net,tap=tap0,any-source=all", "neither on nor off"),
            ("net,tap=tap0,queues=17", "at most 16 pairs"),
            ("net,tap=tap0,queues=0", "queues=0"),
            ("net,fd=3:4:3", "3 twice"),
            ("net,fd=3:", "3 or more"),
            ("net,fd=3:4,queues=3", "2 descriptors for 3 pairs"),
            ("net,fd=3:4:5:6:7:8:9:10:11:12:13:14:15:16:17:18:19", "17 descriptors for 16 pairs"),
            ("net,tpa=tap0", "did you mean 'tap'"),
            ("net,socket=/s,mac=52:54:00:12:34:56", "unknown option 'mac'"),
            ("net,tap=tap0,patience=3", "unknown option 'patience'"),
        ] {
            let said = parsed(word).unwrap_err().to_string();
            assert!(said.contains(says), "{word}: {said}");
        }
    }
}
