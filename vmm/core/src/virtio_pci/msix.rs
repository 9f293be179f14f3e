//! MSI-X (PCI 3.0, 6.8.2): the table, the function's enable and mask bits, and what they say about a vector.
//!
//! Entries are written 4 or 8 bytes at a time, as the standard asks of software; anything else changes nothing. The
//! pending bits are whatever the owner of the eventfds last told ([`super::Transport::set_pending`]).

use crate::interrupts::MsiMessage;

/// Bytes of one entry: message address, message data, vector control.
pub const ENTRY: usize = 16;

const VECTOR_CONTROL: usize = 12;
const MASKED: u8 = 1;
const FUNCTION_ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;

/// See above.
#[derive(Debug, Clone)]
pub struct Msix {
    table: Vec<[u8; ENTRY]>,
    enabled: bool,
    masked: bool,
}

impl Msix {
    /// All vectors masked and the function disabled, as after a reset.
    pub(super) fn new(vectors: u16) -> Self {
        let mut entry = [0; ENTRY];
        if let Some(control) = entry.get_mut(VECTOR_CONTROL) {
            *control = MASKED;
        }
        Self { table: vec![entry; vectors.into()], enabled: false, masked: false }
    }

    /// Vectors in the table.
    #[must_use]
    pub fn vectors(&self) -> usize {
        self.table.len()
    }

    /// Takes the message control register over. Says whether it changed.
    pub(super) fn set_control(&mut self, control: u16) -> bool {
        let new = (control & FUNCTION_ENABLE != 0, control & FUNCTION_MASK != 0);
        let changed = new != (self.enabled, self.masked);
        (self.enabled, self.masked) = new;
        changed
    }

    /// Whether `vector` exists and must not be raised now.
    #[must_use]
    pub fn is_masked(&self, vector: u16) -> bool {
        let entry = self.table.get(usize::from(vector));
        entry.is_some_and(|entry| self.masked || entry.get(VECTOR_CONTROL).is_some_and(|c| c & MASKED != 0))
    }

    /// What `vector` writes where, if it may be raised now and would be an interrupt.
    #[must_use]
    pub fn message(&self, vector: u16) -> Option<MsiMessage> {
        let entry = self.table.get(usize::from(vector))?;
        if !self.enabled || self.is_masked(vector) {
            return None;
        }
        let (address, rest) = entry.split_first_chunk::<8>()?;
        let message = MsiMessage {
            address: u64::from_le_bytes(*address),
            data: u32::from_le_bytes(*rest.first_chunk()?),
        };
        message.is_interrupt().then_some(message)
    }

    pub(super) fn read(&self, offset: usize, data: &mut [u8]) {
        let cells = self.table.iter().flatten().skip(offset);
        for (byte, cell) in data.iter_mut().zip(cells) {
            *byte = *cell;
        }
    }

    /// Says whether it changed anything.
    pub(super) fn write(&mut self, offset: usize, data: &[u8]) -> bool {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len()) {
            return false;
        }
        let cells = self.table.iter_mut().flatten().skip(offset);
        let mut changed = false;
        for (cell, new) in cells.zip(data) {
            changed |= *cell != *new;
            *cell = *new;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(address: u64, data: u32, control: u32) -> Vec<u8> {
        [&address.to_le_bytes()[..], &data.to_le_bytes(), &control.to_le_bytes()].concat()
    }

    fn program(msix: &mut Msix, vector: usize, entry: &[u8]) {
        for (index, dword) in entry.chunks(4).enumerate() {
            msix.write(vector * ENTRY + index * 4, dword);
        }
    }

    #[test]
    fn a_vector_is_raised_when_all_allow_it() {
        let mut msix = Msix::new(2);
        program(&mut msix, 1, &entry(0xFEE0_1000, 0x31, 0));
        assert_eq!(msix.message(1), None, "the function is disabled");
        assert!(msix.set_control(FUNCTION_ENABLE));
        assert!(!msix.set_control(FUNCTION_ENABLE), "the same again is no change");
        assert_eq!(msix.message(1), Some(MsiMessage { address: 0xFEE0_1000, data: 0x31 }));
        assert_eq!(msix.message(0), None, "masked since reset");
        assert_eq!((msix.message(2), msix.is_masked(2)), (None, false), "no such vector");
        msix.set_control(FUNCTION_ENABLE | FUNCTION_MASK);
        assert_eq!(msix.message(1), None);
        msix.set_control(FUNCTION_ENABLE);
        program(&mut msix, 1, &entry(0x1000, 0x31, 0));
        assert_eq!(msix.message(1), None, "outside the interrupt window");
        assert!(msix.write(ENTRY, &0xFEE0_0000_u64.to_le_bytes()), "8 bytes at once are good");
        assert!(msix.message(1).is_some());
    }

    #[test]
    fn narrow_crooked_and_outlying_writes_change_nothing() {
        let msix = Msix::new(2);
        for offset in 0..80 {
            for length in 0..=8 {
                let whole = matches!(length, 4 | 8) && offset % length == 0 && offset < 2 * ENTRY;
                let mut trial = msix.clone();
                assert_eq!(trial.write(offset, &[0xA5; 8][..length]), whole, "{offset} {length}");
            }
        }
        let mut data = [0x77; 8];
        msix.read(32, &mut data);
        assert_eq!(data, [0x77; 8]);
    }
}
