//! How much a device may do in a second.

use super::within;
use crate::{Error, Fields};

/// Optional field of [`super::to_device::DeviceSetup`]: bytes.
const BANDWIDTH: u16 = 4;
/// Optional field of [`super::to_device::DeviceSetup`]: operations.
const OPERATIONS: u16 = 5;
/// A thousand times what the fastest host does: no sum of it overflows.
const MOST: u64 = 1 << 50;

/// So much a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub per_second: u64,
    /// What may be saved while nothing is done, to be used at once: at least 1.
    pub burst: u64,
}

/// Limits of one device. None: as much as it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// In bytes of the requests' buffers.
    pub bandwidth: Option<Rate>,
    /// In requests, or in frames of a network.
    pub operations: Option<Rate>,
}

impl Rate {
    /// This many a second, and a tenth of that at once.
    #[must_use]
    pub fn of(per_second: u64) -> Self {
        Self { per_second, burst: (per_second / 10).max(1) }
    }

    fn check(self) -> Result<(), Error> {
        within("rate", self.per_second, 1, MOST, "1 to 2^50 a second")?;
        within("burst", self.burst, 1, MOST, "1 to 2^50")
    }

    fn pair(self) -> (u64, u64) {
        (self.per_second, self.burst)
    }
}

impl Rates {
    /// Whether there is one.
    #[must_use]
    pub fn any(&self) -> bool {
        self.bandwidth.is_some() || self.operations.is_some()
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        self.bandwidth.into_iter().chain(self.operations).try_for_each(Rate::check)
    }

    /// Optional fields, sent only where there is a limit.
    pub(super) fn encode(&self, fields: Fields) -> Result<Fields, Error> {
        let with = |fields: Fields, tag, rate: Option<Rate>| match rate {
            Some(rate) => fields.with(tag, &rate.pair()),
            None => Ok(fields),
        };
        with(with(fields, BANDWIDTH, self.bandwidth)?, OPERATIONS, self.operations)
    }

    pub(super) fn decode(fields: &Fields) -> Result<Self, Error> {
        let rate = |tag| {
            let rate = fields.optional::<(u64, u64)>(tag)?;
            Ok::<_, Error>(rate.map(|(per_second, burst)| Rate { per_second, burst }))
        };
        Ok(Self { bandwidth: rate(BANDWIDTH)?, operations: rate(OPERATIONS)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_is_received() {
        let (some, other) = (Some(Rate::of(7)), Some(Rate { per_second: 1 << 40, burst: 3 }));
        for rates in [
            Rates::default(),
            Rates { bandwidth: some, operations: None },
            Rates { bandwidth: None, operations: other },
            Rates { bandwidth: other, operations: some },
        ] {
            assert_eq!(Rates::decode(&rates.encode(Fields::default()).unwrap()).unwrap(), rates);
            assert!(rates.check().is_ok());
        }
    }

    #[test]
    fn a_rate_of_nothing_is_received_as_one_and_refused() {
        let fields = Fields::default().with(BANDWIDTH, &(0u64, 0u64)).unwrap();
        let rates = Rates::decode(&fields).unwrap();
        assert_eq!(rates.bandwidth, Some(Rate { per_second: 0, burst: 0 }));
        assert!(matches!(rates.check(), Err(Error::Limit { .. })));
    }

    #[test]
    fn a_rate_of_nothing_or_beyond_all_is_refused() {
        for (per_second, burst) in [(0, 1), (1, 0), (MOST + 1, 1), (1, MOST + 1)] {
            let rates = Rates { bandwidth: None, operations: Some(Rate { per_second, burst }) };
            assert!(matches!(rates.check(), Err(Error::Limit { .. })), "{per_second} {burst}");
        }
    }
}
