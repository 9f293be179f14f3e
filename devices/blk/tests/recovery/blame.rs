//! A request that ends its device is refused at the third start; one that was there by chance is not.

use sandbox_policies::spawn::Ended;

use crate::core::Core;
use crate::front_end::driver::{BUFFERS, WRITE};
use crate::front_end::header_bytes;
use crate::image::{SECTOR, SLOT, SLOTS, content, prepare};
use crate::launcher::{Launcher, Process};

const SIGSYS: i32 = 31;
/// The heads of two reads, of one sector each, that are available from the start.
const HEADS: [u16; 2] = [4, 0];
/// Dies in the handler of the first request.
const AT_THE_FIRST: Option<&str> = Some("before-io:1");

struct House {
    core: Core,
    launcher: Launcher,
    _disk: tempfile::NamedTempFile,
}

impl House {
    fn new() -> Self {
        let disk = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        disk.as_file().set_len((SLOTS * SLOT) as u64).unwrap();
        prepare(disk.as_file());
        let mut core = Core::new();
        for head in HEADS {
            let at = BUFFERS + u64::from(head) * 0x1000;
            core.memory.put(at, &header_bytes(0, head.into()));
            core.memory.put(at + 16, &[0xff]);
            let parts = [(at, 16, 0), (at + 512, 512, WRITE), (at + 16, 1, WRITE)];
            core.memory.chain(core.queues[0].table(), head, &parts);
        }
        core.memory.offer(&mut core.queues[0], &HEADS);
        Self { core, launcher: Launcher::new(disk.path()), _disk: disk }
    }

    /// A process that dies at `point`. `blamed` is about the death before.
    fn dies(&self, point: Option<&str>, blamed: bool) {
        let process = self.launcher.start(point, blamed);
        let _ = self.core.connect(&process.connection);
        assert_eq!(process.end(), (Ended::Signaled(SIGSYS), String::new()));
    }

    fn lives(&self, blamed: bool) -> Process {
        let process = self.launcher.start(None, blamed);
        self.core.connect(&process.connection).unwrap();
        process
    }

    /// Waits for both requests and returns the status and the used length of each, in the order of `HEADS`. What was
    /// read is what stands on the disk, or it was not touched.
    fn answers(&mut self) -> [(u8, u32); 2] {
        HEADS.map(|head| {
            let (used, length) = self.core.memory.used(&mut self.core.queues[0]);
            assert_eq!(used, u32::from(head), "in the order in which they were taken");
            let at = BUFFERS + u64::from(head) * 0x1000;
            let status = self.core.memory.look(at + 16, 1)[0];
            let expected = match status {
                0 => content(0, 0)[usize::from(head) * SECTOR..][..SECTOR].to_vec(),
                _ => vec![0; SECTOR],
            };
            assert_eq!(self.core.memory.look(at + 512, SECTOR), expected);
            (status, length)
        })
    }
}

#[test]
fn a_request_that_ended_its_device_twice_is_refused_and_no_other() {
    let mut house = House::new();
    house.dies(AT_THE_FIRST, false);
    house.dies(AT_THE_FIRST, true);
    let process = house.lives(true);
    assert_eq!(house.answers(), [(1, 0), (0, 513)]);
    let log = process.finish();
    assert_eq!(
        log,
        "queue 0: the request at head 4 was being handled when 2 processes of this device ended: it is refused\n"
    );
}

#[test]
fn a_refusal_outlives_the_process_that_was_about_to_make_it() {
    let mut house = House::new();
    house.dies(AT_THE_FIRST, false);
    house.dies(AT_THE_FIRST, true);
    // Killed from outside, before and after the answer is written.
    house.dies(Some("before-handling:1"), true);
    for point in ["after-handling:1", "before-giving-back:1", "after-used-element:1"] {
        let process = house.launcher.start(Some(point), false);
        let _ = house.core.connect(&process.connection);
        assert_eq!(process.end().0, Ended::Signaled(SIGSYS));
    }
    let process = house.lives(false);
    assert_eq!(house.answers(), [(1, 0), (0, 513)]);
    assert!(process.finish().contains("head 4 was being handled when 2 processes"));
}

#[test]
fn requests_are_not_blamed_for_what_somebody_else_did() {
    let mut house = House::new();
    for _ in 0..4 {
        house.dies(AT_THE_FIRST, false);
    }
    let process = house.lives(false);
    assert_eq!(house.answers(), [(0, 513), (0, 513)]);
    assert_eq!(process.finish(), "");
}

#[test]
fn requests_are_not_blamed_for_waiting() {
    let mut house = House::new();
    for point in ["amid-taken:1", "after-taken:2", "before-handling:1", "after-recovery:1"] {
        house.dies(Some(point), true);
    }
    let process = house.lives(true);
    assert_eq!(house.answers(), [(0, 513), (0, 513)]);
    assert_eq!(process.finish(), "");
}

#[test]
fn a_ring_that_begins_again_in_the_same_process_does_not_count_again() {
    let mut house = House::new();
    house.dies(AT_THE_FIRST, false);
    // In the successor the first chain is a loop: the ring breaks while it is being handled.
    let table = house.core.queues[0].table();
    let first = house.core.memory.look(table + 4 * 16, 16);
    house.core.memory.descriptor(table, 4, BUFFERS, 16, 1, 4);
    let process = house.lives(true);
    for _ in 0..3 {
        house.core.stop(&process.connection, &house.core.queues[0]).unwrap();
        house.core.start(&process.connection, &house.core.queues[0]).unwrap();
    }
    house.core.stop(&process.connection, &house.core.queues[0]).unwrap();
    house.core.memory.put(table + 4 * 16, &first);
    house.core.start(&process.connection, &house.core.queues[0]).unwrap();
    assert_eq!(house.answers(), [(0, 513), (0, 513)]);
    let log = process.finish();
    assert_eq!(log.matches("longer than the queue").count(), 4, "{log}");
    assert!(!log.contains("refused"), "{log}");
}
