//! What the user can ask of a device that not every version of its program has words for: an older one would skip it in its
//! set-up and serve without.

use protocol::Rates;

use crate::device::{BackEnd, Device};

/// One such thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words {
    /// The first minor version of the protocol that has words for it.
    pub since: u8,
    /// What it is, in the plural.
    pub what: &'static str,
    /// The options to leave out.
    pub options: &'static str,
}

const RATES: Words = Words { since: 4, what: "limits", options: "bandwidth= and operations=" };
const PORTS: Words = Words { since: 5, what: "ports with names", options: "port.NAME=" };
const PAIRS: Words = Words { since: 5, what: "several pairs of queues", options: "queues=" };
const STREAMS: Words = Words { since: 5, what: "networks on a stream", options: "stream= and user=on" };

impl Words {
    /// The newest ones that the device takes.
    pub fn of(device: &Device) -> Option<Words> {
        let has_pairs = matches!(&device.back_end, BackEnd::Net(net) if net.pairs > 1);
        let is_stream = matches!(&device.back_end, BackEnd::Net(net) if net.interface.is_stream());
        let asked = [
            (device.rates != Rates::default(), RATES),
            (device.has_ports(), PORTS),
            (has_pairs, PAIRS),
            (is_stream, STREAMS),
        ];
        asked.into_iter().filter(|(asked, _)| *asked).map(|(_, words)| words).max_by_key(|words| words.since)
    }
}
