//! What the guest sent of one stream and the host has not taken: a ring of bytes of fixed size, which is all that a
//! connection can take of this process's memory. Pure.

use device_backend::Reader;

use crate::credit::BUFFER;

/// See above.
#[derive(Debug)]
pub struct Backlog {
    bytes: Box<[u8]>,
    first: usize,
    used: usize,
}

impl Backlog {
    /// An empty one. Its memory is taken when it is first used.
    #[must_use]
    pub fn new() -> Self {
        let size = usize::try_from(BUFFER).unwrap_or(usize::MAX);
        Self { bytes: vec![0; size].into_boxed_slice(), first: 0, used: 0 }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Forgets what is in it.
    pub fn clear(&mut self) {
        (self.first, self.used) = (0, 0);
    }

    /// Copies all that is left of `reader`; false if there is no room for it.
    #[must_use]
    pub fn append(&mut self, reader: &mut Reader<'_, '_>) -> bool {
        let wanted = reader.remaining();
        let size = self.bytes.len();
        if wanted > size.saturating_sub(self.used) {
            return false;
        }
        let begin = self.first.saturating_add(self.used).checked_rem(size).unwrap_or(0);
        let to_end = wanted.min(size.saturating_sub(begin));
        for (at, count) in [(begin, to_end), (0, wanted.saturating_sub(to_end))] {
            let end = at.saturating_add(count);
            let Some(place) = self.bytes.get_mut(at..end) else { return false };
            if reader.read_exact(place).is_err() {
                return false;
            }
            self.used = self.used.saturating_add(count);
        }
        true
    }

    /// The first of what is in it, as far as it lies in one piece. Mutable only because what is written from is.
    #[must_use]
    pub fn front(&mut self) -> &mut [u8] {
        let end = self.first.saturating_add(self.used).min(self.bytes.len());
        self.bytes.get_mut(self.first..end).unwrap_or_default()
    }

    /// Takes so many off the front.
    pub fn advance(&mut self, bytes: usize) {
        let bytes = bytes.min(self.used);
        self.used = self.used.saturating_sub(bytes);
        self.first = self.first.saturating_add(bytes).checked_rem(self.bytes.len()).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::VolatileSlice;

    fn append(backlog: &mut Backlog, bytes: &mut [u8]) -> bool {
        backlog.append(&mut Reader::new(&[VolatileSlice::from(bytes)]))
    }

    #[test]
    fn bytes_come_out_as_they_went_in_over_the_end() {
        let mut backlog = Backlog::new();
        let (mut put, mut got) = ((0..=255u8).cycle(), (0..=255u8).cycle());
        for round in 0..200usize {
            let mut bytes: Vec<u8> = put.by_ref().take(997).collect();
            assert!(append(&mut backlog, &mut bytes));
            let mut take = if round % 7 == 6 { usize::MAX } else { 500 };
            while take > 0 && !backlog.is_empty() {
                let count = backlog.front().len().min(take);
                let front = &backlog.front()[..count];
                assert!(count > 0 && front.iter().copied().eq(got.by_ref().take(count)));
                backlog.advance(count);
                take = take.saturating_sub(count);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_whole() {
        let mut backlog = Backlog::new();
        let mut most = vec![1; BUFFER as usize];
        assert!(append(&mut backlog, &mut most[1..]) && !append(&mut backlog, &mut [1, 2]));
        assert!(
            append(&mut backlog, &mut [9])
                && !append(&mut backlog, &mut [1])
                && append(&mut backlog, &mut [])
        );
        assert_eq!(backlog.front().len(), BUFFER as usize);
        backlog.advance(usize::MAX);
        assert!(backlog.is_empty() && append(&mut backlog, &mut most));
        backlog.clear();
        assert!(backlog.is_empty() && backlog.front().is_empty());
    }
}
