//! The keep with a death before each store of a process and of its successor, and with contents that are lies.

#![expect(clippy::arithmetic_side_effects, reason = "a test says what it expects by failing")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;
use crate::inflight::Word;

/// Words that a process writes until it dies. The next one has the same, and lives for other stores.
#[derive(Clone)]
struct Mortal {
    bytes: Rc<RefCell<Vec<u8>>>,
    /// Stores that it lives to make.
    left: Rc<Cell<usize>>,
    /// The store at the first place is held back until the one at the second is made.
    swap: Option<(usize, usize)>,
    held_back: Rc<Cell<Option<u64>>>,
}

impl Mortal {
    fn new() -> Self {
        Self {
            bytes: Rc::new(RefCell::new(vec![0; KEEP_SIZE])),
            left: Rc::new(Cell::new(usize::MAX)),
            swap: None,
            held_back: Rc::default(),
        }
    }

    fn make(&self, at: usize, value: u64) -> Option<()> {
        self.left.set(self.left.get().checked_sub(1)?);
        self.bytes.borrow_mut()[at..at + 8].copy_from_slice(&value.to_le_bytes());
        Some(())
    }
}

impl Words for Mortal {
    fn load<T: Word>(&self, at: usize) -> Option<T> {
        let bytes = self.bytes.borrow();
        T::try_from(word(bytes.get(at..at.checked_add(size_of::<T>())?)?)).ok()
    }

    fn store<T: Word>(&self, at: usize, value: T) -> Option<()> {
        assert_eq!((size_of::<T>(), at % 8), (8, 0), "one instruction");
        let value: u64 = value.into();
        if self.swap.is_some_and(|(late, _)| late == at % SLOT) {
            self.held_back.set(Some(value));
            return Some(());
        }
        self.make(at, value)?;
        if self.swap.is_some_and(|(_, after)| after == at % SLOT)
            && let (Some(value), Some((late, _))) = (self.held_back.take(), self.swap)
        {
            self.make(at - at % SLOT + late, value)?;
        }
        Some(())
    }
}

/// Records of different lengths: what is left of a longer one must not become a part of a shorter one.
fn record(number: u8) -> Kept {
    Kept { version: u16::from(number), state: vec![number; 3 + usize::from(number % 3) * 8] }
}

/// Stores that write a record.
fn stores(kept: &Kept) -> usize {
    4 + kept.state.len().div_ceil(8)
}

/// Has a process write record after record and die after `life` stores; the one before the last that it began, or that
/// one, must be there.
fn dies(words: &Mortal, life: usize, numbers: impl Iterator<Item = u8>) -> Option<Kept> {
    let keep = Keep { words: words.clone() };
    let mut last = keep.read();
    words.left.set(life);
    for number in numbers {
        if keep.write(&record(number)).is_err() {
            let found = keep.read();
            for slot in [0, SLOT] {
                let begun = words.load::<u64>(slot) != Some(0);
                assert!(!begun || keep.found(slot).is_some(), "a sequence before the record is whole");
            }
            assert!(found == last || found == Some(record(number)), "{found:?} after {last:?} and {number}");
            words.left.set(usize::MAX);
            return found;
        }
        last = Some(record(number));
        assert_eq!(keep.read(), last);
    }
    words.left.set(usize::MAX);
    last
}

fn step_through(swap: Option<(usize, usize)>) {
    let most: usize = (1..=4).map(|number| stores(&record(number))).sum();
    for first in 0..=most {
        for second in 0..=most {
            let words = Mortal { swap, ..Mortal::new() };
            let found = dies(&words, first, 1..=4);
            let again = dies(&words, second, 5..=8);
            assert!(again.is_some() || found.is_none(), "{first} {second}: what there was is gone");
            words.held_back.set(None);
            // The third lives.
            dies(&words, usize::MAX, 9..=9);
        }
    }
}

#[test]
fn a_death_before_any_store_leaves_the_record_before_or_the_one_after() {
    step_through(None);
}

#[test]
#[should_panic(expected = "what there was is gone")]
fn it_is_found_when_the_present_record_is_overwritten() {
    /// Every write goes to the first slot.
    struct OneSlot(Mortal);
    impl Words for OneSlot {
        fn load<T: Word>(&self, at: usize) -> Option<T> {
            self.0.load(at % SLOT)
        }
        fn store<T: Word>(&self, at: usize, value: T) -> Option<()> {
            self.0.store(at % SLOT, value)
        }
    }
    for life in 0..=stores(&record(2)) {
        let words = Mortal::new();
        let keep = Keep { words: OneSlot(words.clone()) };
        keep.write(&record(1)).unwrap();
        words.left.set(life);
        let _died = keep.write(&record(2));
        words.left.set(usize::MAX);
        assert!(keep.read().is_some(), "what there was is gone");
    }
}

#[test]
#[should_panic(expected = "a sequence before the record is whole")]
fn it_is_found_when_the_header_comes_after_the_sequence() {
    step_through(Some((slot::HEADER, slot::SEQUENCE)));
}

fn page() -> OwnedFd {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd = memfd_create("keep", flags).unwrap();
    nix::unistd::ftruncate(&fd, i64::try_from(KEEP_SIZE).unwrap()).unwrap();
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
    fd
}

#[test]
fn what_one_process_wrote_the_next_one_reads() {
    let fd = page();
    let keep = || Keep::map(fd.try_clone().unwrap()).unwrap();
    assert_eq!(keep().read(), None);
    for number in 1..=5 {
        keep().write(&record(number)).unwrap();
        assert_eq!(keep().read(), Some(record(number)));
    }
    let longest = Kept { version: u16::MAX, state: vec![0xA5; MAX_STATE] };
    keep().write(&longest).unwrap();
    assert_eq!(keep().read(), Some(longest));
    let too_long = Kept { version: 0, state: vec![0; MAX_STATE + 1] };
    assert!(matches!(keep().write(&too_long), Err(Error::State { size: 2025, limit: 2024 })));
    assert_eq!(keep().read().unwrap().version, u16::MAX);
    let empty = Kept { version: 7, state: vec![] };
    keep().write(&empty).unwrap();
    assert_eq!(keep().read(), Some(empty));
}

#[test]
fn a_page_that_can_shrink_or_is_too_short_is_refused() {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd = memfd_create("keep", flags).unwrap();
    nix::unistd::ftruncate(&fd, i64::try_from(KEEP_SIZE).unwrap()).unwrap();
    assert!(Keep::map(fd.try_clone().unwrap()).is_err());
    nix::unistd::ftruncate(&fd, 100).unwrap();
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
    assert!(Keep::map(fd).is_err());
}

#[test]
fn what_a_hostile_predecessor_leaves_is_a_record_or_none() {
    let words = Mortal::new();
    let keep = Keep { words: words.clone() };
    keep.write(&record(1)).unwrap();
    keep.write(&record(2)).unwrap();
    let good = words.bytes.borrow().clone();
    // Each byte changed: the other record is left, or this one if it is no part of it.
    for at in 0..KEEP_SIZE {
        *words.bytes.borrow_mut() = good.clone();
        words.bytes.borrow_mut()[at] ^= 0xFF;
        let found = keep.read();
        assert!(found == Some(record(1)) || found == Some(record(2)), "{at}: {found:?}");
    }
    // Every header, with a checksum that is right or not, and sequences at both ends.
    for header in [0, 1 << 16, 2024 << 16, 2025 << 16, u64::from(u32::MAX), 1 << 32, u64::MAX] {
        for sequence in [0, 1, u64::MAX - 1, u64::MAX] {
            let length = usize::try_from(header >> 16 & 0xFFFF).unwrap().min(MAX_STATE);
            let sum = checksum(sequence, header, &vec![0; length]);
            *words.bytes.borrow_mut() = vec![0; KEEP_SIZE];
            for (at, value) in [(0, sequence), (8, header), (16, sum)] {
                words.make(at, value).unwrap();
            }
            let valid = sequence != 0 && header <= 2024 << 16 | 0xFFFF;
            assert_eq!(keep.read().is_some(), valid, "{header:#x} {sequence:#x}");
            // Whatever was there: what is written is read.
            for number in 3..6 {
                keep.write(&record(number)).unwrap();
                assert_eq!(keep.read(), Some(record(number)), "{header:#x} {sequence:#x}");
            }
        }
    }
}
