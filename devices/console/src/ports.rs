//! What driver and device have told each other of the ports: the control messages of virtio 1.2, §5.3.6.2, as a state
//! machine without I/O.
//!
//! What the driver is still to be told is a bit for each port and kind of message, and not a queue: whatever a driver
//! says, and however often, there is never more to say than that, and each message says how things are when it is sent.
//!
//! # What a death leaves
//!
//! All of this outlives the process. A message that is put into the driver's buffer is the driver's when the used index
//! moves, which is after it was noted as said; so beside the bits stands which message is on its way, and at which used
//! index. A successor that finds the ring at that index knows that the driver has not got it, and says it again; at
//! another it has. Nothing is lost so and nothing is said twice. What the driver says is taken twice at most, when a process
//! ends between taking and answering it; that is why a repetition changes nothing.
//!
//! A driver that has said nothing of a port, as after a death that left nothing, is taken to have it open: it offers
//! buffers for what it wants to have.

use protocol::{ConsolePort, ConsoleSize};

use crate::wire::{Control, event};

/// What the driver may have to be told of a port, in this order.
const MESSAGES: [(u8, u16); 5] = [
    (ADD, event::PORT_ADD),
    (CONSOLE, event::CONSOLE_PORT),
    (RESIZE, event::RESIZE),
    (OPEN, event::PORT_OPEN),
    (NAME, event::PORT_NAME),
];
const ADD: u8 = 1;
const CONSOLE: u8 = 2;
const RESIZE: u8 = 4;
const OPEN: u8 = 8;
const NAME: u8 = 16;

/// What a port is, whoever serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Empty: it has none.
    pub name: String,
    /// Whether it is a console.
    pub console: bool,
}

impl From<ConsolePort> for Description {
    fn from(ConsolePort { name, console }: ConsolePort) -> Self {
        Self { name, console }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Port {
    /// Of [`MESSAGES`].
    owed: u8,
    /// The driver can use it.
    ready: bool,
    /// The driver's side is open.
    guest_open: bool,
    /// So is the host's.
    host_open: bool,
}

/// A message that the driver has when its ring is beyond `index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sending {
    index: u16,
    port: u8,
    message: u8,
}

/// See above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    described: Vec<Description>,
    ports: Vec<Port>,
    size: Option<ConsoleSize>,
    ready: bool,
    sending: Option<Sending>,
    /// The next message of the driver may be one that a predecessor has taken.
    repeated: bool,
}

impl Ports {
    /// Of a device that no driver has touched.
    pub fn new(described: Vec<Description>, size: Option<ConsoleSize>) -> Self {
        let untouched = Port { owed: 0, ready: false, guest_open: true, host_open: true };
        let ports = vec![untouched; described.len()];
        Self { described, ports, size, ready: false, sending: None, repeated: false }
    }

    /// The console's.
    pub fn size(&self) -> Option<ConsoleSize> {
        self.size
    }

    /// Whether one of them is a console.
    pub fn has_console(&self) -> bool {
        self.described.iter().any(|port| port.console)
    }

    /// Whether the driver takes what comes for it. A console is open from when it is one.
    pub fn takes_input(&self, port: usize) -> bool {
        let console = self.described.get(port).is_some_and(|port| port.console);
        console || self.ports.get(port).is_some_and(|port| port.guest_open)
    }

    /// A message of the driver, which may say anything. Answers whether something is another now.
    pub fn heard(&mut self, Control { id, event, value }: Control) -> bool {
        let repeated = std::mem::take(&mut self.repeated);
        if (event, value) == (event::DEVICE_READY, 1) {
            let again = repeated && self.ready;
            if !again {
                self.begin();
            }
            return !again;
        }
        let position = usize::try_from(id).unwrap_or(usize::MAX);
        let (Some(port), Some(described)) = (self.ports.get_mut(position), self.described.get(position))
        else {
            return false;
        };
        let before = *port;
        match (event, value) {
            (event::PORT_READY, 1) if !port.ready => {
                port.ready = true;
                let bit = |wanted: bool, bit| if wanted { bit } else { 0 };
                port.owed |= bit(described.console, CONSOLE)
                    | bit(described.console && self.size.is_some(), RESIZE)
                    | bit(port.host_open, OPEN)
                    | bit(!described.name.is_empty(), NAME);
            }
            (event::PORT_OPEN, 0 | 1) => port.guest_open = value == 1,
            _ => {}
        }
        *port != before
    }

    /// A driver that is to be told of all.
    fn begin(&mut self) {
        (self.ready, self.sending) = (true, None);
        for port in &mut self.ports {
            (port.owed, port.ready, port.guest_open) = (ADD, false, false);
        }
    }

    /// Somebody has come to, or left, the host's side. Answers whether that is news.
    pub fn set_host_open(&mut self, port: usize, open: bool) -> bool {
        let Some(port) = self.ports.get_mut(port) else { return false };
        if port.host_open == open {
            return false;
        }
        port.host_open = open;
        if port.ready {
            port.owed |= OPEN;
        }
        true
    }

    /// The console's size is another. Answers whether that is news.
    pub fn resize(&mut self, size: ConsoleSize) -> bool {
        if self.size.replace(size) == Some(size) {
            return false;
        }
        for (port, described) in self.ports.iter_mut().zip(&self.described) {
            if port.ready && described.console {
                port.owed |= RESIZE;
            }
        }
        true
    }

    /// As if no driver had touched it.
    pub fn reset(&mut self) {
        for port in &mut self.ports {
            *port = Port { owed: 0, ready: false, guest_open: true, host_open: port.host_open };
        }
        (self.ready, self.sending, self.repeated) = (false, None, false);
    }

    /// What the driver is to be told next, if it has a buffer for it, which will be its at used index `index`.
    pub fn next(&mut self, index: u16) -> Option<Vec<u8>> {
        if let Some(sending) = self.sending.take().filter(|sending| sending.index == index)
            && let Some(port) = self.ports.get_mut(usize::from(sending.port))
        {
            port.owed |= sending.message;
        }
        let (position, port) = self.ports.iter_mut().enumerate().find(|(_, port)| port.owed != 0)?;
        let described = self.described.get(position)?;
        let (message, event) = MESSAGES.into_iter().find(|(bit, _)| port.owed & bit != 0)?;
        port.owed &= !message;
        let port = *port;
        let value = u16::from(message != OPEN || port.host_open);
        let id = u8::try_from(position).ok()?;
        let mut bytes = Control { id: id.into(), event, value }.bytes();
        match message {
            RESIZE => {
                let ConsoleSize { columns, rows } = self.size?;
                bytes.extend([columns, rows].into_iter().flat_map(u16::to_le_bytes));
            }
            NAME => bytes.extend_from_slice(described.name.as_bytes()),
            _ => {}
        }
        self.sending = Some(Sending { index, port: id, message });
        Some(bytes)
    }

    /// All of it, for a successor.
    pub fn kept(&self) -> Vec<u8> {
        let (columns, rows) = self.size.map_or((0, 0), |size| (size.columns, size.rows));
        let Sending { index, port, message } =
            self.sending.unwrap_or(Sending { index: 0, port: 0, message: 0 });
        let words = [columns, rows, index].into_iter().flat_map(u16::to_le_bytes);
        let head = words.chain([port, message, u8::from(self.ready)]);
        let ports = self.ports.iter().flat_map(|port| {
            let flags = [port.ready, port.guest_open, port.host_open];
            let flags = flags.iter().rev().fold(0, |byte, flag| byte << 1 | u8::from(*flag));
            [flags, port.owed]
        });
        head.chain(ports).collect()
    }

    /// Takes up what a predecessor kept, which may have been taken over. False: these are no such bytes, and it is as if no
    /// driver had touched it.
    pub fn restore(&mut self, bytes: &[u8]) -> bool {
        self.reset();
        let Some(([c0, c1, r0, r1, i0, i1, port, message, ready], rest)) = bytes.split_first_chunk() else {
            return false;
        };
        let (columns, rows) = (u16::from_le_bytes([*c0, *c1]), u16::from_le_bytes([*r0, *r1]));
        let size = ConsoleSize { columns, rows };
        let size = if (columns, rows) == (0, 0) { None } else { Some(size) };
        let one_of = |message: u8| MESSAGES.iter().any(|(bit, _)| *bit == message);
        let sending = Sending { index: u16::from_le_bytes([*i0, *i1]), port: *port, message: *message };
        let sending = if *message == 0 { None } else { Some(sending) };
        let (pairs, odd) = rest.as_chunks::<2>();
        let known = pairs.iter().all(|[flags, owed]| *flags < 8 && *owed < NAME << 1);
        let fits = pairs.len() == self.ports.len() && odd.is_empty() && *ready < 2 && known;
        let fits = fits && (*message == 0 || one_of(*message));
        // Without a size there is none to be told.
        let resizes = message | pairs.iter().fold(0, |all, [_, owed]| all | owed);
        if !fits || !size.map_or(resizes & RESIZE == 0, ConsoleSize::is_possible) {
            return false;
        }
        for (port, [flags, owed]) in self.ports.iter_mut().zip(pairs) {
            let flag = |bit: u8| flags >> bit & 1 == 1;
            let here = port.host_open;
            *port = Port { owed: *owed, ready: flag(0), guest_open: flag(1), host_open: flag(2) };
            // A client of the predecessor's is gone.
            if port.host_open != here && port.ready {
                port.owed |= OPEN;
            }
            port.host_open = here;
        }
        (self.size, self.ready, self.sending, self.repeated) = (size, *ready == 1, sending, true);
        true
    }
}

#[cfg(test)]
mod tests;
