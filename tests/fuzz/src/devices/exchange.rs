//! A request of one buffer to read and one to write, for inputs that go on from what they are answered.

use super::Bench;
use super::ring::{ANSWER, AVAILABLE, BUFFERS, DESCRIPTORS, NEXT, USED, WRITE};
use device_backend::Device;
use device_backend::direct::{self, DirectRing};
use std::os::unix::fs::FileExt;

/// Most bytes of either.
pub const MOST: usize = 0x1_0000;

impl<D: Device> Bench<D> {
    /// What the device answers to `said` on `queue` in at most `room` bytes. `None`: it gave nothing back, or broke the ring.
    pub fn exchange(&self, queue: u16, said: &[u8], room: usize) -> Option<Vec<u8>> {
        assert!(said.len() <= MOST && room <= MOST && BUFFERS + MOST as u64 <= ANSWER);
        let length = |bytes: usize| u32::try_from(bytes).unwrap_or(0);
        let read = (!said.is_empty()).then(|| {
            let flags = if room > 0 { NEXT } else { 0 };
            descriptor(BUFFERS, length(said.len()), flags, 1)
        });
        let write = (room > 0).then(|| descriptor(ANSWER, length(room), WRITE, 0));
        let table = [read, write].into_iter().flatten().collect::<Vec<_>>().concat();
        self.file.write_all_at(&table, DESCRIPTORS).ok()?;
        self.file.write_all_at(&[0, 0, 1, 0, 0, 0], AVAILABLE).ok()?;
        self.file.write_all_at(&[0; 12], USED).ok()?;
        self.file.write_all_at(said, BUFFERS).ok()?;
        let ring = DirectRing { size: 2, descriptors: DESCRIPTORS, available: AVAILABLE, used: USED };
        // Broken or not: what is used says it.
        let _ = direct::serve(&self.device, queue, &self.memory, ring, 1 << 32);
        let mut used = [0; 12];
        self.file.read_exact_at(&mut used, USED).ok()?;
        let [_, _, index, 0, head, _, _, _, a, b, c, d] = used else { return None };
        assert!(index <= 1 && head == 0, "what was never available is used: {used:?}");
        let written = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        assert!(written <= room, "{written} bytes in {room}");
        let mut answer = vec![0; written];
        self.file.read_exact_at(&mut answer, ANSWER).ok()?;
        (index == 1).then_some(answer)
    }
}

fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> Vec<u8> {
    [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
}
