//! Between the guest and the host: what a packet does to a connection, what a program of the host does to it, and what the
//! guest is sent next. One lock holds it; both queues' threads come here, and none of them waits while it has the lock.
//!
//! Whoever may have something for the guest is in a line and is served in turn, a packet each time. The thread that sends
//! looks for news of the host when nobody is in the line, and after [`LOOK_EVERY`] packets even if somebody is.

use std::sync::Arc;

use device_backend::{Arrival, Reader, Room};

use crate::connection::{Connection, Due, Effect};
use crate::greeting::{Greeting, Said};
use crate::host::{Event, Happened, Host};
use crate::link::{Link, Phase, Read, Refuses};
use crate::request::{Packet, Refused, Request, Reset, parse};
use crate::table::Table;
use crate::wire::{Header, op};

/// Packets for the guest between two looks at what happens on the host.
const LOOK_EVERY: usize = 32;
/// Why the receive queue breaks.
const NO_ROOM: &str = "a buffer for a packet has no room for more than its header";

/// See above.
#[derive(Debug)]
pub struct Switch {
    host: Arc<Host>,
    cid: u32,
    table: Table,
    /// Packets since the last look.
    since_look: usize,
    /// Programs may be waiting to be accepted.
    clients: bool,
    /// No connection begins for the guest yet: it is about to be told that all that it has are gone, and would take that for
    /// one that is new, too.
    held: bool,
    /// The thread that sends waits for an event.
    asleep: bool,
}

impl Switch {
    /// For the guest `cid`. `seed` is any number that another process has another of.
    #[must_use]
    pub fn new(host: Arc<Host>, cid: u32, seed: u32) -> Self {
        let table = Table::new(seed);
        Self { host, cid, table, since_look: 0, clients: false, held: false, asleep: false }
    }

    /// Back to no connection at all.
    pub fn clear(&mut self) {
        self.table.clear();
        self.held = false;
        self.admit();
        self.wake();
    }

    /// The guest is about to be told that its connections are gone.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// It has been told.
    pub fn release(&mut self) {
        if std::mem::replace(&mut self.held, false) {
            self.table.put_all_in_line();
            self.wake();
        }
    }

    /// A packet came from the guest.
    pub fn packet(&mut self, header: Header, payload: Reader<'_, '_>) {
        match parse(header, payload.remaining(), self.cid) {
            Err(Refused::Ignored) => {}
            Err(Refused::Answered(reset)) => self.table.owe(reset),
            Ok(packet) => self.obey(&packet, payload),
        }
        self.wake();
    }

    /// The guest has sent a packet whose bytes cannot be read: its connection is reset, on both sides.
    pub fn lose(&mut self, header: Header) {
        match parse(header, usize::try_from(header.len).unwrap_or(usize::MAX), self.cid) {
            Err(Refused::Ignored) => {}
            Err(Refused::Answered(reset)) => self.table.owe(reset),
            Ok(packet) => match self.table.find(&packet.key) {
                Some(index) => self.reset(index),
                None if packet.request == Request::Reset => {}
                None => self.table.owe(Reset::of(packet.key)),
            },
        }
        self.wake();
    }

    fn wake(&mut self) {
        if self.asleep && (self.table.has_work() || self.clients) {
            self.asleep = false;
            self.host.wake();
        }
    }

    fn obey(&mut self, packet: &Packet, mut payload: Reader<'_, '_>) {
        let Some(index) = self.table.find(&packet.key) else { return self.obey_stranger(packet) };
        let Some(place) = self.table.place(index) else { return };
        let Some(link) = &mut place.link else { return };
        let Some(connection) = link.connection() else { return };
        match connection.take(packet) {
            Effect::None => {}
            Effect::Accepted if link.accepted(packet.key.host) => {}
            Effect::Accepted => connection_of(link, Connection::host_refuses),
            Effect::Deliver(bytes) => {
                let _rest = payload.split_off(bytes);
                let written = link.write(&mut place.backlog, &mut payload);
                after_writing(link, written);
            }
            Effect::Gone { in_order } if in_order && !place.backlog.is_empty() => {
                self.table.forget_key(index);
                if let Some(link) = self.table.link(index) {
                    link.phase = Phase::Draining;
                }
            }
            Effect::Gone { .. } => return self.end(index),
            Effect::Broken => return self.reset(index),
        }
        self.settle(index);
    }

    /// Of a connection that there is not.
    fn obey_stranger(&mut self, packet: &Packet) {
        let reset = Reset::of(packet.key);
        match packet.request {
            Request::Reset => {}
            Request::Connect => {
                let (host, connection) = (&self.host, Connection::of_guest(packet.key, packet.room));
                let link = || {
                    let socket = host.connect(packet.key.host).ok()?;
                    Some(Link::new(socket, Phase::Connected(connection)))
                };
                match self.table.take_in(link) {
                    Some(index) => self.begin(index),
                    None => self.table.owe(reset),
                }
            }
            _ => self.table.owe(reset),
        }
    }

    /// Whoever is there has a place, and his socket is watched.
    fn begin(&mut self, index: usize) {
        let token = self.table.token(index);
        let Some(link) = self.table.link(index) else { return };
        if self.host.watch(link.socket(), token).is_err() {
            return self.reset(index);
        }
        self.table.put_in_line(index);
    }

    /// It is over, and the guest is told.
    fn reset(&mut self, index: usize) {
        let connection = self.table.link(index).and_then(Link::connection);
        let reset = connection.filter(|it| !it.is_unknown_to_guest()).map(|it| Reset::of(it.key()));
        self.end(index);
        if let Some(reset) = reset {
            self.table.owe(reset);
        }
    }

    /// It is over. Somebody may wait for the place.
    fn end(&mut self, index: usize) {
        self.table.remove(index);
        self.admit();
    }

    /// Takes in programs that ask for ports, as long as there are places.
    fn admit(&mut self) {
        while self.clients {
            let host = &self.host;
            let mut waits = true;
            let link = || {
                let client = host.accept();
                waits = client.is_some();
                Some(Link::new(client?, Phase::Greeting(Greeting::default())))
            };
            let index = self.table.take_in(link);
            self.clients = waits;
            let Some(index) = index else { break };
            self.begin(index);
        }
    }

    /// What follows from what has just happened: halves are shut, room is waited for, the guest is told.
    fn settle(&mut self, index: usize) {
        let token = self.table.token(index);
        let Some(place) = self.table.place(index) else { return };
        let Some(link) = &mut place.link else { return };
        let (finished, due) = match &mut link.phase {
            Phase::Greeting(_) => (false, false),
            Phase::Draining => (place.backlog.is_empty(), false),
            Phase::Connected(connection) => {
                if connection.host().receive {
                    place.backlog.clear();
                }
                (connection.is_finished(), connection.due().is_some())
            }
        };
        if finished {
            return self.reset(index);
        }
        if let Some(guest) = link.connection().map(|connection| connection.guest()) {
            link.shut(guest, place.backlog.is_empty());
        }
        let waits = !place.backlog.is_empty();
        if waits != link.waits_for_room {
            link.waits_for_room = waits;
            if self.host.watch_room(link.socket(), token, waits).is_err() {
                return self.reset(index);
            }
        }
        if due {
            self.table.put_in_line(index);
        }
    }

    /// Looks at what has happened on the host. False: nothing.
    fn look(&mut self) -> bool {
        self.since_look = 0;
        let events = self.host.look();
        for event in &events {
            match *event {
                Event::Woken => {}
                Event::Clients => {
                    self.clients = true;
                    self.admit();
                }
                Event::Of(token, happened) => {
                    if let Some(index) = self.table.of_token(token) {
                        self.happened(index, happened);
                    }
                }
            }
        }
        !events.is_empty()
    }

    fn happened(&mut self, index: usize, happened: Happened) {
        let Some(place) = self.table.place(index) else { return };
        let Some(link) = &mut place.link else { return };
        link.hung_up |= happened.hung_up;
        if happened.writable || happened.hung_up {
            let written = link.flush(&mut place.backlog);
            if written.is_err() {
                place.backlog.clear();
            }
            after_writing(link, written);
        }
        if happened.readable
            && let Phase::Greeting(_) = link.phase
        {
            return self.greeted(index);
        }
        let hung_up = link.hung_up;
        connection_of(link, |connection| {
            if happened.readable {
                connection.host_speaks();
            }
            // Nothing is left to be read that would say so.
            if hung_up && (connection.host().send || connection.guest().receive) {
                connection.host_ended();
                connection.host_refuses();
            }
        });
        self.settle(index);
    }

    /// A program says which port it wants.
    fn greeted(&mut self, index: usize) {
        let link = self.table.link(index);
        match link.and_then(Link::greeting) {
            Some(Said::NotAll) => {}
            Some(Said::Port(port)) => {
                let connection = Connection::of_host(self.table.name(index, port));
                if let Some(link) = self.table.link(index) {
                    link.phase = Phase::Connected(connection);
                }
                self.table.put_in_line(index);
            }
            Some(Said::Nonsense) | None => self.end(index),
        }
    }

    /// Puts the next packet for the guest into `room`.
    ///
    /// # Errors
    /// There is no room for any.
    pub fn next(&mut self, room: &Room<'_, '_>) -> Result<Arrival, &'static str> {
        self.asleep = false;
        if let Some(reset) = self.table.next_reset() {
            return put(room, reset.header(self.cid));
        }
        self.since_look = self.since_look.saturating_add(1);
        if self.since_look > LOOK_EVERY || !self.table.has_work() {
            let news = self.look();
            if !news && !self.table.has_work() {
                self.asleep = true;
                return Ok(Arrival::None);
            }
        }
        match self.table.next_in_line() {
            Some(index) => self.serve(index, room),
            None => Ok(Arrival::Dropped),
        }
    }

    /// Sends the guest what is due of one connection, if anything is.
    fn serve(&mut self, index: usize, room: &Room<'_, '_>) -> Result<Arrival, &'static str> {
        let (cid, held) = (self.cid, self.held);
        let link = self.table.link(index);
        let Some(link) = link else { return Ok(Arrival::Dropped) };
        let Some(connection) = link.connection() else { return Ok(Arrival::Dropped) };
        let arrival = match connection.due() {
            None => return Ok(Arrival::Dropped),
            // Until `release`, which puts it in the line again.
            Some(Due::Packet(op::REQUEST | op::RESPONSE)) if held => return Ok(Arrival::Dropped),
            Some(Due::Packet(op)) => put(room, connection.send(op, cid))?,
            Some(Due::Data(credit)) => send_data(link, credit, cid, room)?,
        };
        self.settle(index);
        Ok(arrival)
    }
}

/// Reads from the host's program into the guest's buffer, at most as much as the guest has room for.
fn send_data(link: &mut Link, credit: u32, cid: u32, room: &Room<'_, '_>) -> Result<Arrival, &'static str> {
    let mut header = room.writer();
    let mut data = header.split_off(Header::SIZE);
    let most = data.remaining().min(usize::try_from(credit).unwrap_or(usize::MAX));
    if most == 0 {
        return Err(NO_ROOM);
    }
    let _rest = data.split_off(most);
    let read = link.read(&mut data);
    let Some(connection) = link.connection() else { return Ok(Arrival::Dropped) };
    match read {
        Read::Some(bytes) => {
            let length = u32::try_from(bytes).unwrap_or(u32::MAX);
            header.write_all(&connection.send_data(length, cid).bytes()).map_err(|_| NO_ROOM)?;
            return Ok(Arrival::Received(Header::SIZE.saturating_add(bytes)));
        }
        Read::Nothing => connection.host_is_silent(),
        Read::End => connection.host_ended(),
        Read::Broken => {
            connection.host_ended();
            connection.host_refuses();
        }
    }
    Ok(Arrival::Dropped)
}

fn put(room: &Room<'_, '_>, header: Header) -> Result<Arrival, &'static str> {
    room.writer().write_all(&header.bytes()).map_err(|_| NO_ROOM)?;
    Ok(Arrival::Received(Header::SIZE))
}

fn connection_of(link: &mut Link, change: impl FnOnce(&mut Connection)) {
    if let Some(connection) = link.connection() {
        change(connection);
    }
}

fn after_writing(link: &mut Link, written: Result<usize, Refuses>) {
    connection_of(link, |connection| match written {
        Ok(bytes) => connection.forwarded(bytes),
        Err(Refuses) => connection.host_refuses(),
    });
}
