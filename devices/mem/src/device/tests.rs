//! Requests of drivers and of what are none, one after the other, and what outlives a process.
#![expect(clippy::arithmetic_side_effects, reason = "a test says what it expects by failing")]

use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use protocol::{MemoryRegion, limits};
use vm_memory::VolatileSlice;

use super::*;

const BLOCK: u64 = 2 << 20;
const START: u64 = 20 << 30;
const COUNT: u16 = 19;

fn options(requested: u64) -> MemOptions {
    let region = MemoryRegion { guest_phys: START, size: u64::from(COUNT) * BLOCK };
    MemOptions { region, block: BLOCK, requested: requested * BLOCK }
}

fn mem(requested: u64) -> Mem {
    Mem::new(options(requested), page()).unwrap()
}

fn page() -> OwnedFd {
    let page = memfd_create("plugged", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    ftruncate(&page, 4096).unwrap();
    fcntl(&page, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)).unwrap();
    page
}

fn span(first: u64, nb_blocks: u16) -> Span {
    Span { addr: START + first * BLOCK, nb_blocks }
}

/// What `mem` says of each block, as P and U.
fn map(mem: &Mem) -> String {
    let each = (0..COUNT.into()).map(|block| match mem.look(span(block, 1)) {
        Response::State(BlockState::Plugged) => 'P',
        Response::State(BlockState::Unplugged) => 'U',
        other => panic!("{other:?}"),
    });
    each.collect()
}

/// The numbers of the configuration that change: plugged and requested, in blocks.
fn amounts(mem: &Mem) -> (u64, u64) {
    let config = mem.config();
    let word = |at: usize| u64::from_le_bytes(config[at..at + 8].try_into().unwrap()) / BLOCK;
    (word(40), word(48))
}

fn taken(_address: u64, _length: u64) -> bool {
    true
}

/// Of a request that must not have the host take anything.
fn nothing(address: u64, length: u64) -> bool {
    panic!("{length:#x} bytes from {address:#x} on are given back")
}

#[test]
fn blocks_are_plugged_up_to_what_is_wanted_and_unplugged_by_those_that_are() {
    let mem = mem(6);
    assert_eq!((map(&mem).as_str(), amounts(&mem)), ("UUUUUUUUUUUUUUUUUUU", (0, 6)));
    assert_eq!(mem.plug(span(3, 4)), Response::Ack);
    assert_eq!(mem.plug(span(18, 1)), Response::Ack);
    assert_eq!((map(&mem).as_str(), amounts(&mem)), ("UUUPPPPUUUUUUUUUUUP", (5, 6)));
    assert_eq!(mem.plug(span(8, 2)), Response::Nack, "one too many");
    assert_eq!(mem.plug(span(6, 2)), Response::Error, "one is plugged");
    assert_eq!(mem.plug(span(3, 4)), Response::Error, "all are");
    let mut given = Vec::new();
    let answer = mem.unplug(span(4, 2), |address, length| {
        given.push(((address - START) / BLOCK, length / BLOCK));
        true
    });
    assert_eq!((answer, given), (Response::Ack, vec![(4, 2)]));
    assert_eq!(mem.unplug(span(3, 3), nothing), Response::Error, "some are not plugged");
    assert_eq!(mem.unplug(span(0, 2), nothing), Response::Error, "none is");
    assert_eq!((map(&mem).as_str(), amounts(&mem)), ("UUUPUUPUUUUUUUUUUUP", (3, 6)));
    assert_eq!(mem.look(span(3, 4)), Response::State(BlockState::Mixed));
    let mut given = Vec::new();
    let answer = mem.unplug_all(|address, length| {
        given.push((address, length));
        true
    });
    assert_eq!((answer, given), (Response::Ack, vec![(START, u64::from(COUNT) * BLOCK)]));
    assert_eq!(amounts(&mem), (0, 6));
}

#[test]
fn what_the_host_does_not_take_stays_plugged() {
    let mem = mem(4);
    assert_eq!(mem.plug(span(0, 4)), Response::Ack);
    assert_eq!(mem.unplug(span(0, 1), |_, _| false), Response::Busy);
    assert_eq!(mem.unplug_all(|_, _| false), Response::Busy);
    assert_eq!(amounts(&mem), (4, 4));
}

#[test]
fn no_request_for_what_is_no_block_does_anything() {
    let mem = mem(19);
    assert_eq!(mem.plug(span(0, 19)), Response::Ack);
    let before = mem.kept();
    let mebibyte = 1 << 20;
    for wrong in [
        span(0, 0),
        span(0, 20),
        span(0, u16::MAX),
        span(18, 2),
        span(19, 1),
        Span { addr: START + mebibyte, nb_blocks: 1 },
        Span { addr: START - BLOCK, nb_blocks: 2 },
        Span { addr: 0, nb_blocks: u16::MAX },
        Span { addr: u64::MAX - BLOCK + 1, nb_blocks: u16::MAX },
    ] {
        assert_eq!(mem.plug(wrong), Response::Error, "{wrong:?}");
        assert_eq!(mem.unplug(wrong, nothing), Response::Error, "{wrong:?}");
        assert_eq!(mem.look(wrong), Response::Error, "{wrong:?}");
    }
    assert_eq!(mem.kept(), before);
}

/// One request to its end: the used length or why the ring breaks, and the answer.
fn ask(mem: &Arc<Mem>, request: &[u8], room: usize) -> (Result<u32, &'static str>, Vec<u8>) {
    let mut queue = GuestRequests { mem: Arc::clone(mem), memory: None, failed: true };
    let (mut request, mut answer) = (request.to_vec(), vec![0xEE; room]);
    let result = {
        let (out, back) = ([VolatileSlice::from(&mut request[..])], [VolatileSlice::from(&mut answer[..])]);
        queue.handle(0, Reader::new(&out), Writer::new(&back))
    };
    (result, answer)
}

#[test]
fn requests_that_are_none_are_errors_and_one_without_room_is_not_done() {
    let mem = Arc::new(mem(4));
    let plug = Request::Plug(span(0, 1)).bytes();
    let error = vec![3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for request in [&plug[..0], &plug[..7], &plug[..23], &[4; 24], &[0xFF; 64]] {
        assert_eq!(ask(&mem, request, 10), (Ok(10), error.clone()), "{request:?}");
    }
    let before = mem.kept();
    assert_eq!(ask(&mem, &plug, 9), (Err(NO_ROOM), vec![0xEE; 9]));
    assert_eq!(mem.kept(), before);
    assert_eq!(ask(&mem, &plug, 12), (Ok(10), [&[0; 10][..], &[0xEE; 2]].concat()));
    assert_eq!(amounts(&mem), (1, 4));
    let unplug = Request::Unplug(span(0, 1)).bytes();
    assert_eq!(ask(&mem, &unplug, 10).1[0], 2, "busy: the front end has not sent memory");
}

#[test]
fn what_is_wanted_is_whole_blocks_and_not_the_drivers_to_change() {
    let mem = mem(4);
    assert_eq!(mem.set(Setting::Mem(9 * BLOCK)), Ok(false), "kept by itself");
    assert_eq!(amounts(&mem), (0, 9));
    for wrong in [20 * BLOCK, BLOCK + 4096, 1, u64::MAX] {
        assert!(mem.set(Setting::Mem(wrong)).unwrap_err().contains("whole blocks"), "{wrong}");
    }
    assert_eq!(mem.set(Setting::Link(true)), Err(NOTHING_TO_SET.to_owned()));
    assert_eq!(mem.plug(span(0, 9)), Response::Ack);
    // Less than there is: the driver unplugs, and can plug nothing until it has.
    assert_eq!(mem.set(Setting::Mem(2 * BLOCK)), Ok(false));
    assert_eq!(mem.plug(span(9, 1)), Response::Nack);
    assert!(!mem.write_config(48, &[0xFF; 8]) && !mem.reset());
    assert_eq!(amounts(&mem), (9, 2));
    assert_eq!(mem.numbers(), [("mem-requested", 2 * BLOCK), ("mem-plugged", 9 * BLOCK)]);
}

#[test]
fn what_was_acknowledged_outlives_the_process_and_what_was_not_is_done_once() {
    let old = mem(8);
    assert_eq!(old.set(Setting::Mem(9 * BLOCK)), Ok(false));
    assert_eq!(old.plug(span(2, 5)), Response::Ack);
    let successor = |of: &Mem| {
        let new = mem(0);
        // As a spare looks again and again.
        assert!(new.restore(&of.kept().unwrap()) && new.restore(&of.kept().unwrap()));
        assert_eq!(new.config(), of.config());
        new
    };
    // The answer did not reach the driver, and the request is done again: once.
    let new = successor(&old);
    assert_eq!(new.plug(span(2, 5)), Response::Ack);
    assert_eq!(new.plug(span(2, 5)), Response::Error);
    assert_eq!(amounts(&new), (5, 9));
    // It did, and the driver has asked for something else since.
    let new = successor(&old);
    assert_eq!(new.look(span(2, 5)), Response::State(BlockState::Plugged));
    assert_eq!(new.plug(span(2, 5)), Response::Error);
    // A request like the one before, but not the same.
    let new = successor(&old);
    assert_eq!(new.plug(span(2, 4)), Response::Error);
    assert_eq!(new.unplug(span(3, 2), taken), Response::Ack);
    let new = successor(&new);
    assert_eq!(new.unplug(span(3, 2), nothing), Response::Ack);
    assert_eq!(new.unplug(span(3, 2), nothing), Response::Error);
    assert_eq!(new.unplug_all(taken), Response::Ack);
    assert_eq!(successor(&new).unplug_all(taken), Response::Ack);
}

#[test]
fn what_a_predecessor_kept_is_parsed_as_what_anybody_wrote() {
    let old = mem(4);
    assert_eq!(old.plug(span(0, 3)), Response::Ack);
    let Kept { version, state } = old.kept().unwrap();
    assert_eq!(state.len(), 8 + 24 + 3);
    let with = |at: usize, bytes: &[u8]| {
        let mut state = state.clone();
        state[at..at + bytes.len()].copy_from_slice(bytes);
        state
    };
    let new = mem(1);
    for (version, state) in [
        (0, state.clone()),
        (2, state.clone()),
        (version, Vec::new()),
        (version, state[..34].to_vec()),
        (version, [&state[..], &[0]].concat()),
        (version, vec![0xFF; 2024]),
        (version, with(0, &(20 * BLOCK).to_le_bytes())),
        (version, with(0, &1u64.to_le_bytes())),
        (version, with(34, &[8])),
    ] {
        assert!(!new.restore(&Kept { version, state }));
    }
    assert_eq!(amounts(&new), (0, 1), "nothing of it was taken");
    // A last request that is none, or that says something else than the blocks do, is of no use to anybody.
    assert!(new.restore(&Kept { version, state: with(8, &Request::Plug(span(9, 3)).bytes()) }));
    assert_eq!(new.plug(span(9, 3)), Response::Nack);
    assert!(new.restore(&Kept { version, state: with(8, &[0xEE; 24]) }));
    assert_eq!(amounts(&new), (3, 4));
}

#[test]
fn the_state_of_as_many_blocks_as_there_can_be_fits_into_the_keep() {
    let block = limits::MIN_MEM_BLOCK;
    let region = MemoryRegion { guest_phys: START, size: limits::MAX_MEM_BLOCKS * block };
    let most = Mem::new(MemOptions { region, block, requested: 0 }, page()).unwrap();
    // Of the page there are two records, each with a head of 24 bytes.
    assert!(most.kept().unwrap().state.len() <= limits::KEEP_SIZE / 2 - 24);
    let region = MemoryRegion { size: region.size + block, ..region };
    assert!(Mem::new(MemOptions { region, block, requested: 0 }, page()).is_err());
}

#[test]
fn what_is_plugged_is_shown_before_the_answer_and_by_a_successor_that_serves() {
    let page = page();
    let mem = || Mem::new(options(9), page.try_clone().unwrap()).unwrap();
    let file = std::fs::File::from(page.try_clone().unwrap());
    let shown = || {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 0).unwrap();
        u64::from_le_bytes(bytes) / BLOCK
    };
    let old = mem();
    assert_eq!((old.plug(span(2, 5)), shown()), (Response::Ack, 5));
    let spare = mem();
    assert!(spare.restore(&old.kept().unwrap()));
    assert_eq!((old.unplug(span(2, 1), taken), shown()), (Response::Ack, 4));
    assert!(spare.restore(&old.kept().unwrap()));
    file.write_all_at(&[0xFF; 8], 0).unwrap();
    assert!(!spare.started());
    assert_eq!(shown(), 4);
}
