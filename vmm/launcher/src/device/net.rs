//! The words of a network device: which tap, and what its driver is told.

use std::os::fd::RawFd;

use protocol::{MacAddress, limits, tap};

use super::Options;
use crate::error::Error;

/// `receiveq1` and `transmitq1` (virtio 1.3, 5.1.2).
pub const QUEUES: u16 = 2;

/// A network that `device-net` serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Net {
    /// Its tap.
    pub interface: Interface,
    /// The device's address, if the user gave it one; see [`crate::network`].
    pub mac: Option<MacAddress>,
    /// The largest packet that the driver is told of.
    pub mtu: Option<u16>,
    /// Whether the guest may send from other addresses than its own.
    pub any_source: bool,
}

/// Where a tap comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interface {
    /// The interface of this name, which is made if it is not there.
    Named(String),
    /// A descriptor that whoever started `vmm` opened and left open.
    Inherited(RawFd),
}

impl Options<'_> {
    pub(super) fn net(&mut self, queues: Option<u16>) -> Result<Net, Error> {
        if let Some(queues) = queues.filter(|queues| *queues != QUEUES) {
            return Err(self.wrong(format!("queues={queues}: a network device has one pair, which is 2")));
        }
        let (tap, fd) = (self.text("tap"), self.text("fd"));
        let (mac, mtu) = (self.mac()?, self.mtu()?);
        let any_source = self.switch("any-source", false)?;
        self.known.extend(["on-failure", "give-up", "spare"]);
        // A slip in the name of an option is the likelier cause, and says more.
        self.nothing_else()?;
        let interface = match (tap, fd) {
            (Some(name), None) => {
                tap::check_name(name).map_err(|why| self.wrong(format!("tap={name}: {why}")))?;
                Interface::Named(name.to_owned())
            }
            (None, Some(number)) => Interface::Inherited(self.descriptor(number)?),
            (Some(_), Some(_)) => return Err(self.wrong("tap= and fd= both say which tap".to_owned())),
            (None, None) => {
                return Err(self.wrong("none of tap=NAME, fd=N and socket=PATH is given".to_owned()));
            }
        };
        Ok(Net { interface, mac, mtu, any_source })
    }

    fn descriptor(&self, text: &str) -> Result<RawFd, Error> {
        match text.parse() {
            Ok(number) if number > 2 => Ok(number),
            _ => Err(self.wrong(format!("fd={text} is not the number of a descriptor, 3 or more"))),
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
        let plain = Net { interface: named, mac: None, mtu: None, any_source: false };
        assert_eq!(net("net,tap=tap0"), plain);
        let mac = Some("52:54:00:12:34:56".parse().unwrap());
        let full = Net { mac, mtu: Some(1400), any_source: true, ..plain.clone() };
        assert_eq!(net("net,tap=tap0,mac=52:54:00:12:34:56,mtu=1400,any-source=on,queues=2"), full);
        assert_eq!(net("net,fd=3"), Net { interface: Interface::Inherited(3), ..plain });
        let device = parsed("net,tap=tap0,queue-size=512,on-failure=restart,spare=on").unwrap();
        assert_eq!((device.virtio_type, device.queues, device.queue_size, device.spare), (1, 2, 512, true));
    }

    #[test]
    fn what_makes_no_network_is_refused() {
        for (word, says) in [
            ("net", "none of tap=NAME, fd=N and socket=PATH"),
            ("net,tap=", "1 to 15 bytes"),
            ("net,tap=a-name-of-16-byt", "1 to 15 bytes"),
            ("net,tap=tap%d", "'%'"),
            ("net,tap=tap0,fd=3", "both say which tap"),
            ("net,fd=2", "3 or more"),
            ("net,fd=three", "3 or more"),
            ("net,tap=tap0,mac=53:54:00:12:34:56", "mac=53:54:00:12:34:56"),
            ("net,tap=tap0,mtu=67", "68 to 65521"),
            ("net,tap=tap0,mtu=65522", "68 to 65521"),
            ("net,tap=tap0,any-source=all", "neither on nor off"),
            ("net,tap=tap0,queues=4", "one pair"),
            ("net,tpa=tap0", "did you mean 'tap'"),
            ("net,socket=/s,mac=52:54:00:12:34:56", "unknown option 'mac'"),
            ("net,tap=tap0,patience=3", "unknown option 'patience'"),
        ] {
            let said = parsed(word).unwrap_err().to_string();
            assert!(said.contains(says), "{word}: {said}");
        }
    }
}
