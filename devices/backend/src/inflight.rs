//! The in-flight area: which requests a ring has taken and not yet given back, kept in memory that outlives this
//! process (vhost-user, "Inflight I/O tracking", split rings). After a crash the next device program finds
//! there what to do again.
//!
//! The area belongs to the front end, which may write anything there at any time: whatever is read is checked,
//! and nothing read from it is used as an index without a bound.
//!
//! # What a death leaves
//!
//! A process can end between any two of its instructions. What it has stored by then is there for its successor,
//! which starts after the end, and nothing else is: so it is the *order* of the stores that decides, and that each is
//! one instruction. One thread serves a ring, takes requests in the order of the available ring and gives
//! them back in that same order, one at a time. Then these hold at every instant:
//!
//! - The heads noted as in flight are those of the available ring from the used index on, without a gap, but for one
//!   exception below: `taken` writes the counter before the note, so that what is noted has its place, and
//!   notes heads in the order of the ring. Therefore a successor continues taking at the used index plus their number.
//! - `give_back` stores, in this order: *last batch head*, the used element, the used index (these two in guest
//!   memory), *not in flight*, the area's own used index. Before the used index moves, the request counts as not done
//!   and is done again, in its place before all that were taken after it; the driver has not been told of it, so it is
//!   the same request still. After it has moved, the driver may use the descriptors for something else, so it must not
//!   be done again. That a death came before the note of this is seen by the area's used index, which is not
//!   the ring's then: the exception. It is one request at most, and *last batch head* says which.
//! - `recover` clears that one before it stores the used index, so that a death in its middle leaves the exception
//!   as it was found, and it renumbers nothing.
//!
//! `model` runs this very code with a death before each of its stores, and before each of its successor's, while a
//! driver makes requests available and takes them back at any moment in between.
//!
//! # Whose fault it was
//!
//! A request may be what ends the process. The first four bytes of a descriptor state, of which the specification uses
//! one and leaves three as padding, are stored as one word: in flight, (zero), *being handled*, and the number of
//! processes that this request has *ended*. `handling` marks a request before the first look at what it asks for;
//! those that were merely taken have no such mark. At recovery by a process that was told that its predecessor's
//! end may be blamed on a request, each marked one has its count raised and its mark cleared by the same store, so
//! that a death between any two stores counts once: either there is still a mark and no count, or the count and no mark.
//! Where the end is nobody's fault the mark is cleared alone. A count lasts as long as the request is in flight.
//!
//! A back end that knows nothing of this writes the first byte and keeps the others, which then say what they said
//! when the head was last in flight under us: zero, for `given_back` clears the whole word.
//!
//! # What must not be done twice
//!
//! To send a packet again is worse than to lose it, which a network may do. Of a ring of [`Kept::RequestsOnce`] a marked
//! request is not repeated, whatever ended the process: at recovery its count becomes [`BEGUN`] by the store that
//! clears the mark, which no other request's count reaches as it is refused long before, and which stays until
//! it is given back, through any number of deaths. The mark is set before the first look at the request, so one without it was not done.
//!
//! # Buffers that wait
//!
//! A ring of [`Kept::Nothing`] takes buffers, not requests: one that was taken and not given back is as good as one that
//! was not taken, for the driver was told of nothing and expects nothing in it. Such a ring gives buffers back in the
//! order of the available ring, so that those not given back are the ones from the used index on: all that a successor
//! has to know is in guest memory. Nothing is noted, which would cost two stores and more for each packet, and nobody is
//! blamed: what ends a process that receives may be the packet as well as the buffer, and no answer says "refused". A buffer
//! that is held is such a one.

mod area;
#[cfg(test)]
mod model;

use crate::{Error, fault_point};

pub(crate) use area::{InflightArea, InflightFile, Part};

/// Bytes in front of the descriptor states, and of one descriptor state.
const HEADER: usize = 16;
const STATE: usize = 16;
const VERSION: u16 = 1;

/// Offsets in the header.
mod header {
    pub(super) const VERSION: usize = 8;
    pub(super) const DESC_NUM: usize = 10;
    pub(super) const LAST_BATCH_HEAD: usize = 12;
    pub(super) const USED_IDX: usize = 14;
}

/// Offsets in a descriptor state.
mod state {
    pub(super) const FLAGS: usize = 0;
    pub(super) const NEXT: usize = 6;
    pub(super) const COUNTER: usize = 8;
}

/// A word of the area: 2, 4 or 8 bytes at a multiple of its size.
pub(crate) trait Word: vm_memory::AtomicAccess + Into<u64> + TryFrom<u64> {}
impl Word for u16 {}
impl Word for u32 {}
impl Word for u64 {}

/// One ring's part of the area as [`InflightRing`] sees it. Each store is one instruction, and stores become
/// visible in the order in which they are made. `None` is past the end.
pub(crate) trait Words {
    /// The word at byte `at`.
    fn load<T: Word>(&self, at: usize) -> Option<T>;
    /// Changes the word at byte `at`.
    fn store<T: Word>(&self, at: usize, value: T) -> Option<()>;
}

/// A request that was taken from the available ring and not yet given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Its head.
    pub(crate) head: u16,
    /// How many processes before this one ended while they handled it, and may have ended for it.
    pub(crate) ended: u8,
}

impl Taken {
    /// A request that no predecessor saw.
    pub(crate) fn new(head: u16) -> Self {
        Self { head, ended: 0 }
    }
}

/// The count of a request that was begun and is not to be repeated.
pub(crate) const BEGUN: u8 = u8::MAX;

/// What a ring has in its part of the area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Requests, to be done again after a death.
    Requests,
    /// Requests, of which none may be begun twice.
    RequestsOnce,
    /// Nothing: it takes buffers.
    Nothing,
}

/// The first word of a descriptor state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Flags {
    inflight: bool,
    handled: bool,
    ended: u8,
}

impl Flags {
    fn word(self) -> u32 {
        u32::from_ne_bytes([u8::from(self.inflight), 0, u8::from(self.handled), self.ended])
    }

    fn parse(word: u32) -> Self {
        let [inflight, _, handled, ended] = word.to_ne_bytes();
        Self { inflight: inflight == 1, handled: handled == 1, ended }
    }
}

/// What is noted of one ring.
pub(crate) struct InflightRing<W> {
    words: W,
    index: u16,
    queue_size: u16,
    kept: Kept,
    counter: u64,
}

impl<W: Words> InflightRing<W> {
    fn new(words: W, index: u16, queue_size: u16, kept: Kept) -> Self {
        Self { words, index, queue_size, kept, counter: 0 }
    }

    /// What a predecessor left: the requests to do again, in the order in which they were taken. `used_idx` is the
    /// ring's own, which tells whether the predecessor died between giving a request back and noting it; `blamed`
    /// whether its end may be the fault of what it was handling.
    pub(crate) fn recover(&mut self, used_idx: u16, blamed: bool) -> Result<Vec<Taken>, Error> {
        fault_point!(BeforeRecovery);
        let version: u16 = self.load(header::VERSION)?;
        if version == 0 {
            self.store(header::DESC_NUM, self.queue_size)?;
            self.store(header::USED_IDX, used_idx)?;
            self.store(header::VERSION, VERSION)?;
            return Ok(Vec::new());
        }
        if version != VERSION || self.load::<u16>(header::DESC_NUM)? != self.queue_size {
            return Err(self.inconsistent("its version or its ring size is not ours"));
        }
        if self.load::<u16>(header::USED_IDX)? != used_idx {
            // One request at a time is given back, so at most one is noted as in flight that is not.
            let head = self.load::<u16>(header::LAST_BATCH_HEAD)?;
            self.set_flags(head, Flags::default())?;
            fault_point!(AmidRecovery);
            self.store(header::USED_IDX, used_idx)?;
        }
        let mut taken = Vec::new();
        for head in 0..self.queue_size {
            let flags = Flags::parse(self.load(self.state(head)?.saturating_add(state::FLAGS))?);
            if !flags.inflight {
                continue;
            }
            if self.kept == Kept::Nothing {
                return Err(self.inconsistent(
                    "a ring of buffers has one in flight: its predecessor was of another kind",
                ));
            }
            let ended = match (flags.handled, self.kept) {
                (true, Kept::RequestsOnce) => BEGUN,
                (handled, _) => flags.ended.saturating_add(u8::from(handled && blamed)),
            };
            if flags.handled {
                self.set_flags(head, Flags { handled: false, ended, ..flags })?;
            }
            let counter: u64 = self.load(self.state(head)?.saturating_add(state::COUNTER))?;
            taken.push((counter, Taken { head, ended }));
        }
        fault_point!(AfterRecovery);
        taken.sort_unstable_by_key(|(counter, taken)| (*counter, taken.head));
        self.counter = taken.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        Ok(taken.into_iter().map(|(_, taken)| taken).collect())
    }

    /// Before anything is done about a request. Not for one that was recovered: it is noted, in its place.
    pub(crate) fn taken(&mut self, head: u16) -> Result<(), Error> {
        fault_point!(BeforeTaken);
        self.store(self.state(head)?.saturating_add(state::COUNTER), self.counter)?;
        fault_point!(AmidTaken);
        self.counter = self.counter.wrapping_add(1);
        self.set_flags(head, Flags { inflight: true, ..Flags::default() })?;
        fault_point!(AfterTaken);
        Ok(())
    }

    /// Before the first look at what a request asks for.
    pub(crate) fn handling(&self, Taken { head, ended }: Taken) -> Result<(), Error> {
        fault_point!(BeforeHandling);
        self.set_flags(head, Flags { inflight: true, handled: true, ended })?;
        fault_point!(AfterHandling);
        Ok(())
    }

    /// Gives a request back by `publish`, which tells the driver and returns the ring's new used index.
    pub(crate) fn give_back(
        &self,
        head: u16,
        publish: impl FnOnce() -> Result<u16, Error>,
    ) -> Result<(), Error> {
        fault_point!(BeforeGivingBack);
        let last: u16 = self.load(header::LAST_BATCH_HEAD)?;
        self.store(self.state(head)?.saturating_add(state::NEXT), last)?;
        fault_point!(AmidGivingBack);
        self.store(header::LAST_BATCH_HEAD, head)?;
        fault_point!(AfterGivingBack);
        let used_idx = publish()?;
        fault_point!(AfterUsedIndex);
        self.set_flags(head, Flags::default())?;
        fault_point!(AmidGivenBack);
        self.store(header::USED_IDX, used_idx)?;
        fault_point!(AfterGivenBack);
        Ok(())
    }

    /// Offset of the state of `head` within this ring's part.
    fn state(&self, head: u16) -> Result<usize, Error> {
        if head >= self.queue_size {
            return Err(self.inconsistent("it names a descriptor beyond the ring"));
        }
        Ok(STATE.saturating_mul(head.into()).saturating_add(HEADER))
    }

    fn set_flags(&self, head: u16, flags: Flags) -> Result<(), Error> {
        self.store(self.state(head)?.saturating_add(state::FLAGS), flags.word())
    }

    fn load<T: Word>(&self, at: usize) -> Result<T, Error> {
        self.words.load(at).ok_or_else(|| self.inconsistent("it is too short"))
    }

    fn store<T: Word>(&self, at: usize, value: T) -> Result<(), Error> {
        self.words.store(at, value).ok_or_else(|| self.inconsistent("it is too short"))
    }

    fn inconsistent(&self, what: &'static str) -> Error {
        Error::Inflight { index: self.index, what }
    }
}

#[cfg(test)]
mod tests {
    use super::area::tests::area;
    use super::*;

    fn heads(taken: &[Taken]) -> Vec<u16> {
        taken.iter().map(|taken| taken.head).collect()
    }

    /// What a successor of `blamed` or other cause finds in ring `index` of `area`.
    fn found(area: &InflightArea, index: u16, used_idx: u16, blamed: bool) -> Vec<Taken> {
        area.ring(index, 8, Kept::Requests).unwrap().recover(used_idx, blamed).unwrap()
    }

    /// The process dies once the used index has moved.
    const DIED: Error = Error::NoSetup;

    #[test]
    fn what_was_taken_and_not_given_back_is_found_in_order() {
        let area = area(2, 8);
        let mut ring = area.ring(1, 8, Kept::Requests).unwrap();
        assert!(ring.recover(0, false).unwrap().is_empty());
        for head in [5, 2, 7] {
            ring.taken(head).unwrap();
        }
        ring.give_back(2, || Ok(1)).unwrap();
        assert_eq!(heads(&found(&area, 1, 1, false)), [5, 7]);
        assert!(found(&area, 0, 0, false).is_empty(), "the other ring is untouched");
    }

    #[test]
    fn a_death_between_used_index_and_note_does_nothing_twice() {
        let area = area(1, 8);
        let mut ring = area.ring(0, 8, Kept::Requests).unwrap();
        ring.recover(0, false).unwrap();
        ring.taken(3).unwrap();
        ring.taken(4).unwrap();
        // The used index is 1 now, and the process dies here.
        ring.give_back(3, || Err(DIED)).unwrap_err();
        assert_eq!(heads(&found(&area, 0, 1, false)), [4]);
        // Died before the used index moved: it is done again.
        let mut ring = area.ring(0, 8, Kept::Requests).unwrap();
        ring.recover(1, false).unwrap();
        ring.give_back(4, || Err(DIED)).unwrap_err();
        assert_eq!(heads(&found(&area, 0, 1, false)), [4]);
    }

    #[test]
    fn a_recovered_order_outlives_further_deaths() {
        let area = area(1, 8);
        let mut ring = area.ring(0, 8, Kept::Requests).unwrap();
        ring.recover(0, false).unwrap();
        for head in [5, 2, 7] {
            ring.taken(head).unwrap();
        }
        // The successor takes one more, handles the first, and dies.
        let mut ring = area.ring(0, 8, Kept::Requests).unwrap();
        let again = ring.recover(0, false).unwrap();
        ring.handling(again[0]).unwrap();
        ring.taken(0).unwrap();
        assert_eq!(heads(&found(&area, 0, 0, false)), [5, 2, 7, 0]);
    }

    #[test]
    fn what_was_being_handled_is_blamed_once_for_each_process_that_it_ended() {
        let area = area(1, 8);
        let mut ring = area.ring(0, 8, Kept::Requests).unwrap();
        ring.recover(0, true).unwrap();
        ring.taken(3).unwrap();
        ring.taken(6).unwrap();
        ring.handling(Taken::new(3)).unwrap();
        let guilty = |ended| [Taken { head: 3, ended }, Taken::new(6)];
        assert_eq!(found(&area, 0, 0, true), guilty(1));
        // That one died before it handled anything, as did these.
        for blamed in [true, false, true] {
            assert_eq!(found(&area, 0, 0, blamed), guilty(1));
        }
        let ring = area.ring(0, 8, Kept::Requests).unwrap();
        ring.handling(Taken { head: 3, ended: 1 }).unwrap();
        assert_eq!(found(&area, 0, 0, true), guilty(2));
        // Given back, the head carries nothing on to the next request.
        let mut ring = area.ring(0, 8, Kept::Requests).unwrap();
        ring.recover(0, true).unwrap();
        ring.give_back(3, || Ok(1)).unwrap();
        ring.taken(3).unwrap();
        assert_eq!(found(&area, 0, 1, true), [Taken::new(6), Taken::new(3)]);
    }

    #[test]
    fn a_death_that_somebody_else_caused_is_nobodys_fault() {
        let area = area(1, 8);
        let mut ring = area.ring(0, 8, Kept::Requests).unwrap();
        ring.recover(0, false).unwrap();
        ring.taken(3).unwrap();
        ring.handling(Taken::new(3)).unwrap();
        assert_eq!(found(&area, 0, 0, false), [Taken::new(3)]);
        assert_eq!(found(&area, 0, 0, true), [Taken::new(3)], "not even later");
    }

    #[test]
    fn what_must_not_be_done_twice_is_not_through_any_number_of_deaths() {
        let area = area(1, 8);
        let once = || area.ring(0, 8, Kept::RequestsOnce).unwrap();
        let mut ring = once();
        ring.recover(0, false).unwrap();
        ring.taken(3).unwrap();
        ring.taken(6).unwrap();
        ring.handling(Taken::new(3)).unwrap();
        let begun = [Taken { head: 3, ended: BEGUN }, Taken::new(6)];
        for blamed in [false, true, false] {
            assert_eq!(once().recover(0, blamed).unwrap(), begun);
        }
        once().handling(begun[0]).unwrap();
        assert_eq!(once().recover(0, false).unwrap(), begun);
        let mut ring = once();
        ring.recover(0, false).unwrap();
        ring.give_back(3, || Ok(1)).unwrap();
        ring.taken(3).unwrap();
        assert_eq!(once().recover(1, false).unwrap(), [Taken::new(6), Taken::new(3)]);
    }

    #[test]
    fn a_head_beyond_the_ring_is_an_error() {
        let area = area(1, 8);
        let mut ring = area.ring(0, 8, Kept::Requests).unwrap();
        ring.recover(0, false).unwrap();
        ring.store(header::LAST_BATCH_HEAD, 0xffffu16).unwrap();
        assert!(matches!(
            area.ring(0, 8, Kept::Requests).unwrap().recover(1, true),
            Err(Error::Inflight { .. })
        ));
    }

    #[test]
    fn a_state_full_of_lies_is_bounded() {
        let area = area(1, 8);
        let mut ring = area.ring(0, 8, Kept::Requests).unwrap();
        ring.recover(0, false).unwrap();
        for head in 1..8 {
            let at = ring.state(head).unwrap();
            ring.store(at + state::FLAGS, u32::from_ne_bytes([1, 0xff, 1, 0xff])).unwrap();
            ring.store(at + state::NEXT, 0xffffu16).unwrap();
            ring.store(at + state::COUNTER, u64::MAX).unwrap();
        }
        let all: Vec<Taken> = (1..8).map(|head| Taken { head, ended: 0xff }).collect();
        assert_eq!(found(&area, 0, 0, true), all);
        ring.store(ring.state(1).unwrap(), 0xffff_ffffu32).unwrap();
        assert_eq!(found(&area, 0, 0, true), all[1..], "in flight is 1 and nothing else");
    }
}
