//! The real `device-blk`, confined as always, serves a hand-written driver; what it did is checked against the file.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test says what it expects by failing"
)]

mod front_end;

use std::os::fd::AsFd;

use front_end::driver::{BUFFERS, Driver, EVENT_IDX, INDIRECT, WRITE};
use front_end::{Device, bytes_of, header_bytes, image, pattern, request, state};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
const SIZE: usize = 8 << 20;

fn ends_well(device: Device) {
    let (code, log) = device.end();
    assert_eq!((code, log.as_str()), (Some(0), ""));
}

#[test]
fn reads_writes_flushes_and_names_itself() {
    for arguments in [&["--serial=abc"][..], &["--serial=abc", "--direct"]] {
        let disk = image(SIZE);
        let device = Device::start(disk.path(), arguments);
        device.negotiate(0);
        let driver = Driver::new(&device);
        let mut queue = driver.queue(0, 64, 0);

        // Two pieces, one of them odd in address and size.
        let data = [(BUFFERS + 3, 1000, WRITE), (BUFFERS + 0x2000, 24 + 3 * 512, WRITE)];
        assert_eq!(driver.submit(&mut queue, IN, 7, &data), (0, 2561));
        let mut read = driver.look(BUFFERS + 3, 1000);
        read.extend(driver.look(BUFFERS + 0x2000, 24 + 3 * 512));
        assert_eq!(read, pattern(7 * 512, 2560));

        driver.put(BUFFERS, &[0x5a; 8192]);
        assert_eq!(driver.submit(&mut queue, OUT, 3, &[(BUFFERS, 8192, 0)]), (0, 1));
        assert_eq!(driver.submit(&mut queue, FLUSH, 0, &[]), (0, 1));
        let mut expected = pattern(0, SIZE);
        expected[3 * 512..3 * 512 + 8192].fill(0x5a);
        assert!(bytes_of(disk.as_file(), 0, SIZE) == expected);

        assert_eq!(driver.submit(&mut queue, GET_ID, 0, &[(BUFFERS, 20, WRITE)]), (0, 21));
        assert_eq!(driver.look(BUFFERS, 20), *b"abc\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        driver.put(BUFFERS, &[9; 4]);
        assert_eq!(driver.submit(&mut queue, GET_ID, 0, &[(BUFFERS, 2, WRITE)]), (0, 3));
        assert_eq!(driver.look(BUFFERS, 4), [b'a', b'b', 9, 9]);
        ends_well(device);
    }
}

#[test]
fn discards_and_writes_zeroes() {
    let disk = image(SIZE);
    let device = Device::start(disk.path(), &[]);
    device.negotiate(0);
    let driver = Driver::new(&device);
    let mut queue = driver.queue(0, 64, 0);
    let mut expected = pattern(0, SIZE);
    for (kind, sector, sectors, flags) in
        [(WRITE_ZEROES, 10u64, 20u32, 0u32), (WRITE_ZEROES, 4096, 64, 1), (DISCARD, 8192, 128, 0)]
    {
        let mut segment = sector.to_le_bytes().to_vec();
        segment.extend(sectors.to_le_bytes());
        segment.extend(flags.to_le_bytes());
        driver.put(BUFFERS, &segment);
        assert_eq!(driver.submit(&mut queue, kind, 0, &[(BUFFERS, 16, 0)]), (0, 1));
        let start = usize::try_from(sector).unwrap() * 512;
        expected[start..start + usize::try_from(sectors).unwrap() * 512].fill(0);
    }
    assert!(bytes_of(disk.as_file(), 0, SIZE) == expected);
    // Past the end: refused, and nothing is changed.
    let mut segment = (SIZE as u64 / 512 - 1).to_le_bytes().to_vec();
    segment.extend(2u32.to_le_bytes());
    segment.extend(0u32.to_le_bytes());
    driver.put(BUFFERS, &segment);
    assert_eq!(driver.submit(&mut queue, WRITE_ZEROES, 0, &[(BUFFERS, 16, 0)]), (1, 1));
    assert!(bytes_of(disk.as_file(), 0, SIZE) == expected);
    ends_well(device);
}

#[test]
fn bad_requests_are_answered_and_change_nothing() {
    let disk = image(SIZE);
    let device = Device::start(disk.path(), &["--read-only"]);
    let features = device.negotiate(0);
    assert_ne!(features & (1 << 5), 0, "VIRTIO_BLK_F_RO");
    let driver = Driver::new(&device);
    let mut queue = driver.queue(0, 64, 0);
    let end = SIZE as u64 / 512;
    let refusals = [
        (OUT, 0, vec![(BUFFERS, 512, 0)], (1, 1)),
        // Each piece is within the disk, their sum is not.
        (IN, end - 1, vec![(BUFFERS, 512, WRITE), (BUFFERS + 512, 512, WRITE)], (1, 0)),
        (IN, u64::MAX, vec![(BUFFERS, 512, WRITE)], (1, 0)),
        (IN, 0, vec![(BUFFERS, 511, WRITE)], (1, 0)),
        (99, 0, vec![], (2, 1)),
        (DISCARD, 0, vec![(BUFFERS, 16, 0)], (2, 1)),
    ];
    for (kind, sector, data, answer) in refusals {
        assert_eq!(driver.submit(&mut queue, kind, sector, &data), answer, "{kind} {sector}");
    }
    assert!(bytes_of(disk.as_file(), 0, SIZE) == pattern(0, SIZE));
    ends_well(device);
}

#[test]
fn many_queues_indirect_tables_and_a_wrapping_index() {
    let disk = image(SIZE);
    let device = Device::start(disk.path(), &["--queues=4"]);
    device.negotiate(0);
    assert_eq!(device.get(request::GET_QUEUE_NUM), 4);
    let driver = Driver::new(&device);
    // The ring's own indices are written as if 65530 requests had gone before.
    for index in 0..4u32 {
        let base = 0x1000 + u64::from(index) * 0x10000;
        driver.put(base + 0x5000 + 2, &65530u16.to_le_bytes());
        driver.put(base + 0x7000 + 2, &65530u16.to_le_bytes());
    }
    let mut queues: Vec<_> = (0..4).map(|index| driver.queue(index, 16, 65530)).collect();
    for round in 0..20u64 {
        for queue in &mut queues {
            let place = BUFFERS + u64::from(queue.index) * 0x10000;
            driver.put(place, &header_bytes(IN, round * 4 + u64::from(queue.index)));
            let table = place + 0x1000;
            driver.chain(
                table,
                0,
                &[(place, 16, 0), (place + 0x2000, 512, WRITE), (place + 0x3000, 1, WRITE)],
            );
            driver.descriptor(queue.table(), 5, table, 48, INDIRECT, 0);
            driver.offer(queue, &[5]);
        }
        for queue in &mut queues {
            let place = BUFFERS + u64::from(queue.index) * 0x10000;
            assert_eq!(driver.used(queue), (5, 513));
            let sector = usize::try_from(round).unwrap() * 4 + usize::try_from(queue.index).unwrap();
            assert_eq!(driver.look(place + 0x2000, 512), pattern(sector * 512, 512));
        }
    }
    for queue in &queues {
        assert_eq!(driver.stop(queue), u32::from(65530u16.wrapping_add(20)));
    }
    ends_well(device);
}

#[test]
fn a_batch_is_served_whole_with_and_without_event_index() {
    for refuse in [0, EVENT_IDX] {
        let disk = image(SIZE);
        let device = Device::start(disk.path(), &[]);
        device.negotiate(refuse);
        let driver = Driver::new(&device);
        let mut queue = driver.queue(0, 64, 0);
        let heads: Vec<u16> = (0..21).map(|request| request * 3).collect();
        for head in &heads {
            let place = BUFFERS + u64::from(*head) * 0x1000;
            driver.put(place, &header_bytes(IN, u64::from(*head) * 5));
            let parts = [(place, 16, 0), (place + 512, 512, WRITE), (place + 16, 1, WRITE)];
            driver.chain(queue.table(), *head, &parts);
        }
        driver.offer(&mut queue, &heads);
        for head in &heads {
            assert_eq!(driver.used(&mut queue), (u32::from(*head), 513));
            let place = BUFFERS + u64::from(*head) * 0x1000;
            assert_eq!(driver.look(place + 512, 512), pattern(usize::from(*head) * 5 * 512, 512));
        }
        ends_well(device);
    }
}

#[test]
fn a_ring_stops_starts_again_and_takes_another_kick() {
    let disk = image(SIZE);
    let device = Device::start(disk.path(), &[]);
    device.negotiate(0);
    let driver = Driver::new(&device);
    let mut queue = driver.queue(0, 64, 0);
    let data = [(BUFFERS, 512, WRITE)];
    assert_eq!(driver.submit(&mut queue, IN, 0, &data), (0, 513));
    assert_eq!(driver.stop(&queue), 1);
    driver.start(&queue, 1);
    assert_eq!(driver.submit(&mut queue, IN, 1, &data), (0, 513));
    // Another kick descriptor for the running ring; the same memory once more.
    let kick = nix::sys::eventfd::EventFd::new().unwrap();
    assert!(device.ask(request::SET_VRING_KICK, &0u64.to_ne_bytes(), &[kick.as_fd()]));
    queue.kick = kick;
    assert_eq!(driver.submit(&mut queue, IN, 2, &data), (0, 513));
    let table = front_end::memory_table(&[(0, front_end::driver::MEMORY, 0)]);
    assert!(device.ask(request::SET_MEM_TABLE, &table, &[driver.memory.as_fd()]));
    assert_eq!(driver.submit(&mut queue, IN, 3, &data), (0, 513));
    // Disabled: started, but not served until it is enabled.
    assert!(device.ask(request::SET_VRING_ENABLE, &state(0, 0), &[]));
    driver.put(BUFFERS - 0x1000, &header_bytes(IN, 4));
    driver.offer(&mut queue, &[0]);
    assert!(device.ask(request::SET_VRING_CALL, &0u64.to_ne_bytes(), &[queue.call.as_fd()]));
    assert_eq!(driver.look(queue.used_ring() + 2, 2), 4u16.to_le_bytes());
    assert!(device.ask(request::SET_VRING_ENABLE, &state(0, 1), &[]));
    assert_eq!(driver.used(&mut queue), (0, 513));
    assert_eq!(driver.look(BUFFERS, 512), pattern(4 * 512, 512));
    ends_well(device);
}

#[test]
fn a_successor_does_again_what_was_in_flight() {
    let disk = image(SIZE);
    let device = Device::start(disk.path(), &[]);
    device.negotiate(0);
    let driver = Driver::new(&device);
    let wanted =
        [&0u64.to_ne_bytes()[..], &0u64.to_ne_bytes(), &1u16.to_ne_bytes(), &64u16.to_ne_bytes(), &[0; 4]]
            .concat();
    let (description, area) = device.get_with_fd(request::GET_INFLIGHT_FD, &wanted, 24);
    // As a predecessor that died would have left it: head 6 and, later, head 0 in flight; version 1, 64 entries.
    let area = std::fs::File::from(area);
    let put = |at: u64, bytes: &[u8]| std::os::unix::fs::FileExt::write_all_at(&area, bytes, at).unwrap();
    put(8, &1u16.to_ne_bytes());
    put(10, &64u16.to_ne_bytes());
    for (head, counter) in [(6u64, 1u64), (0, 2)] {
        put(16 + head * 16, &[1]);
        put(16 + head * 16 + 8, &counter.to_ne_bytes());
    }
    assert!(device.ask(request::SET_INFLIGHT_FD, &description, &[area.as_fd()]));
    for (head, sector) in [(6u16, 11u64), (0, 12)] {
        let place = BUFFERS + u64::from(head) * 0x1000;
        driver.put(place, &header_bytes(IN, sector));
        driver.chain(0x1000, head, &[(place, 16, 0), (place + 512, 512, WRITE), (place + 16, 1, WRITE)]);
    }
    // The driver made both available before the predecessor died: index 2.
    driver.put(0x1000 + 0x5000 + 2, &2u16.to_le_bytes());
    let mut queue = driver.queue(0, 64, 0);
    assert_eq!(driver.used(&mut queue), (6, 513));
    assert_eq!(driver.used(&mut queue), (0, 513));
    assert_eq!(driver.look(BUFFERS + 0x6000 + 512, 512), pattern(11 * 512, 512));
    assert_eq!(driver.stop(&queue), 2);
    assert_eq!(bytes_of(&area, 16, 1), [0]);
    assert_eq!(bytes_of(&area, 14, 2), 2u16.to_ne_bytes());
    ends_well(device);
}

#[test]
fn the_configuration_tells_size_and_queues() {
    let disk = image(SIZE);
    let device = Device::start(disk.path(), &["--queues=3"]);
    device.negotiate(0);
    let ask = |offset: u32, size: u32| {
        let mut body = [offset, size, 0].iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
        body.resize(12 + size as usize, 0);
        device.send(request::GET_CONFIG, 1, &body, &[]);
        device.reply(request::GET_CONFIG).unwrap()
    };
    let config = ask(0, 60).split_off(12);
    assert_eq!(config[..8], (SIZE as u64 / 512).to_le_bytes());
    assert_eq!(config[12..16], 126u32.to_le_bytes());
    assert_eq!(config[34..36], 3u16.to_le_bytes());
    assert_eq!(ask(34, 2).split_off(12), 3u16.to_le_bytes());
    // Written, a field stays what it is, if it is not the one that a driver may write.
    let mut write = [0u32, 8, 0].iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
    write.extend([0xff; 8]);
    assert!(device.ask(request::SET_CONFIG, &write, &[]));
    assert_eq!(ask(0, 8).split_off(12), config[..8]);
    assert_eq!(ask(200, 57), [], "past the end of configuration space");
    let (code, log) = device.end();
    assert_eq!(code, Some(0));
    assert!(log.contains("offset 200, size 57"), "{log}");
}
