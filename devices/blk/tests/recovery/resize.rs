//! A disk becomes larger under its driver, and is that for every later process.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;
use protocol::Setting;
use sandbox_policies::spawn::Ended;

use crate::core::Core;
use crate::front_end::driver::{BUFFERS, WRITE};
use crate::front_end::{Connection, header_bytes, image, request};
use crate::launcher::{Launcher, Process};

const SECTOR: u64 = 512;
const SET_BACKEND_REQ_FD: u32 = 21;
/// VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, version 1, nothing behind it.
const CONFIG_CHANGE: [u8; 12] = [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
const FIRST: u64 = 1 << 20;
const OUT: u32 = 1;

struct House {
    core: Core,
    launcher: Launcher,
    disk: tempfile::NamedTempFile,
}

impl House {
    fn new() -> Self {
        let disk = image(usize::try_from(FIRST).unwrap());
        Self { core: Core::new(), launcher: Launcher::new(disk.path()), disk }
    }

    /// A process that has the rings, and where it says that its configuration has changed.
    fn serves(&self) -> (Process, UnixStream) {
        let process = self.launcher.start(None, false);
        let channel = self.give_rings(&process);
        (process, channel)
    }

    fn give_rings(&self, process: &Process) -> UnixStream {
        self.core.connect(&process.connection).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert!(process.connection.ask(SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]));
        ours
    }

    /// The status of a write to the last sector of a disk of `size` bytes, which is on the disk then if that is 0.
    fn write_end(&mut self, size: u64, byte: u8) -> u8 {
        let (memory, queue) = (&self.core.memory, &mut self.core.queues[0]);
        memory.put(BUFFERS, &header_bytes(OUT, size / SECTOR - 1));
        memory.put(BUFFERS + 0x200, &[byte; 512]);
        memory.put(BUFFERS + 0x100, &[0xff]);
        memory.chain(
            queue.table(),
            0,
            &[(BUFFERS, 16, 0), (BUFFERS + 0x200, 512, 0), (BUFFERS + 0x100, 1, WRITE)],
        );
        memory.offer(queue, &[0]);
        assert_eq!(memory.used(queue).0, 0);
        let status = memory.look(BUFFERS + 0x100, 1)[0];
        if status == 0 {
            let mut found = [0; 512];
            self.disk.as_file().read_exact_at(&mut found, size - SECTOR).unwrap();
            assert_eq!(found, [byte; 512]);
        }
        status
    }

    fn length(&self) -> u64 {
        self.disk.as_file().metadata().unwrap().len()
    }
}

fn capacity(device: &Connection) -> u64 {
    let ask = [[0u32, 8, 0].map(u32::to_ne_bytes).as_flattened(), &[0xEE; 8]].concat();
    device.send(request::GET_CONFIG, 1, &ask, &[]);
    let config = device.reply(request::GET_CONFIG).unwrap();
    u64::from_le_bytes(config[12..].try_into().unwrap()) * SECTOR
}

fn kill(process: Process) {
    process.signal(Signal::SIGKILL);
    assert_eq!(process.end(), (Ended::Signaled(Signal::SIGKILL as i32), String::new()));
}

/// It says once, and no more than once, that its configuration has changed.
fn announced(channel: &mut UnixStream) {
    let mut message = [0; 12];
    channel.read_exact(&mut message).unwrap();
    assert_eq!(message, CONFIG_CHANGE);
    silent(channel);
}

fn silent(channel: &mut UnixStream) {
    channel.set_nonblocking(true).unwrap();
    let more = channel.read(&mut [0; 12]).unwrap_err();
    assert_eq!(more.kind(), std::io::ErrorKind::WouldBlock);
    channel.set_nonblocking(false).unwrap();
}

#[test]
fn a_disk_becomes_larger_under_its_driver_and_stays_so_over_a_death() {
    let mut house = House::new();
    let (process, mut channel) = house.serves();
    assert_eq!(house.write_end(2 * FIRST, 1), 1, "behind the end");
    // The host makes it larger; the driver hears of it when the user says so, not before.
    house.disk.as_file().set_len(2 * FIRST).unwrap();
    assert_eq!((capacity(&process.connection), house.write_end(2 * FIRST, 1)), (FIRST, 1));
    silent(&mut channel);
    assert_eq!(process.set(Setting::Disk(None)), "");
    announced(&mut channel);
    assert_eq!((capacity(&process.connection), house.write_end(2 * FIRST, 2)), (2 * FIRST, 0));
    assert_eq!(house.write_end(2 * FIRST + SECTOR, 2), 1);
    // The device makes it larger.
    let larger = 5 << 30;
    assert_eq!(process.set(Setting::Disk(Some(larger))), "");
    announced(&mut channel);
    assert_eq!((capacity(&process.connection), house.length()), (larger, larger));
    assert_eq!(house.write_end(larger, 3), 0);
    kill(process);
    let (process, _channel) = house.serves();
    assert_eq!((capacity(&process.connection), house.write_end(larger, 4)), (larger, 0));
    assert_eq!(process.finish(), "");
}

#[test]
fn what_cannot_be_set_of_a_disk_is_refused_and_changes_nothing() {
    let house = House::new();
    let (process, mut channel) = house.serves();
    for (setting, why) in [
        (Setting::Disk(None), "make it larger first"),
        (Setting::Disk(Some(FIRST - SECTOR)), "not made smaller"),
        (Setting::Disk(Some(FIRST + 100)), "multiple"),
        (Setting::Balloon(FIRST), "nothing of the kind"),
    ] {
        let refused = process.set(setting);
        assert!(refused.contains(why) && !refused.contains('\n'), "{refused}");
    }
    assert_eq!((capacity(&process.connection), house.length()), (FIRST, FIRST));
    silent(&mut channel);
    assert_eq!(process.set(Setting::Disk(Some(FIRST))), "", "it is");
    silent(&mut channel);
    // A host that cuts it off takes nothing from what the driver knows.
    house.disk.as_file().set_len(FIRST / 2).unwrap();
    assert!(process.set(Setting::Disk(None)).contains("not made smaller"));
    assert_eq!(capacity(&process.connection), FIRST);
    assert_eq!(process.finish(), "");
}

#[test]
fn a_spare_that_was_started_before_knows_the_size_when_it_is_asked() {
    let mut house = House::new();
    let (process, _channel) = house.serves();
    let spare = house.launcher.start(None, false);
    assert_eq!(process.set(Setting::Disk(Some(3 * FIRST))), "");
    kill(process);
    let mut channel = house.give_rings(&spare);
    assert_eq!((capacity(&spare.connection), house.write_end(3 * FIRST, 5)), (3 * FIRST, 0));
    // From here on it is for the user to say.
    house.disk.as_file().set_len(4 * FIRST).unwrap();
    assert_eq!((capacity(&spare.connection), house.write_end(4 * FIRST, 6)), (3 * FIRST, 1));
    assert_eq!(spare.set(Setting::Disk(None)), "");
    announced(&mut channel);
    assert_eq!((capacity(&spare.connection), house.write_end(4 * FIRST, 7)), (4 * FIRST, 0));
    assert_eq!(spare.finish(), "");
}

#[test]
fn a_driver_that_has_not_begun_yet_is_told_too() {
    let house = House::new();
    let process = house.launcher.start(None, false);
    let protocol = process.connection.get(request::GET_PROTOCOL_FEATURES);
    process.connection.send(request::SET_PROTOCOL_FEATURES, 1, &protocol.to_ne_bytes(), &[]);
    let (mut channel, theirs) = UnixStream::pair().unwrap();
    assert!(process.connection.ask(SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]));
    assert_eq!(capacity(&process.connection), FIRST);
    house.disk.as_file().set_len(2 * FIRST).unwrap();
    assert_eq!(process.set(Setting::Disk(None)), "");
    announced(&mut channel);
    assert_eq!(capacity(&process.connection), 2 * FIRST);
    assert_eq!(process.finish(), "");
}
