//! A model of the ring and its in-flight notes: the real [`InflightRing`] over words that `loom` watches, with a driver
//! on a thread of its own and deaths between any two stores.
//!
//! What is here in place of `ring` is the part of it that matters: take what is available, in order; handle; give back
//! one at a time. A *process* is a number of stores that it lives to make. The next one finds what it stored, as after
//! a real death: it begins later.
//!
//! Requests are numbered in the order in which the driver makes them available. The claim is one line, in
//! [`History::handle`]: whenever a request is handled, the driver has been told of all before it and of no other. So
//! none is skipped, none is handled after it was given back, and none is overtaken. And the driver sees each come back
//! once, in order. That the model can fail is shown by stores that are swapped.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "four requests are counted, and a test says what it expects by failing"
)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use loom::thread;

use super::{HEADER, InflightRing, Kept, STATE, Taken, Word, Words, header, state};
use crate::Error;

/// Entries of the ring.
const SIZE: u16 = 2;
/// The head of each request: the second pair in another order than the first, as a driver's free list has it.
const HEADS: [u64; 4] = [0, 1, 1, 0];
const AREA: usize = HEADER + STATE * SIZE as usize;

/// What a process stores to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Area(usize),
    UsedElement(usize),
    UsedIndex,
}

/// A pair of stores in the wrong order: the first, of this value if one is given, is held back until the second is made.
type Swap = (Place, Option<u64>, Place);

const FLAGS: Place = Place::Area(HEADER + state::FLAGS);
const COUNTER_AFTER_INFLIGHT: Swap = (Place::Area(HEADER + state::COUNTER), None, FLAGS);
const LAST_HEAD_AFTER_USED_INDEX: Swap = (Place::Area(header::LAST_BATCH_HEAD), None, Place::UsedIndex);
const NOT_INFLIGHT_AFTER_OWN_USED_INDEX: Swap = (FLAGS, Some(0), Place::Area(header::USED_IDX));
const USED_INDEX_BEFORE_ELEMENT: Swap = (Place::UsedElement(0), None, Place::UsedIndex);

/// Guest memory: what device and driver share. The area is apart: its words are no driver's, so that there is one order
/// of accesses to them.
struct Memory {
    available_index: AtomicU64,
    available: Vec<AtomicU64>,
    used_index: AtomicU64,
    used: Vec<AtomicU64>,
    /// By head: the number of the request that its descriptors describe.
    descriptors: Vec<AtomicU64>,
}

impl Memory {
    fn new() -> Self {
        let cells = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let size = usize::from(SIZE);
        Self {
            available_index: AtomicU64::new(0),
            available: cells(size),
            used_index: AtomicU64::new(0),
            used: cells(size),
            descriptors: cells(size),
        }
    }
}

/// What has happened, as somebody who sees everything would write it down.
#[derive(Default)]
struct History {
    given_back: u64,
    /// The request that is being handled, and that this is noted.
    handled: Option<u64>,
    /// By request: the processes that died while it was noted as being handled.
    ended: [u8; HEADS.len()],
}

impl History {
    fn handle(&self, request: u64) {
        assert_eq!(request, self.given_back, "handled, and given back before it");
    }

    fn die(&mut self) {
        if let Some(request) = self.handled.take() {
            self.ended[request as usize] += 1;
        }
    }
}

/// One process of the device.
struct Process {
    memory: Arc<Memory>,
    /// By offset; a word is in the cell of its first byte.
    area: Rc<[Cell<u64>; AREA]>,
    history: Rc<RefCell<History>>,
    /// Stores that it lives to make.
    left: Cell<usize>,
    swap: Option<Swap>,
    held_back: Cell<Option<u64>>,
}

impl Process {
    /// `None` is its death.
    fn store_at(&self, place: Place, value: u64) -> Option<()> {
        let late = |(late, only, _): Swap| late == place && only.is_none_or(|only| only == value);
        if self.swap.is_some_and(late) && self.held_back.get().is_none() {
            self.held_back.set(Some(value));
            return Some(());
        }
        self.make(place, value)?;
        if let Some((late, _, after)) = self.swap
            && after == place
            && let Some(value) = self.held_back.take()
        {
            self.make(late, value)?;
        }
        Some(())
    }

    fn make(&self, place: Place, value: u64) -> Option<()> {
        self.left.set(self.left.get().checked_sub(1)?);
        match place {
            Place::Area(at) => self.area[at].set(value),
            // An ordinary store in guest memory.
            Place::UsedElement(slot) => self.memory.used[slot].store(value, Relaxed),
            Place::UsedIndex => {
                self.memory.used_index.store(value, Release);
                let mut history = self.history.borrow_mut();
                (history.given_back, history.handled) = (value, None);
            }
        }
        Some(())
    }

    /// What `Ring::new` and `Ring::serve` do, until all requests are given back or it dies.
    fn serve(&self) -> Result<(), Error> {
        let size = u64::from(SIZE);
        let mut used = self.memory.used_index.load(Acquire);
        let mut ring = InflightRing::new(self, 0, SIZE, Kept::Requests);
        let mut requests = ring.recover(used as u16, true)?;
        for (request, taken) in (used..).zip(&requests) {
            let found = self.memory.descriptors[usize::from(taken.head)].load(Relaxed);
            assert_eq!(found, request, "found in flight");
            assert_eq!(taken.ended, self.history.borrow().ended[request as usize], "request {request}");
        }
        let mut next = used + requests.len() as u64;
        loop {
            for taken in &requests {
                let request = self.memory.descriptors[usize::from(taken.head)].load(Relaxed);
                ring.handling(*taken)?;
                self.history.borrow_mut().handled = Some(request);
                self.history.borrow().handle(request);
                ring.give_back(taken.head, || {
                    self.publish(used % size, taken.head.into(), used + 1).ok_or(Error::NoSetup)?;
                    used += 1;
                    Ok(used as u16)
                })?;
            }
            if used == HEADS.len() as u64 {
                return Ok(());
            }
            requests = self.take(&mut ring, &mut next)?;
        }
    }

    fn publish(&self, slot: u64, head: u64, used: u64) -> Option<()> {
        self.store_at(Place::UsedElement(slot as usize), head)?;
        self.store_at(Place::UsedIndex, used)
    }

    fn take(&self, ring: &mut InflightRing<&Self>, next: &mut u64) -> Result<Vec<Taken>, Error> {
        let available = loop {
            let index = self.memory.available_index.load(Acquire);
            if index != *next {
                break index;
            }
            thread::yield_now();
        };
        let positions = *next..available;
        *next = available;
        let taken = positions.map(|position| {
            let head = self.memory.available[(position % u64::from(SIZE)) as usize].load(Relaxed) as u16;
            ring.taken(head)?;
            Ok(Taken::new(head))
        });
        taken.collect()
    }
}

impl Words for &Process {
    fn load<T: Word>(&self, at: usize) -> Option<T> {
        T::try_from(self.area[at].get()).ok()
    }

    fn store<T: Word>(&self, at: usize, value: T) -> Option<()> {
        self.store_at(Place::Area(at), value.into())
    }
}

/// The driver: two requests, and when both are back two more.
fn drive(memory: &Memory) {
    let size = u64::from(SIZE);
    for (request, head) in (0..).zip(HEADS) {
        if request == size {
            (0..size).for_each(|request| take_back(memory, request));
        }
        memory.descriptors[head as usize].store(request, Relaxed);
        memory.available[(request % size) as usize].store(head, Relaxed);
        memory.available_index.store(request + 1, Release);
    }
    (size..HEADS.len() as u64).for_each(|request| take_back(memory, request));
}

fn take_back(memory: &Memory, request: u64) {
    while memory.used_index.load(Acquire) <= request {
        thread::yield_now();
    }
    let head = memory.used[(request % u64::from(SIZE)) as usize].load(Relaxed);
    assert_eq!(head, HEADS[request as usize], "what came back for request {request}");
}

/// Runs processes that live for `lives` stores each, then one that lives on, in every order of accesses with at
/// most `preemptions` changes of thread that nobody waits for.
fn check(lives: &[usize], swap: Option<Swap>, preemptions: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    let lives: Vec<usize> = lives.iter().copied().chain([usize::MAX]).collect();
    builder.check(move || {
        let memory = Arc::new(Memory::new());
        let theirs = Arc::clone(&memory);
        let driver = thread::spawn(move || drive(&theirs));
        let area = Rc::new([const { Cell::new(0) }; AREA]);
        let history = Rc::new(RefCell::new(History::default()));
        for left in &lives {
            let process = Process {
                memory: Arc::clone(&memory),
                area: Rc::clone(&area),
                history: Rc::clone(&history),
                left: Cell::new(*left),
                swap,
                held_back: Cell::new(None),
            };
            if process.serve().is_ok() {
                break;
            }
            assert_eq!(process.left.get(), 0, "an error that is no death");
            history.borrow_mut().die();
        }
        assert_eq!(history.borrow().given_back, HEADS.len() as u64);
        driver.join().unwrap();
    });
}

/// Stores of a process that serves all requests, and of its setting up.
const STORES: usize = 3 + HEADS.len() * 9;

#[test]
fn a_death_before_any_store_loses_repeats_and_reorders_nothing() {
    for life in 0..=STORES {
        check(&[life], None, 1);
    }
}

#[test]
fn a_second_death_before_any_store_does_not_either() {
    for first in 0..=STORES {
        for second in 0..=STORES {
            check(&[first, second], None, 0);
        }
    }
}

/// The model must fail somewhere with these stores swapped.
fn is_found(swap: Swap) {
    for life in 0..=STORES {
        check(&[life], Some(swap), 1);
    }
}

#[test]
#[should_panic(expected = "found in flight")]
fn it_is_found_when_a_request_is_noted_before_its_place() {
    is_found(COUNTER_AFTER_INFLIGHT);
}

#[test]
#[should_panic(expected = "found in flight")]
fn it_is_found_when_the_last_head_is_noted_too_late() {
    is_found(LAST_HEAD_AFTER_USED_INDEX);
}

#[test]
#[should_panic(expected = "found in flight")]
fn it_is_found_when_the_areas_used_index_moves_too_early() {
    is_found(NOT_INFLIGHT_AFTER_OWN_USED_INDEX);
}

#[test]
#[should_panic(expected = "what came back for request")]
fn it_is_found_when_the_driver_is_told_too_early() {
    is_found(USED_INDEX_BEFORE_ELEMENT);
}
