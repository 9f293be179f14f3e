//! Several pairs of queues on a tap of as many, under a driver that gives commands and one that has a front end for that.

use crate::front_end::driver::{Driver, Queue, WRITE};
use crate::front_end::{request, state};
use crate::network::{GUEST, HEADERS, ip, set_up, socket, with_tap};
use crate::{Device, LARGE, OUT, SIZE, buffer, ends_well, heard, offer, send_text, started};

const CTRL_VQ: u64 = 1 << 17;
const MQ: u64 = 1 << 22;
/// Where commands are.
const COMMAND: u64 = OUT + 0x10_0000;

fn with_queues(name: &str, test: impl FnOnce()) {
    with_tap(name, || {
        ip("link delete tap0");
        set_up("multi_queue");
        test();
    });
}

/// The driver's rings of two pairs, all begun, each receive queue with buffers of its own.
struct Rings {
    receive: [Queue; 2],
    transmit: [Queue; 2],
}

impl Rings {
    fn new(driver: &Driver<'_>) -> Self {
        let [mut one, mut two] = [0, 2].map(|index| driver.queue(index, SIZE, 0));
        offer(driver, &mut one, 0..30, 2048);
        offer(driver, &mut two, 30..60, 2048);
        Self { receive: [one, two], transmit: [1, 3].map(|index| driver.queue(index, SIZE, 0)) }
    }

    /// Sends by `from`, has it answered, and sees the answer in `to`, where the host's kernel puts it.
    fn answered(&mut self, driver: &Driver<'_>, from: usize, to: usize, text: &str) {
        let socket = socket();
        send_text(driver, &mut self.transmit[from], GUEST, text);
        assert_eq!(heard(&socket), text.as_bytes());
        socket.send(text.as_bytes()).unwrap();
        let (head, size) = driver.used(&mut self.receive[to]);
        assert_eq!(driver.look(buffer(head), size as usize)[HEADERS..], *text.as_bytes());
        assert!(driver.take_used(&mut self.receive[1 - to]).is_none(), "once");
    }
}

/// What a command, cut after its first byte, is answered.
fn command(driver: &Driver<'_>, control: &mut Queue, bytes: &[u8]) -> u8 {
    driver.put(COMMAND, bytes);
    driver.put(COMMAND + 0x1000, &[0xEE]);
    let rest = u32::try_from(bytes.len() - 1).unwrap();
    let parts = [(COMMAND, 1, 0), (COMMAND + 1, rest, 0), (COMMAND + 0x1000, 1, WRITE)];
    driver.chain(control.table(), 0, &parts);
    driver.offer(control, &[0]);
    assert_eq!(driver.used(control), (0, 1));
    driver.look(COMMAND + 0x1000, 1)[0]
}

fn pairs(number: u16) -> Vec<u8> {
    [&[4, 0], &number.to_le_bytes()[..]].concat()
}

fn two_pairs() -> Device {
    started(&["--queues=2"])
}

#[test]
fn a_driver_uses_as_many_pairs_as_it_commands() {
    with_queues("pairs::a_driver_uses_as_many_pairs_as_it_commands", || {
        let device = two_pairs();
        assert_eq!(device.negotiate(LARGE) & (CTRL_VQ | MQ), CTRL_VQ | MQ);
        assert_eq!(device.get(request::GET_QUEUE_NUM), 5);
        let driver = Driver::new(&device);
        let (mut rings, mut control) = (Rings::new(&driver), driver.queue(4, SIZE, 0));
        rings.answered(&driver, 1, 0, "one pair until it says more");
        assert_eq!(command(&driver, &mut control, &pairs(2)), 0);
        for round in 0..10 {
            rings.answered(&driver, 1, 1, &format!("by the second {round}"));
            rings.answered(&driver, 0, 0, &format!("by the first {round}"));
        }
        let junk =
            [pairs(0), pairs(3), pairs(65535), vec![4, 0, 1], vec![4, 1, 1, 0], vec![0, 0, 1], vec![3, 0]];
        for junk in junk {
            assert_eq!(command(&driver, &mut control, &junk), 1, "{junk:?}");
        }
        rings.answered(&driver, 1, 1, "as before");
        assert_eq!(command(&driver, &mut control, &pairs(1)), 0);
        rings.answered(&driver, 1, 0, "one again");
        ends_well(device);
    });
}

#[test]
fn a_front_end_that_serves_commands_itself_says_by_rings_which_pairs_are_used() {
    with_queues("pairs::a_front_end_that_serves_commands_itself_says_by_rings_which_pairs_are_used", || {
        let device = two_pairs();
        assert_eq!(device.negotiate(LARGE | CTRL_VQ) & (CTRL_VQ | MQ), MQ);
        let driver = Driver::new(&device);
        let mut rings = Rings::new(&driver);
        rings.answered(&driver, 1, 1, "both");
        assert!(device.ask(request::SET_VRING_ENABLE, &state(2, 0), &[]));
        rings.answered(&driver, 1, 0, "the first alone");
        assert!(device.ask(request::SET_VRING_ENABLE, &state(2, 1), &[]));
        rings.answered(&driver, 1, 1, "both again");
        ends_well(device);
    });
}

#[test]
fn a_driver_that_knows_one_pair_has_its_control_queue_behind_it() {
    with_queues("pairs::a_driver_that_knows_one_pair_has_its_control_queue_behind_it", || {
        let device = two_pairs();
        device.negotiate(LARGE | MQ);
        let driver = Driver::new(&device);
        let mut control = driver.queue(2, SIZE, 0);
        // GUEST_CSUM was agreed on, and nothing else that could be asked for.
        for (offloads, answer) in [(2u8, 0), (0, 0), (0x80, 1), (1, 1)] {
            let bytes = [&[5, 0, offloads], &[0; 7][..]].concat();
            assert_eq!(command(&driver, &mut control, &bytes), answer, "{offloads}");
        }
        assert_eq!(command(&driver, &mut control, &pairs(1)), 1, "not agreed on");
        ends_well(device);
    });
}
