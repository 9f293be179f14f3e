//! A driver with its three queues, and the connections of its guest, as far as tests say what they do.

use std::collections::VecDeque;

use crate::SIZE;
use crate::front_end::driver::{BUFFERS, Driver, Queue, WRITE};
use crate::wire::{Header, op};

pub const CID: u32 = 42;
/// Bytes of a buffer for what arrives.
const BUFFER: u32 = 4096;
/// Where packets for the host are; those of the receive queue come before, events behind.
const OUT: u64 = BUFFERS + 0x20_0000;
const EVENT: u64 = BUFFERS + 0x40_0000;

pub struct Guest<'d> {
    driver: Driver<'d>,
    receive: Queue,
    transmit: Queue,
    events: Queue,
    /// Came while something else was awaited.
    kept: VecDeque<(Header, Vec<u8>)>,
}

/// The packet `op` of a connection, of a guest with as much room as can be.
pub fn packet(op: u16, host: u32, guest: u32) -> Header {
    Header {
        src_cid: CID.into(),
        dst_cid: 2,
        src_port: guest,
        dst_port: host,
        kind: 1,
        op,
        buf_alloc: u32::MAX / 2,
        ..Header::default()
    }
}

impl<'d> Guest<'d> {
    pub fn new(driver: Driver<'d>) -> Self {
        let (receive, transmit) = (driver.queue(0, SIZE, 0), driver.queue(1, SIZE, 0));
        let events = driver.queue(2, SIZE, 0);
        let mut guest = Self { driver, receive, transmit, events, kept: VecDeque::new() };
        (0..SIZE).for_each(|head| guest.offer(head));
        guest.driver.chain(guest.events.table(), 0, &[(EVENT, 4, WRITE)]);
        guest.driver.offer(&mut guest.events, &[0]);
        guest
    }

    fn offer(&mut self, head: u16) {
        let at = BUFFERS + u64::from(head) * u64::from(BUFFER);
        self.driver.chain(self.receive.table(), head, &[(at, BUFFER, WRITE)]);
        self.driver.offer(&mut self.receive, &[head]);
    }

    /// Sends a packet with `data`, and says that there is as much as its header says.
    pub fn send_as(&mut self, header: Header, data: &[u8]) {
        self.send_bytes(&[&header.bytes(), data].concat());
    }

    pub fn send(&mut self, header: Header, data: &[u8]) {
        self.send_as(Header { len: u32::try_from(data.len()).unwrap(), ..header }, data);
    }

    /// Sends what may be no packet, and waits until it is taken.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.driver.put(OUT, bytes);
        let size = u32::try_from(bytes.len()).unwrap();
        // In two pieces, one of them of one byte.
        let parts = [(OUT, 1, 0), (OUT + 1, size - 1, 0)];
        self.driver.chain(self.transmit.table(), 0, &parts);
        self.driver.offer(&mut self.transmit, &[0]);
        assert_eq!(self.driver.used(&mut self.transmit), (0, 0));
    }

    /// Sends a packet with 16 bytes that lie there, in memory that the device does not know.
    pub fn send_from_memory_of_others(&mut self, header: Header, beyond: u64) {
        self.driver.put(OUT, &Header { len: 16, ..header }.bytes());
        let size = u32::try_from(Header::SIZE).unwrap();
        self.driver.chain(self.transmit.table(), 0, &[(OUT, size, 0), (beyond, 16, 0)]);
        self.driver.offer(&mut self.transmit, &[0]);
        assert_eq!(self.driver.used(&mut self.transmit), (0, 0));
    }

    /// The next packet from the host.
    pub fn next(&mut self) -> (Header, Vec<u8>) {
        self.kept.pop_front().unwrap_or_else(|| self.arrival())
    }

    fn arrival(&mut self) -> (Header, Vec<u8>) {
        let (head, size) = self.driver.used(&mut self.receive);
        let head = u16::try_from(head).unwrap();
        let bytes = self.driver.look(BUFFERS + u64::from(head) * u64::from(BUFFER), size as usize);
        self.offer(head);
        let (header, data) = bytes.split_at(Header::SIZE);
        let header = Header::parse(header.try_into().unwrap());
        assert_eq!((header.src_cid, header.dst_cid, header.kind), (2, CID.into(), 1));
        assert_eq!(header.len as usize, data.len());
        (header, data.to_vec())
    }

    /// The next packet of a connection; those of others are kept.
    pub fn next_of(&mut self, host: u32, guest: u32) -> (Header, Vec<u8>) {
        let is_its = |header: &Header| (header.src_port, header.dst_port) == (host, guest);
        if let Some(at) = self.kept.iter().position(|(header, _)| is_its(header)) {
            return self.kept.remove(at).unwrap();
        }
        loop {
            let (header, data) = self.arrival();
            if is_its(&header) {
                return (header, data);
            }
            self.kept.push_back((header, data));
        }
    }

    /// The next packet, which is `op`.
    pub fn expect(&mut self, op: u16) -> Header {
        let (header, data) = self.next();
        assert_eq!((header.op, data.len()), (op, 0), "{header:?}");
        header
    }

    /// So many bytes of a connection, which must be the next that come.
    pub fn expect_data(&mut self, host: u32, guest: u32, size: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < size {
            let (header, data) = self.next_of(host, guest);
            assert_eq!(header.op, op::RW, "{header:?}");
            all.extend(data);
        }
        assert_eq!(all.len(), size);
        all
    }

    /// Asks the host for a connection, and whether it has it.
    pub fn connect(&mut self, host: u32, guest: u32) -> bool {
        self.send(packet(op::REQUEST, host, guest), b"");
        match self.next_of(host, guest).0.op {
            op::RESPONSE => true,
            op::RST => false,
            other => panic!("{other}"),
        }
    }

    /// Whether nothing has come that was not looked at. What was sent before has been dealt with: a request that nobody takes
    /// is answered behind it.
    pub fn hears_nothing(&mut self) -> bool {
        !self.connect(1, 99) && self.kept.is_empty()
    }

    /// Stops the queues, and says how many events there were.
    pub fn stop(self) -> u32 {
        self.driver.stop(&self.receive);
        self.driver.stop(&self.transmit);
        self.driver.stop(&self.events)
    }
}
