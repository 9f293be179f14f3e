//! The real `device-balloon`, confined as under `vmm`, with a test on both its sides: the launcher, which asks for statistics,
//! and the guest's driver, which answers or does not.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test says what it expects by failing"
)]

#[path = "../../backend/tests/front_end/mod.rs"]
#[expect(dead_code, reason = "a device needs a part of it")]
#[expect(clippy::expect_used, clippy::arithmetic_side_effects, reason = "as above")]
mod front_end;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use front_end::driver::{BUFFERS, Driver, MEMORY, Queue};
use front_end::{Connection, memory_table, request};
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
use protocol::{
    BALLOON_ACTUAL, BALLOON_TARGET, BalloonOptions, Channel, Counter, DeviceOptions, DeviceSetup, FromDevice,
    Phase, Rates, Setting, Statistics, ToDevice,
};
use sandbox_policies::Requirement;
use sandbox_policies::spawn::{Child, Identity, Plan, spawn};

const STATS_VQ: u64 = 1 << 1;
const STATSQ: u32 = 2;
const SIZE: u16 = 8;

/// Descriptors of a chain: address, length, flags.
type Parts<'a> = &'a [(u64, u32, u16)];

/// One process of device-balloon, with the launcher's ends.
struct Process {
    child: Child,
    control: Channel,
    log: File,
    connection: Connection,
}

fn start() -> Process {
    let open = |path: &str, flags: OFlag| {
        File::options().read(true).custom_flags(flags.bits()).open(path).map(OwnedFd::from).unwrap()
    };
    let program = open(env!("CARGO_BIN_EXE_device-balloon"), OFlag::O_PATH);
    let null = open("/dev/null", OFlag::empty());
    let (control, theirs) = Channel::pair().unwrap();
    let (log, log_writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let child = spawn(&Plan {
        program: program.as_fd(),
        name: "device-balloon",
        arguments: &["--hand-over=3", "--sandbox=required"],
        log: log_writer.as_fd(),
        control: theirs.as_fd(),
        null: null.as_fd(),
        identity: Identity::for_child(0),
        requirement: Requirement::Required,
        directory: None,
        group: None,
    })
    .unwrap();
    let (socket, back_end) = UnixStream::pair().unwrap();
    let options = BalloonOptions { size: 0, deflate_on_oom: true, free_page_reporting: false };
    let setup = DeviceSetup {
        name: "balloon0".to_owned(),
        options: DeviceOptions::Balloon(options),
        blamed: false,
        keep: false,
        rates: Rates::default(),
    };
    control.send(&ToDevice::Setup(setup), &[back_end.as_fd(), null.as_fd()]).unwrap();
    let ready = control.receive::<FromDevice>(Phase::HandOver).unwrap();
    assert!(matches!(ready, Some((FromDevice::Ready(_), _))), "{ready:?}");
    Process { child, control, log: log.into(), connection: Connection { socket } }
}

impl Process {
    fn tell(&self, message: &ToDevice) {
        self.control.send(message, &[]).unwrap();
    }

    fn hear(&self) -> FromDevice {
        let heard = self.control.receive::<FromDevice>(Phase::Serving).unwrap();
        heard.map(|(message, _)| message).unwrap()
    }

    fn told(&self) -> Vec<(u16, u64)> {
        match self.hear() {
            FromDevice::Statistics(Statistics::Told(told)) => {
                told.iter().map(|it| (it.tag, it.value)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// What is heard next is no answer to what was asked before.
    fn owes_nothing(&self) -> Vec<Counter> {
        self.tell(&ToDevice::Query);
        match self.hear() {
            FromDevice::Counters(counters) => counters.entries,
            other => panic!("{other:?}"),
        }
    }

    fn ends_well(mut self) {
        self.tell(&ToDevice::Stop);
        let ended = self.child.wait().unwrap();
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        assert_eq!((format!("{ended:?}"), log), ("Exited(0)".to_owned(), String::new()));
    }
}

fn bytes(statistics: &[(u16, u64)]) -> Vec<u8> {
    statistics
        .iter()
        .flat_map(|(tag, value)| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat())
        .collect()
}

/// The driver offers its buffer, in these parts.
fn offer(driver: &Driver<'_>, queue: &mut Queue, parts: &[(u64, u32, u16)]) {
    driver.chain(queue.table(), 0, parts);
    driver.offer(queue, &[0]);
}

/// Offers a buffer that says this.
fn say(driver: &Driver<'_>, queue: &mut Queue, statistics: &[(u16, u64)]) {
    let bytes = bytes(statistics);
    driver.put(BUFFERS, &bytes);
    offer(driver, queue, &[(BUFFERS, u32::try_from(bytes.len()).unwrap(), 0)]);
}

/// A question, up to where the driver has its buffer back.
fn ask(process: &Process, driver: &Driver<'_>, queue: &mut Queue) {
    process.tell(&ToDevice::Statistics);
    assert_eq!(driver.used(queue), (0, 0));
}

#[test]
fn the_driver_is_asked_when_the_user_asks_and_only_then() {
    let process = start();
    process.connection.negotiate(0);
    let driver = Driver::new(&process.connection);
    let mut queue = driver.queue(STATSQ, SIZE, 0);
    say(&driver, &mut queue, &[(4, 1)]);
    process.owes_nothing();
    assert_eq!(driver.take_used(&mut queue), None, "held, not answered");
    for value in [300, u64::MAX] {
        ask(&process, &driver, &mut queue);
        say(&driver, &mut queue, &[(4, value), (5, 1 << 20), (77, value)]);
        assert_eq!(process.told(), [(4, value), (5, 1 << 20), (77, value)]);
        process.owes_nothing();
        assert_eq!(driver.take_used(&mut queue), None);
    }
    // However often it is asked before it answers, it is one question.
    ask(&process, &driver, &mut queue);
    say(&driver, &mut queue, &[(0, 7)]);
    assert_eq!(process.told(), [(0, 7)]);
    // Without a buffer the question waits for the next one.
    let rest = driver.stop(&queue);
    assert_eq!(rest, u32::from(queue.used), "the buffer that is held was not taken");
    process.tell(&ToDevice::Statistics);
    process.owes_nothing();
    let mut again = driver.queue(STATSQ, SIZE, queue.used);
    again.available = queue.available;
    queue = again;
    assert_eq!(driver.used(&mut queue), (0, 0));
    say(&driver, &mut queue, &[(1, 8)]);
    assert_eq!(process.told(), [(1, 8)]);
    process.ends_well();
}

#[test]
fn a_driver_that_cannot_be_asked_is_not() {
    let refused = |process: &Process| {
        process.tell(&ToDevice::Statistics);
        let heard = process.hear();
        assert!(
            matches!(&heard, FromDevice::Statistics(Statistics::Refused(why)) if why.contains("no driver")),
            "{heard:?}"
        );
    };
    let process = start();
    refused(&process);
    // Without the feature the queue is that of pages that are reported free, as Linux counts.
    assert_eq!(process.connection.negotiate(STATS_VQ) & STATS_VQ, 0);
    let driver = Driver::new(&process.connection);
    let mut queue = driver.queue(STATSQ, SIZE, 0);
    refused(&process);
    driver.put(BUFFERS, &[0x5A; 4096]);
    offer(&driver, &mut queue, &[(BUFFERS, 4096, front_end::driver::WRITE)]);
    assert_eq!(driver.used(&mut queue), (0, 0));
    assert_eq!(driver.look(BUFFERS, 4), [0; 4]);
    process.ends_well();
}

#[test]
fn what_no_driver_says_is_bounded_and_harms_nothing() {
    let process = start();
    process.connection.negotiate(0);
    let driver = Driver::new(&process.connection);
    let mut queue = driver.queue(STATSQ, SIZE, 0);
    let one = u32::try_from(bytes(&[(4, 300)]).len()).unwrap();
    driver.put(BUFFERS, &bytes(&[(4, 300), (5, 6)]));
    let large = 1 << 20;
    let cases: [(Parts<'_>, Option<usize>); 7] = [
        (&[(BUFFERS, one.saturating_sub(1), 0)], Some(0)),
        (&[(BUFFERS, 1, 0), (BUFFERS + 1, 8, 0), (BUFFERS + 9, 11, 0)], Some(2)),
        (&[(BUFFERS, large, 0)], Some(64)),
        // Nothing to be read, and memory that nobody has.
        (&[(BUFFERS, one, front_end::driver::WRITE)], Some(0)),
        (&[(MEMORY, one, 0)], Some(0)),
        (&[(u64::MAX - 4, one, 0)], Some(0)),
        (&[(BUFFERS, one, 0), (BUFFERS, one, 0)], Some(2)),
    ];
    offer(&driver, &mut queue, &[(BUFFERS, one, 0)]);
    for (parts, count) in cases {
        ask(&process, &driver, &mut queue);
        offer(&driver, &mut queue, parts);
        assert_eq!(Some(process.told().len()), count, "{parts:?}");
    }
    ask(&process, &driver, &mut queue);
    say(&driver, &mut queue, &[(9, 9)]);
    assert_eq!(process.told(), [(9, 9)]);
    // More than one buffer at once: each question is one of them.
    driver.offer(&mut queue, &[0, 0, 0]);
    ask(&process, &driver, &mut queue);
    assert_eq!(process.told(), [(9, 9)]);
    process.owes_nothing();
    process.ends_well();
}

#[test]
fn a_death_loses_the_question_and_not_the_buffer() {
    let mut first = start();
    first.connection.negotiate(0);
    let (used, available, memory) = {
        let driver = Driver::new(&first.connection);
        let mut queue = driver.queue(STATSQ, SIZE, 0);
        say(&driver, &mut queue, &[(4, 1)]);
        ask(&first, &driver, &mut queue);
        // The driver owes a buffer, and gives it to whoever is there.
        kill(Pid::from_raw(first.child.pid()), Signal::SIGKILL).unwrap();
        first.child.wait().unwrap();
        say(&driver, &mut queue, &[(4, 2)]);
        (queue.used, queue.available, driver.memory)
    };
    let second = start();
    second.connection.negotiate(0);
    let table = memory_table(&[(0, MEMORY, 0)]);
    assert!(second.connection.ask(request::SET_MEM_TABLE, &table, &[memory.as_fd()]));
    let driver = Driver { device: &second.connection, memory };
    let mut queue = driver.queue(STATSQ, SIZE, used);
    queue.available = available;
    second.owes_nothing();
    assert_eq!(driver.take_used(&mut queue), None, "nobody has asked this one");
    ask(&second, &driver, &mut queue);
    say(&driver, &mut queue, &[(4, 3)]);
    assert_eq!(second.told(), [(4, 3)]);
    second.ends_well();
}

#[test]
fn the_counters_say_what_is_wanted_and_what_was_given() {
    let process = start();
    process.connection.negotiate(0);
    process.tell(&ToDevice::Set(Setting::Balloon(3 << 20)));
    assert!(matches!(process.hear(), FromDevice::Set(_)));
    let given =
        [&4u32.to_ne_bytes()[..], &4u32.to_ne_bytes(), &1u32.to_ne_bytes(), &5u32.to_le_bytes()].concat();
    assert!(process.connection.ask(request::SET_CONFIG, &given, &[]));
    let counters = process.owes_nothing();
    let value = |name: &str| counters.iter().find(|it| it.name == name).map(|it| it.value);
    assert_eq!((value(BALLOON_TARGET), value(BALLOON_ACTUAL)), (Some(3 << 20), Some(5 * 4096)));
    process.ends_well();
}
