//! The cache mode that the driver chose is that of every later process, however the one died that heard of it.

use std::os::unix::fs::FileExt;

use nix::sys::signal::Signal;
use sandbox_policies::spawn::Ended;

use crate::core::Core;
use crate::front_end::{Connection, image, request, state};
use crate::launcher::{Launcher, Process};

const CONFIG_WCE: u64 = 1 << 11;
/// Offset of `writeback`.
const WRITEBACK: u32 = 32;
const WRITE_THROUGH: u8 = 0;
const WRITE_BACK: u8 = 1;

fn config(offset: u32, data: &[u8]) -> Vec<u8> {
    let head = [offset, u32::try_from(data.len()).unwrap(), 0].map(u32::to_ne_bytes);
    [head.as_flattened(), data].concat()
}

fn mode(device: &Connection) -> u8 {
    device.send(request::GET_CONFIG, 1, &config(WRITEBACK, &[0xEE]), &[]);
    device.reply(request::GET_CONFIG).unwrap()[12]
}

fn choose(device: &Connection, mode: u8) {
    assert!(device.ask(request::SET_CONFIG, &config(WRITEBACK, &[mode]), &[]));
}

fn kill(process: Process) {
    process.signal(Signal::SIGKILL);
    let (ended, log) = process.end();
    assert_eq!((ended, log.as_str()), (Ended::Signaled(Signal::SIGKILL as i32), ""));
}

struct House {
    core: Core,
    launcher: Launcher,
    _disk: tempfile::NamedTempFile,
}

impl House {
    fn new() -> Self {
        let disk = image(1 << 20);
        Self { core: Core::new(), launcher: Launcher::new(disk.path()), _disk: disk }
    }

    /// A process that has the rings.
    fn serves(&self) -> Process {
        let process = self.launcher.start(None, false);
        self.core.connect(&process.connection).unwrap();
        process
    }
}

#[test]
fn the_mode_that_the_driver_chose_outlives_every_process() {
    let house = House::new();
    let first = house.serves();
    assert_ne!(first.connection.get(request::GET_FEATURES) & CONFIG_WCE, 0);
    assert_eq!(mode(&first.connection), WRITE_BACK);
    choose(&first.connection, WRITE_THROUGH);
    kill(first);
    // One that heard of no choice, and one that was not even spoken to.
    let second = house.serves();
    assert_eq!(mode(&second.connection), WRITE_THROUGH);
    kill(second);
    kill(house.launcher.start(None, false));
    for chosen in [WRITE_BACK, WRITE_THROUGH, WRITE_THROUGH, WRITE_BACK] {
        let process = house.serves();
        choose(&process.connection, chosen);
        kill(process);
        let process = house.serves();
        assert_eq!(mode(&process.connection), chosen);
        assert_eq!(process.finish(), "");
    }
}

#[test]
fn a_reset_takes_the_choice_back_for_every_later_process_too() {
    let house = House::new();
    let process = house.serves();
    choose(&process.connection, WRITE_THROUGH);
    assert!(process.connection.ask(request::RESET_DEVICE, &[], &[]));
    assert_eq!(mode(&process.connection), WRITE_BACK);
    kill(process);
    assert_eq!(mode(&house.serves().connection), WRITE_BACK);
}

#[test]
fn what_covers_no_field_or_has_no_meaning_chooses_nothing() {
    let process = House::new().serves();
    choose(&process.connection, 2);
    assert_eq!(mode(&process.connection), WRITE_BACK);
    // All that stands before it and behind it, with it in the middle; and all but it.
    for (offset, data, chosen) in [
        (0, vec![0; 60], WRITE_THROUGH),
        (WRITEBACK, vec![1, 0xFF, 0xFF], WRITE_BACK),
        (0, vec![0; 32], WRITE_BACK),
        (33, vec![0; 27], WRITE_BACK),
        (31, vec![0; 30], WRITE_BACK),
        (200, vec![0; 56], WRITE_BACK),
    ] {
        assert!(process.connection.ask(request::SET_CONFIG, &config(offset, &data), &[]));
        assert_eq!(mode(&process.connection), chosen, "{offset}");
    }
    assert_eq!(process.finish(), "");
}

#[test]
fn one_that_is_to_replace_another_looks_until_it_has_the_rings() {
    let house = House::new();
    let old = house.serves();
    choose(&old.connection, WRITE_THROUGH);
    let new = house.launcher.start(None, false);
    let protocol = new.connection.get(request::GET_PROTOCOL_FEATURES);
    new.connection.send(request::SET_PROTOCOL_FEATURES, 1, &protocol.to_ne_bytes(), &[]);
    assert_eq!(mode(&new.connection), WRITE_THROUGH);
    choose(&old.connection, WRITE_BACK);
    assert_eq!(mode(&new.connection), WRITE_BACK);
    choose(&old.connection, WRITE_THROUGH);
    for queue in &house.core.queues {
        house.core.stop(&old.connection, queue).unwrap();
    }
    house.core.connect(&new.connection).unwrap();
    assert_eq!(mode(&new.connection), WRITE_THROUGH);
    // Whatever the old one does now is no concern of the new one's.
    choose(&old.connection, WRITE_BACK);
    assert_eq!(mode(&new.connection), WRITE_THROUGH);
    assert_eq!(new.finish(), "");
}

#[test]
fn what_a_predecessor_that_was_taken_over_left_is_harmless() {
    let house = House::new();
    for content in [vec![0; 4096], vec![0xFF; 4096], (0..4096).map(|at| at as u8).collect()] {
        house.launcher.keep.write_all_at(&content, 0).unwrap();
        let process = house.serves();
        assert_eq!(mode(&process.connection), WRITE_BACK);
        choose(&process.connection, WRITE_THROUGH);
        kill(process);
        let process = house.serves();
        assert_eq!(mode(&process.connection), WRITE_THROUGH);
        // The rings are served as ever.
        for queue in &house.core.queues {
            process.connection.send(request::GET_VRING_BASE, 1, &state(queue.index, 0), &[]);
            assert_eq!(process.connection.reply(request::GET_VRING_BASE), Some(state(queue.index, 0)));
        }
        assert_eq!(process.finish(), "");
    }
}
