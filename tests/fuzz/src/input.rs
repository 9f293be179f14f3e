//! Bytes as operations: a cursor that only moves forward and gives zeroes behind the end, so that every input means
//! something and a longer one means the same at its start.

/// See above.
#[derive(Debug, Clone)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// From the first byte on.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether all was taken: where a target stops.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `count` bytes, or as many as there are.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at_checked(count).unwrap_or((self.0, &[]));
        self.0 = rest;
        taken
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// The next byte.
    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    /// The next two bytes, little-endian.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// The next four.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// The next eight.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A byte's choice of one of `from`; `None` if there is nothing to choose from.
    pub fn one_of<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let choice = usize::from(self.u8());
        from.get(choice.checked_rem(from.len())?).copied()
    }

    /// The byte that comes so many behind the next, which stays.
    #[must_use]
    pub fn ahead(&self, count: usize) -> u8 {
        self.0.get(count).copied().unwrap_or(0)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        for (to, from) in array.iter_mut().zip(self.bytes(N)) {
            *to = *from;
        }
        array
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_the_end_are_zeroes() {
        let mut input = Input::new(&[1, 2, 3, 4, 5]);
        assert_eq!((input.u8(), input.u16(), input.is_empty()), (1, 0x0302, false));
        assert_eq!((input.u32(), input.is_empty(), input.u64()), (0x0504, true, 0));
        assert_eq!(input.bytes(3), &[] as &[u8]);
        assert_eq!(Input::new(&[4]).one_of(&[7, 8, 9]), Some(8));
        assert_eq!(Input::new(&[4]).one_of::<u8>(&[]), None);
    }
}
