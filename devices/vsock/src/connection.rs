//! One connection between the guest and a program of the host: what each packet of the guest means to it, what happens at
//! the host means to it, and what the guest is sent next (virtio 1.2, §5.10.6). A pure state machine: no socket, no
//! memory, no clock.
//!
//! A connection that one side resets is over at once. One that both halves of are shut by the guest is over when the host
//! has what was sent before, and then the guest gets its `RST`, as Linux waits for. What the host shuts the guest is told
//! after the data before it; its answer is a `RST` too.

use crate::credit::Credit;
use crate::request::{Key, Packet, Request, Room};
use crate::wire::{HOST_CID, Halves, Header, STREAM, op};

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The guest is to accept it. Whether it has been asked to.
    Requested { asked: bool },
    /// The guest asked for it, and is to be told that it is there.
    Accepted,
    /// Bytes go both ways.
    Established,
}

/// One connection.
#[derive(Debug, Clone)]
pub struct Connection {
    key: Key,
    state: State,
    credit: Credit,
    /// What the guest will not do any more.
    guest: Halves,
    /// What the host will not do any more.
    host: Halves,
    /// What of that the guest was told.
    told: Halves,
    /// There may be something to read from the host.
    readable: bool,
    /// The guest asked for its room.
    update_asked_for: bool,
    /// The guest was asked for its room since it last had some.
    has_asked: bool,
}

/// What a packet of the guest has as its consequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// At the host none.
    None,
    /// The program that asked for the connection has it.
    Accepted,
    /// So many bytes of the packet are for the host.
    Deliver(usize),
    /// The guest has gone. What it sent before is still the host's if it had said that it would go.
    Gone {
        /// It had.
        in_order: bool,
    },
    /// The guest broke the rules: it is over, and the guest is told.
    Broken,
}

/// What the guest is to be sent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// A packet without data.
    Packet(u16),
    /// At most so many bytes, if the host has any.
    Data(u32),
}

impl Connection {
    /// A program of the host asks for it.
    #[must_use]
    pub fn of_host(key: Key) -> Self {
        let nothing = Room { allocated: 0, forwarded: 0 };
        Self::new(key, State::Requested { asked: false }, nothing)
    }

    /// The guest asked for it, and somebody of the host took it.
    #[must_use]
    pub fn of_guest(key: Key, room: Room) -> Self {
        Self::new(key, State::Accepted, room)
    }

    fn new(key: Key, state: State, room: Room) -> Self {
        let none = Halves::default();
        Self {
            key,
            state,
            credit: Credit::new(room),
            guest: none,
            host: none,
            told: none,
            // It may have come before anybody looked.
            readable: true,
            update_asked_for: false,
            has_asked: false,
        }
    }

    /// Which it is.
    #[must_use]
    pub fn key(&self) -> Key {
        self.key
    }

    /// What the guest will not do any more.
    #[must_use]
    pub fn guest(&self) -> Halves {
        self.guest
    }

    /// What the host will not do any more.
    #[must_use]
    pub fn host(&self) -> Halves {
        self.host
    }

    /// Whether the guest was never asked for it.
    #[must_use]
    pub fn is_unknown_to_guest(&self) -> bool {
        self.state == State::Requested { asked: false }
    }

    /// Whether nothing is left of it but that the guest has not taken notice.
    #[must_use]
    pub fn is_lingering(&self) -> bool {
        self.host.both() && self.told.both()
    }

    /// Whether the guest has shut it and the host has all that came before: a `RST` is its end.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.guest.both() && self.credit.waiting() == 0
    }

    /// A packet came from the guest.
    pub fn take(&mut self, packet: &Packet) -> Effect {
        self.credit.learn(packet.room);
        if self.credit.room() > 0 {
            self.has_asked = false;
        }
        match (self.state, packet.request) {
            (_, Request::Reset) => Effect::Gone { in_order: self.guest.both() },
            // It has one of this name.
            (_, Request::Connect) => Effect::Broken,
            (State::Requested { asked: true }, Request::Accept) => {
                self.state = State::Established;
                Effect::Accepted
            }
            (State::Requested { .. }, Request::CreditUpdate | Request::AskForRoom) => Effect::None,
            (State::Requested { .. }, _) | (_, Request::Accept) => Effect::Broken,
            (_, Request::CreditUpdate) => Effect::None,
            (_, Request::AskForRoom) => {
                self.update_asked_for = true;
                Effect::None
            }
            (_, Request::Shutdown(halves)) => {
                self.guest = self.guest.and(halves);
                Effect::None
            }
            (_, Request::Data(bytes)) => self.take_data(bytes),
        }
    }

    fn take_data(&mut self, bytes: usize) -> Effect {
        if self.guest.send || !self.credit.receive(bytes) {
            return Effect::Broken;
        }
        if self.host.receive {
            // It may have been on its way when the guest was told that nobody wants it.
            self.credit.forward(bytes);
            return Effect::None;
        }
        Effect::Deliver(bytes)
    }

    /// The host has taken so many bytes of the guest's.
    pub fn forwarded(&mut self, bytes: usize) {
        self.credit.forward(bytes);
    }

    /// There may be something to read.
    pub fn host_speaks(&mut self) {
        self.readable = true;
    }

    /// There is nothing to read for now.
    pub fn host_is_silent(&mut self) {
        self.readable = false;
    }

    /// There will never be anything to read again.
    pub fn host_ended(&mut self) {
        self.readable = false;
        self.host.send = true;
    }

    /// The host takes nothing any more: what waits is nobody's.
    pub fn host_refuses(&mut self) {
        self.host.receive = true;
        self.credit.forward(usize::MAX);
    }

    /// What the guest is to be sent next.
    #[must_use]
    pub fn due(&self) -> Option<Due> {
        match self.state {
            State::Requested { asked: false } => return Some(Due::Packet(op::REQUEST)),
            State::Requested { asked: true } => return None,
            State::Accepted => return Some(Due::Packet(op::RESPONSE)),
            State::Established => {}
        }
        if self.told != self.host {
            return Some(Due::Packet(op::SHUTDOWN));
        }
        if self.update_asked_for || (self.credit.is_to_be_told() && !self.guest.send) {
            return Some(Due::Packet(op::CREDIT_UPDATE));
        }
        if !self.readable || self.host.send || self.guest.receive {
            return None;
        }
        match self.credit.room() {
            0 if self.has_asked => None,
            0 => Some(Due::Packet(op::CREDIT_REQUEST)),
            room => Some(Due::Data(room)),
        }
    }

    /// The packet `op` as the guest with the context identifier `cid` gets it, from now on sent.
    pub fn send(&mut self, op: u16, cid: u32) -> Header {
        let flags = if op == op::SHUTDOWN { self.host.flags() } else { 0 };
        match op {
            op::REQUEST => self.state = State::Requested { asked: true },
            op::RESPONSE => self.state = State::Established,
            op::SHUTDOWN => self.told = self.host,
            op::CREDIT_REQUEST => self.has_asked = true,
            _ => {}
        }
        Header { flags, ..self.header(op, cid) }
    }

    /// The same with `bytes` of data.
    pub fn send_data(&mut self, bytes: u32, cid: u32) -> Header {
        self.credit.send(bytes);
        Header { len: bytes, ..self.header(op::RW, cid) }
    }

    fn header(&mut self, op: u16, cid: u32) -> Header {
        let (buf_alloc, fwd_cnt) = self.credit.tell();
        self.update_asked_for = false;
        Header {
            src_cid: HOST_CID,
            dst_cid: cid.into(),
            src_port: self.key.host,
            dst_port: self.key.guest,
            len: 0,
            kind: STREAM,
            op,
            flags: 0,
            buf_alloc,
            fwd_cnt,
        }
    }
}

#[cfg(test)]
mod tests;
