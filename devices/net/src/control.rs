//! The control queue (virtio 1.2, §5.1.6.5): what a command asks for, and its one answer.
//!
//! A command is judged as a copy: its class, its number and exactly the bytes that go with them, however the driver has cut
//! them. Whatever else it is, too short, too long, of a class that was not agreed on, or with a number that cannot be, it is
//! answered VIRTIO_NET_ERR and changes nothing. A command may be done again by the next process: it says what shall be, not
//! what shall change.

use std::sync::Arc;

use device_backend::{Handler, Outside, Reader, Writer};

use crate::device::Net;
use crate::wire::{GUEST_OFFLOADS, ack, class, feature};

/// What a driver asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: use so many pairs of queues.
    Pairs(u16),
    /// VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: from now on these of what was agreed on, by their feature bits.
    Offloads(u64),
}

/// The command that a driver which accepted `features` gives a device of `most` pairs, if it is one.
#[must_use]
pub fn command(features: u64, most: u16, mut reader: Reader<'_, '_>) -> Option<Command> {
    let mut head = [0; 2];
    reader.read_exact(&mut head).ok()?;
    match head {
        class::MQ_VQ_PAIRS_SET if features & feature::MQ != 0 => {
            let pairs = u16::from_le_bytes(rest(reader)?);
            (1..=most).contains(&pairs).then_some(Command::Pairs(pairs))
        }
        class::GUEST_OFFLOADS_SET if features & feature::CTRL_GUEST_OFFLOADS != 0 => {
            let offloads = u64::from_le_bytes(rest(reader)?);
            let agreed = features & GUEST_OFFLOADS;
            (offloads & !agreed == 0).then_some(Command::Offloads(offloads))
        }
        _ => None,
    }
}

/// All that is left, if it has this size.
fn rest<const SIZE: usize>(mut reader: Reader<'_, '_>) -> Option<[u8; SIZE]> {
    let mut bytes = [0; SIZE];
    let fits = reader.remaining() == SIZE;
    (fits && reader.read_exact(&mut bytes).is_ok()).then_some(bytes)
}

/// `controlq`.
pub struct Control {
    net: Arc<Net>,
}

impl Control {
    /// Of `net`.
    #[must_use]
    pub fn new(net: Arc<Net>) -> Self {
        Self { net }
    }
}

/// `ack`, the first byte of the answer (§5.1.6.5).
fn answer(mut writer: Writer<'_, '_>, ack: u8) -> Result<u32, &'static str> {
    writer.write_all(&[ack]).map(|()| 1).map_err(|_| "a command has no room for its answer")
}

impl Handler for Control {
    fn handle(
        &mut self,
        features: u64,
        reader: Reader<'_, '_>,
        writer: Writer<'_, '_>,
    ) -> Result<u32, &'static str> {
        // One that cannot be answered is not obeyed either.
        if writer.remaining() == 0 {
            return answer(writer, ack::ERR);
        }
        let command = command(features, self.net.most_pairs(), reader);
        let obeyed = command.is_some_and(|command| self.net.obey(command, features));
        answer(writer, if obeyed { ack::OK } else { ack::ERR })
    }

    fn refuse(&mut self, writer: Writer<'_, '_>) -> Result<u32, &'static str> {
        answer(writer, ack::ERR)
    }

    fn refuse_outside(&mut self, request: Outside<'_, '_>) -> Result<u32, &'static str> {
        answer(request.behind, ack::ERR).map(|_| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::VolatileSlice;

    const MOST: u16 = 4;
    const ALL: u64 = u64::MAX;

    /// The command in `bytes`, cut into pieces of `size`.
    fn given(features: u64, bytes: &[u8], size: usize) -> Option<Command> {
        let mut bytes = bytes.to_vec();
        let pieces: Vec<VolatileSlice<'_>> = bytes.chunks_mut(size).map(VolatileSlice::from).collect();
        command(features, MOST, Reader::new(&pieces))
    }

    fn pairs(number: u16) -> Vec<u8> {
        [&[4, 0], &number.to_le_bytes()[..]].concat()
    }

    fn offloads(bits: u64) -> Vec<u8> {
        [&[5, 0], &bits.to_le_bytes()[..]].concat()
    }

    #[test]
    fn pairs_are_one_to_as_many_as_there_are() {
        for size in 1..=4 {
            for number in 1..=MOST {
                assert_eq!(given(ALL, &pairs(number), size), Some(Command::Pairs(number)));
            }
            for number in [0, MOST + 1, 0x8000, 0x100, 65535] {
                assert_eq!(given(ALL, &pairs(number), size), None, "{number}");
            }
        }
        assert_eq!(given(!feature::MQ, &pairs(1), 4), None, "not agreed on");
    }

    #[test]
    fn offloads_are_among_those_that_were_agreed_on() {
        let csum = feature::GUEST_CSUM;
        for size in 1..=10 {
            for bits in [0, csum, GUEST_OFFLOADS] {
                assert_eq!(given(ALL, &offloads(bits), size), Some(Command::Offloads(bits)));
            }
        }
        for bit in (0..64).map(|bit| 1 << bit).filter(|bit| GUEST_OFFLOADS & bit == 0) {
            assert_eq!(given(ALL, &offloads(csum | bit), 10), None, "{bit:#x}");
        }
        assert_eq!(given(ALL & !csum, &offloads(csum), 10), None, "not agreed on");
        assert_eq!(given(!feature::CTRL_GUEST_OFFLOADS, &offloads(0), 10), None, "not agreed on");
    }

    #[test]
    fn every_other_class_command_and_length_is_junk() {
        for class in 0..=255 {
            for number in 0..=255 {
                let known = (number == 0) && (class == 4 || class == 5);
                for length in (0..=12).filter(|length| !known || ![2, 8].contains(length)) {
                    let bytes = [&[class, number], &vec![0; length][..]].concat();
                    assert_eq!(given(ALL, &bytes, 3), None, "{bytes:?}");
                }
            }
        }
        // The right length of the other one.
        assert_eq!(given(ALL, &[&[4, 0], &[1, 0, 0, 0, 0, 0, 0, 0][..]].concat(), 10), None);
        assert_eq!(given(ALL, &[5, 0, 0, 0], 4), None);
        assert_eq!((given(ALL, &[], 1), given(ALL, &[4], 1)), (None, None));
        assert_eq!(given(ALL, &[4; 70_000], 4096), None);
    }
}
