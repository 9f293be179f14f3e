//! What the driver wrote to its device's configuration and no back end has confirmed yet.
//!
//! A driver builds on what it wrote, so a write outlives the back end that did not live to confirm it: its successor is
//! told before it has the rings. Whether the one before had made the change, and kept it, nobody knows: for these bytes a
//! successor may say either, also to a driver that has begun anew since. A write that two back ends in a row did not survive is dropped; what the device has instead
//! is shown to the driver as a change of the configuration.

use super::mailbox::MAX_CONFIG_WRITES;

/// Back ends in a row that may be lost over the same writes.
const MOST: u8 = 2;

/// See above. Bounded, however much a guest writes while there is no back end.
#[derive(Debug, Default)]
pub struct ConfigWrites {
    waiting: Vec<(u16, Vec<u8>)>,
    lost: u8,
}

impl ConfigWrites {
    /// The driver has written more; what there is no room for is lost.
    pub fn add(&mut self, writes: Vec<(u16, Vec<u8>)>) {
        let room = MAX_CONFIG_WRITES.saturating_sub(self.waiting.len());
        self.waiting.extend(writes.into_iter().take(room));
    }

    /// In the order in which they were made.
    #[must_use]
    pub fn all(&self) -> &[(u16, Vec<u8>)] {
        &self.waiting
    }

    /// The back end has made them all.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// A back end was lost that was being told.
    pub fn lose(&mut self) {
        self.lost = self.lost.saturating_add(1);
        if self.lost >= MOST {
            self.forget();
        }
    }

    /// Makes `old` say what `new` says where a back end may have made a change or not.
    pub fn excuse(&self, old: &mut [u8], new: &[u8]) {
        for (offset, data) in &self.waiting {
            let places = usize::from(*offset)..usize::from(*offset).saturating_add(data.len());
            if let (Some(old), Some(new)) = (old.get_mut(places.clone()), new.get(places)) {
                old.copy_from_slice(new);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_few_and_not_tried_for_ever() {
        let mut writes = ConfigWrites::default();
        writes.add(vec![(0, vec![1]); 60]);
        writes.add(vec![(1, vec![2]); 60]);
        assert_eq!(writes.all().len(), 64);
        writes.lose();
        assert_eq!(writes.all().len(), 64);
        writes.lose();
        assert!(writes.all().is_empty());
        writes.add(vec![(0, vec![1])]);
        writes.lose();
        assert_eq!(writes.all().len(), 1, "others have their own two");
    }

    #[test]
    fn what_was_written_may_differ_and_nothing_else() {
        let mut writes = ConfigWrites::default();
        writes.add(vec![(2, vec![9, 9]), (7, vec![9, 9]), (u16::MAX, vec![9])]);
        let (mut old, new) = ([0; 8], [5; 8]);
        writes.excuse(&mut old, &new);
        assert_eq!(old, [0, 0, 5, 5, 0, 0, 0, 0]);
    }
}
