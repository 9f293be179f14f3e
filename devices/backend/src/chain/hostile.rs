//! Chains that no driver makes (virtio 1.2, §2.7.5): each ends, as an error, as outside or as pieces of guest memory.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use super::*;

const SIZE: u16 = 8;
const TABLE: Table = Table { address: GuestAddress(0x1000), size: SIZE };
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Where an indirect table is, and where buffers are.
const OTHER: u64 = 0x2000;
const BUFFER: u64 = 0x3000;
/// Two regions that touch, and a third behind a hole.
const REGIONS: [(GuestAddress, usize); 3] =
    [(GuestAddress(0), 0x4000), (GuestAddress(0x4000), 0x4000), (GuestAddress(0x1_0000), 0x1000)];
const END: u64 = 0x1_1000;

/// (address, length, flags, next)
type Entry = (u64, u32, u16, u16);

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&REGIONS).unwrap()
}

fn put(memory: &GuestMemoryMmap, table: u64, entries: &[Entry]) {
    for (place, (address, length, flags, next)) in (table..).step_by(16).zip(entries) {
        let descriptor = Descriptor::new(*address, *length, *flags, *next);
        memory.write_obj(descriptor, GuestAddress(place)).unwrap();
    }
}

/// What becomes of the chain of these that begins at the first: outside, readable and writable bytes.
fn collected(entries: &[Entry], indirect: &[Entry]) -> Result<(bool, usize, usize), &'static str> {
    let memory = memory();
    put(&memory, TABLE.address.0, entries);
    put(&memory, OTHER, indirect);
    let mut pieces = Pieces::default();
    collect(&memory, TABLE, 0, &mut pieces)?;
    let (reader, writer) = (Reader::new(&pieces.readable), Writer::new(&pieces.writable));
    Ok((pieces.outside, reader.remaining(), writer.remaining()))
}

#[test]
fn chains_that_go_round_or_leave_their_table_end() {
    let links = |next: &[u16]| -> Vec<Entry> { next.iter().map(|next| (BUFFER, 1, NEXT, *next)).collect() };
    let longer = Err("a descriptor chain is longer than the queue");
    assert_eq!(collected(&links(&[0]), &[]), longer, "a loop of one");
    assert_eq!(collected(&links(&[1, 0]), &[]), longer, "of two");
    assert_eq!(collected(&links(&[1, 2, 3, 4, 5, 6, 7, 0]), &[]), longer, "of all");
    assert_eq!(collected(&links(&[1, 2, 1]), &[]), longer, "with a way in");
    for next in [SIZE, 0x7FFF, u16::MAX] {
        assert_eq!(collected(&links(&[next]), &[]), Err("a descriptor index is outside its table"), "{next}");
    }
    let mut whole = links(&[1, 2, 3, 4, 5, 6, 7, 0]);
    whole[7].2 = 0;
    assert_eq!(collected(&whole, &[]), Ok((false, 8, 0)), "as long as the queue is no error");
    for head in [SIZE, u16::MAX] {
        let refused = collect(&memory(), TABLE, head, &mut Pieces::default());
        assert_eq!(refused, Err("a descriptor index is outside its table"));
    }
}

/// Writable bytes before the first buffer that is outside, and behind the last.
fn around(entries: &[Entry]) -> (usize, usize) {
    let memory = memory();
    put(&memory, TABLE.address.0, entries);
    let mut pieces = Pieces::default();
    collect(&memory, TABLE, 0, &mut pieces).unwrap();
    assert!(pieces.outside);
    (Writer::new(pieces.before()).remaining(), Writer::new(&pieces.writable).remaining())
}

#[test]
fn lengths_and_addresses_that_are_not_there_are_outside() {
    for (address, length) in [
        (BUFFER, u32::MAX),
        (u64::MAX, 1),
        (u64::MAX - 7, 16),
        (u64::MAX, u32::MAX),
        (0x8000, 1),
        (0x7FFF, 2),
        (0xFFFF, 2),
        (END, 1),
        (END - 1, 2),
        (1 << 63, 4096),
    ] {
        for flags in [0, WRITE] {
            let (outside, ..) = collected(&[(address, length, flags, 0)], &[]).unwrap();
            assert!(outside, "{address:#x} {length:#x}");
        }
    }
    // What is found before does not count either, as far as it is for writing, but for whoever answers there.
    let half = [(BUFFER, 16, WRITE | NEXT, 1), (END, 16, WRITE, 0)];
    assert_eq!(collected(&half, &[]), Ok((true, 0, 0)));
    assert_eq!(around(&half), (16, 0));
    let between = [(END, 8, WRITE), (BUFFER, 4, WRITE), (END, 8, WRITE), (BUFFER, 2, WRITE)];
    let links = |parts: &[(u64, u32, u16)]| {
        let last = parts.len() - 1;
        let link = |(at, (address, length, flags)): (usize, &(u64, u32, u16))| {
            let next = if at == last { 0 } else { NEXT };
            (*address, *length, flags | next, u16::try_from(at + 1).unwrap())
        };
        parts.iter().enumerate().map(link).collect::<Vec<Entry>>()
    };
    assert_eq!(around(&links(&between)), (0, 2));
    let first_and_last = [(BUFFER, 8, WRITE), (BUFFER, 8, WRITE), (END, 8, WRITE), (BUFFER, 3, WRITE)];
    assert_eq!(around(&links(&first_and_last)), (16, 3));
    let for_reading = [(END, 8, 0), (BUFFER, 8, WRITE)];
    assert_eq!(around(&links(&for_reading)), (8, 8), "of the room nothing is outside");
    assert_eq!(collected(&[(0x3FF0, 0x20, 0, 0)], &[]), Ok((false, 0x20, 0)), "over two regions");
    assert_eq!(collected(&[(0, 0x8000, WRITE, 0)], &[]), Ok((false, 0, 0x8000)));
    assert_eq!(collected(&[(u64::MAX, 0, 0, 0)], &[]), Ok((false, 0, 0)), "nothing is nowhere");
    // Together more than 32 bits say, of buffers that are not there.
    let many: Vec<Entry> =
        (1..=SIZE).map(|next| (BUFFER, u32::MAX, if next < SIZE { NEXT } else { 0 }, next)).collect();
    assert_eq!(collected(&many, &[]), Ok((true, 0, 0)));
}

#[test]
fn what_is_to_be_written_comes_last() {
    let order = [(BUFFER, 8, WRITE | NEXT, 1), (BUFFER, 8, 0, 0)];
    assert_eq!(collected(&order, &[]), Err("a readable descriptor follows a writable one"));
    let empty = [(BUFFER, 0, WRITE | NEXT, 1), (BUFFER, 8, 0, 0)];
    assert_eq!(collected(&empty, &[]), Err("a readable descriptor follows a writable one"));
}

#[test]
fn tables_that_are_none_are_not_followed() {
    let one = [(BUFFER, 8, 0, 0)];
    let to = |length| [(OTHER, length, INDIRECT, 0)];
    assert_eq!(collected(&to(16), &one), Ok((false, 8, 0)));
    let sizes = "an indirect table's length is not a multiple of 16, or is 0";
    for length in [0, 1, 15, 17, 24, u32::MAX] {
        assert_eq!(collected(&to(length), &one), Err(sizes), "{length}");
    }
    let long = "an indirect table is longer than the queue";
    for length in [u32::from(SIZE + 1) * 16, 0x1_0000 * 16, 0xFFFF_FFF0] {
        assert_eq!(collected(&to(length), &one), Err(long), "{length}");
    }
    let nested = "an indirect table is nested";
    assert_eq!(collected(&to(16), &[(OTHER, 16, INDIRECT, 0)]), Err(nested));
    let later = [(BUFFER, 8, NEXT, 1), (OTHER, 16, INDIRECT, 0)];
    let nested = "an indirect table is nested, or followed by another descriptor";
    assert_eq!(collected(&to(32), &later), Err(nested));
    assert_eq!(collected(&[(OTHER, 16, INDIRECT | NEXT, 1), one[0]], &one), Err(nested));
    assert_eq!(collected(&to(16), &[(BUFFER, 8, NEXT, 1)]), Err("a descriptor index is outside its table"));
    assert_eq!(
        collected(&to(32), &[(BUFFER, 8, NEXT, 1), (BUFFER, 8, NEXT, 0)]),
        Err("a descriptor chain is longer than the queue")
    );
    for address in [0x8000, 0x7FF8, END, END - 8, u64::MAX, u64::MAX - 15] {
        let refused = collected(&[(address, 16, INDIRECT, 0)], &[]);
        assert_eq!(refused, Err("a descriptor table is outside guest memory"), "{address:#x}");
    }
    let wraps = collected(&[(u64::MAX - 15, 32, INDIRECT, 0)], &[]);
    assert_eq!(wraps, Err("a descriptor table is outside guest memory"));
}

/// A second vCPU writes while the chain is read: what was checked is what is used.
#[test]
fn a_chain_that_changes_while_it_is_read_is_one_or_the_other() {
    let memory = memory();
    let good: [Entry; 2] = [(BUFFER, 16, NEXT, 1), (BUFFER, 16, WRITE, 0)];
    let bad: [Entry; 2] = [(END, u32::MAX, INDIRECT | NEXT, u16::MAX), (u64::MAX, u32::MAX, NEXT, 0)];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                put(&memory, TABLE.address.0, &bad);
                put(&memory, TABLE.address.0, &good);
            }
        });
        let mut pieces = Pieces::default();
        for _ in 0..20_000 {
            if collect(&memory, TABLE, 0, &mut pieces).is_ok() {
                // Every byte of every piece is there to be touched.
                let whole =
                    |slice: &VolatileSlice<'_>| slice.write_slice(&vec![0xAA; slice.len().min(64)], 0);
                assert!(pieces.writable.iter().all(|slice| whole(slice).is_ok()));
                assert!(Reader::new(&pieces.readable).remaining() <= 16 * usize::from(SIZE));
                assert!(Writer::new(&pieces.writable).remaining() <= 16 * usize::from(SIZE));
            }
        }
        done.store(true, Relaxed);
    });
}
