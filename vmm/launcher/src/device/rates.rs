//! The words for a device's limits: `bandwidth=10M`, `operations=500`, each with a burst of a tenth or of its own.

use protocol::{Rate, Rates};

use super::Options;
use crate::error::Error;
use crate::size::Size;

/// The options that are these.
pub(super) const KEYS: [&str; 4] = ["bandwidth", "bandwidth-burst", "operations", "operations-burst"];

impl Options<'_> {
    /// The limits, for a device that a program of ours serves.
    pub(super) fn rates(&mut self) -> Result<Rates, Error> {
        let bytes = |text: &str| text.parse().map(|Size(bytes)| bytes);
        let count =
            |text: &str| text.parse().map_err(|_| format!("'{text}' is not a whole number of operations"));
        Ok(Rates {
            bandwidth: self.rate("bandwidth", "bandwidth-burst", bytes)?,
            operations: self.rate("operations", "operations-burst", count)?,
        })
    }

    fn rate(
        &mut self,
        key: &'static str,
        burst_key: &'static str,
        number: impl Fn(&str) -> Result<u64, String>,
    ) -> Result<Option<Rate>, Error> {
        let mut value = |key| match self.text(key).map(&number).transpose() {
            Ok(Some(0)) => Err(self.wrong(format!("{key}=0 is nothing at all: leave it out for no limit"))),
            Ok(value) => Ok(value),
            Err(text) => Err(self.wrong(format!("{key}: {text}"))),
        };
        match (value(key)?, value(burst_key)?) {
            (None, Some(_)) => Err(self.wrong(format!("{burst_key}= goes with {key}="))),
            (rate, burst) => Ok(rate.map(|per_second| {
                let usual = Rate::of(per_second);
                Rate { burst: burst.unwrap_or(usual.burst), ..usual }
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Device, devices};

    fn parsed(word: &str) -> Result<Device, Error> {
        devices(&[word.parse().unwrap()]).map(|mut devices| devices.remove(0))
    }

    fn refused(word: &str) -> String {
        parsed(word).unwrap_err().to_string()
    }

    #[test]
    fn limits_are_rates_with_a_burst_of_a_tenth_or_their_own() {
        let rates = |word: &str| parsed(word).map(|device| device.rates);
        assert_eq!(rates("rng").unwrap(), Rates::default());
        let all = rates("blk,path=d,bandwidth=10M,operations=500,operations-burst=7").unwrap();
        assert_eq!(all.bandwidth, Some(Rate { per_second: 10 << 20, burst: 1 << 20 }));
        assert_eq!(all.operations, Some(Rate { per_second: 500, burst: 7 }));
        assert_eq!(rates("rng,bandwidth=1K,bandwidth-burst=4K").unwrap().bandwidth.unwrap().burst, 4096);
        assert!(refused("rng,bandwidth=1024").contains("no unit"));
        assert!(refused("rng,bandwidth=0K").contains("leave it out"));
        assert!(refused("rng,operations=-1").contains("whole number"));
        assert!(refused("rng,operations-burst=1").contains("goes with operations="));
        assert!(refused("rng,socket=/s,operations=1").contains("unknown option 'operations'"));
    }

    #[test]
    fn each_device_that_can_be_limited_takes_limits() {
        for word in ["blk,path=d", "net,tap=t", "rng", "console,pty=on", "pmem,path=p", "fs,path=d,tag=t"] {
            let limited = parsed(&format!("{word},operations=5,bandwidth=1M")).unwrap().rates;
            assert!(limited.operations.is_some() && limited.bandwidth.is_some(), "{word}");
        }
        for word in ["balloon", "vsock,path=a,cid=3"] {
            assert!(
                refused(&format!("{word},operations=5")).contains("unknown option 'operations'"),
                "{word}"
            );
        }
    }
}
