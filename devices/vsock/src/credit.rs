//! How much each side may send of a stream (virtio 1.2, §5.10.6.3). Counters run freely and wrap; of those that the
//! guest says none is believed further than that it limits what it is sent.

use crate::request::Room;

/// `buf_alloc`: what is kept for the host of one connection, in bytes. Linux's driver makes packets of at most 64 KiB.
pub const BUFFER: u32 = 64 << 10;

/// One connection's counters.
#[derive(Debug, Clone, Copy)]
pub struct Credit {
    guest: Room,
    /// Bytes sent to the guest.
    sent: u32,
    /// Bytes that came from the guest.
    received: u32,
    /// Of these, those that the host has.
    forwarded: u32,
    /// The last of `forwarded` that the guest knows.
    told: u32,
}

impl Credit {
    /// Of a new connection, with a guest that has this room.
    #[must_use]
    pub fn new(guest: Room) -> Self {
        Self { guest, sent: 0, received: 0, forwarded: 0, told: 0 }
    }

    /// The guest says anew what room it has.
    pub fn learn(&mut self, guest: Room) {
        self.guest = guest;
    }

    /// Bytes that the guest may be sent. A guest that says to have forwarded more than it was sent has none.
    #[must_use]
    pub fn room(&self) -> u32 {
        self.guest.allocated.saturating_sub(self.sent.wrapping_sub(self.guest.forwarded))
    }

    /// It was sent so many.
    pub fn send(&mut self, bytes: u32) {
        self.sent = self.sent.wrapping_add(bytes);
    }

    /// So many came; false if that is more than was allowed.
    #[must_use]
    pub fn receive(&mut self, bytes: usize) -> bool {
        let Ok(bytes) = u32::try_from(bytes) else { return false };
        if self.waiting().saturating_add(bytes) > BUFFER {
            return false;
        }
        self.received = self.received.wrapping_add(bytes);
        true
    }

    /// Bytes that came and that the host does not have.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.received.wrapping_sub(self.forwarded)
    }

    /// The host has so many more, at most those that wait.
    pub fn forward(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.waiting());
        self.forwarded = self.forwarded.wrapping_add(bytes);
    }

    /// Whether the guest believes to have half of the room or less, and has more.
    #[must_use]
    pub fn is_to_be_told(&self) -> bool {
        self.forwarded != self.told && self.received.wrapping_sub(self.told) >= BUFFER / 2
    }

    /// `buf_alloc` and `fwd_cnt` of a packet that the guest is sent.
    pub fn tell(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        (BUFFER, self.forwarded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credit(allocated: u32) -> Credit {
        Credit::new(Room { allocated, forwarded: 0 })
    }

    #[test]
    fn the_guest_is_sent_what_it_has_room_for() {
        let mut credit = credit(100);
        credit.send(60);
        assert_eq!(credit.room(), 40);
        credit.learn(Room { allocated: 100, forwarded: 60 });
        assert_eq!(credit.room(), 100);
        // It may shrink what it gave.
        credit.send(60);
        credit.learn(Room { allocated: 50, forwarded: 60 });
        assert_eq!(credit.room(), 0);
    }

    #[test]
    fn counters_wrap() {
        let mut credit = Credit { sent: u32::MAX - 9, ..credit(100) };
        credit.learn(Room { allocated: 100, forwarded: u32::MAX - 9 });
        credit.send(30);
        assert_eq!((credit.sent, credit.room()), (20, 70));
        let mut credit =
            Credit { received: u32::MAX - 9, forwarded: u32::MAX - 9, told: u32::MAX - 9, ..credit };
        assert!(credit.receive(30));
        assert_eq!(credit.waiting(), 30);
        credit.forward(30);
        assert_eq!((credit.waiting(), credit.tell()), (0, (BUFFER, 20)));
    }

    #[test]
    fn a_guest_that_lies_about_what_it_forwarded_is_sent_nothing() {
        for forwarded in [1, u32::MAX, 1 << 31] {
            let mut credit = credit(4096);
            credit.learn(Room { allocated: 4096, forwarded });
            assert!(credit.room() <= 4096, "{forwarded}");
        }
        let mut credit = credit(u32::MAX);
        credit.learn(Room { allocated: 4096, forwarded: 1 });
        assert_eq!(credit.room(), 0);
    }

    #[test]
    fn no_more_comes_than_was_allowed() {
        let mut credit = credit(0);
        assert!(!credit.receive(usize::MAX) && !credit.receive(65537));
        assert!(credit.receive(65536) && !credit.receive(1) && credit.receive(0));
        credit.forward(10);
        assert!(!credit.receive(11) && credit.receive(10));
        credit.forward(usize::MAX);
        assert_eq!(credit.waiting(), 0, "no more is forwarded than came");
    }

    #[test]
    fn the_guest_is_told_before_it_has_to_wait() {
        let mut credit = credit(0);
        assert!(credit.receive(20000) && !credit.is_to_be_told());
        credit.forward(20000);
        assert!(!credit.is_to_be_told(), "it has enough");
        assert!(credit.receive(20000) && credit.is_to_be_told());
        assert_eq!(credit.tell(), (BUFFER, 20000));
        assert!(!credit.is_to_be_told());
        assert!(credit.receive(BUFFER as usize - 20000) && !credit.is_to_be_told(), "there is nothing new");
        credit.forward(1);
        assert!(credit.is_to_be_told(), "a byte is something to a guest that has none");
    }
}
