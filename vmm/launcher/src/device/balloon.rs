//! The words of a balloon that `device-balloon` serves: how much the guest is to give back, and what its driver may do.

use protocol::{BalloonOptions, limits};

use super::Options;
use crate::error::Error;
use crate::size::Size;

/// `inflateq`, `deflateq`, and the three places where drivers look for `reporting_vq`.
pub const QUEUES: u16 = 5;

impl Options<'_> {
    pub(super) fn balloon(&mut self, queues: Option<u16>) -> Result<BalloonOptions, Error> {
        if let Some(queues) = queues.filter(|queues| *queues != QUEUES) {
            return Err(
                self.wrong(format!("queues={queues}: a virtio-balloon has as many as it needs, {QUEUES}"))
            );
        }
        let size = match self.text("size") {
            None => 0,
            Some(text) => self.balloon_size(text)?,
        };
        Ok(BalloonOptions {
            size,
            deflate_on_oom: self.switch("deflate-on-oom", true)?,
            free_page_reporting: self.switch("free-page-reporting", false)?,
        })
    }

    fn balloon_size(&self, text: &str) -> Result<u64, Error> {
        match text.parse() {
            Ok(Size(bytes)) if bytes <= limits::MAX_MEMORY => Ok(bytes),
            Ok(_) => Err(self.wrong(format!("size={text}: no guest has so much memory"))),
            Err(error) => Err(self.wrong(format!("size={text}: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{BackEnd, devices};

    fn parsed(word: &str) -> Result<BalloonOptions, String> {
        match devices(&[word.parse().unwrap()]).map(|mut devices| devices.remove(0)) {
            Ok(device) => {
                assert_eq!((device.virtio_type, device.queues), (5, QUEUES));
                let BackEnd::Balloon(options) = device.back_end else { panic!("{:?}", device.back_end) };
                Ok(options)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_balloon_is_empty_and_gives_way_unless_the_user_says_otherwise() {
        let usual = BalloonOptions { size: 0, deflate_on_oom: true, free_page_reporting: false };
        assert_eq!(parsed("balloon").unwrap(), usual);
        let other = BalloonOptions { size: 64 << 20, deflate_on_oom: false, free_page_reporting: true };
        assert_eq!(
            parsed("balloon,size=64M,deflate-on-oom=off,free-page-reporting=on,queues=5").unwrap(),
            other
        );
    }

    #[test]
    fn slips_are_named() {
        for (word, part) in [
            ("balloon,size=64", "has no unit"),
            ("balloon,size=385G", "no guest has"),
            ("balloon,queues=2", "as many as it needs"),
            ("balloon,deflate=on", "unknown option 'deflate'"),
            ("balloon,operations=5", "unknown option 'operations'"),
            ("balloon,free-page-reporting=yes", "neither on nor off"),
        ] {
            let said = parsed(word).unwrap_err();
            assert!(said.contains(part), "{word}: {said}");
        }
    }
}
