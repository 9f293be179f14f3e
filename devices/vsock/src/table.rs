//! The places for connections, all of them made beforehand: who is in which, who is to be looked at next, and which resets
//! the guest is owed. What a guest or programs of the host can make of it is bounded by [`PLACES`] and [`RESETS`]. Pure but
//! for the sockets that it holds.

use std::collections::{BTreeMap, VecDeque};

use crate::backlog::Backlog;
use crate::link::{Link, Phase};
use crate::request::{Key, Reset};

/// Connections at once, those that are being asked for and those that are ending included.
pub const PLACES: usize = 512;
/// Resets that wait for the guest to take them. One more is not sent: whom it is for has to hear of it by its time limit, as
/// of a packet that was lost.
const RESETS: usize = 4096;

/// A place for a connection.
#[derive(Debug)]
pub struct Place {
    /// Which of its holders this is, lest an event of one before be taken for one of this one.
    generation: u32,
    /// It is in the line of those that may have something for the guest.
    in_line: bool,
    /// Who holds it.
    pub link: Option<Link>,
    /// What waits for the host's program.
    pub backlog: Backlog,
}

/// See above.
#[derive(Debug)]
pub struct Table {
    places: Vec<Place>,
    free: Vec<usize>,
    by_key: BTreeMap<Key, usize>,
    line: VecDeque<usize>,
    resets: VecDeque<Reset>,
    /// The last port of the host that a connection of its own was given.
    port: u32,
}

/// Ports that connections of the host's programs have on the host's side: out of reach of what has a name there.
const FIRST_PORT: u32 = 1 << 30;

impl Table {
    /// With nobody in it. `seed` is where ports begin, so that a process does not give again the one that the one before it
    /// gave last.
    #[must_use]
    pub fn new(seed: u32) -> Self {
        let place = || Place { generation: 0, in_line: false, link: None, backlog: Backlog::new() };
        Self {
            places: std::iter::repeat_with(place).take(PLACES).collect(),
            free: (0..PLACES).rev().collect(),
            by_key: BTreeMap::new(),
            line: VecDeque::with_capacity(PLACES),
            resets: VecDeque::with_capacity(RESETS),
            port: FIRST_PORT | (seed % FIRST_PORT),
        }
    }

    /// Gives a place to `link`, and says which; none if there is none. A connection that both sides know to be over, but for
    /// the guest's last word, has none any more if somebody else needs it.
    pub fn take_in(&mut self, link: impl FnOnce() -> Option<Link>) -> Option<usize> {
        if self.free.is_empty() {
            let over = self.places.iter_mut().position(|place| {
                place.link.as_mut().and_then(Link::connection).is_some_and(|it| it.is_lingering())
            });
            self.remove(over?);
        }
        let link = link()?;
        let index = self.free.pop()?;
        let place = self.places.get_mut(index)?;
        place.generation = place.generation.wrapping_add(1);
        if let Phase::Connected(connection) = &link.phase {
            self.by_key.insert(connection.key(), index);
        }
        place.link = Some(link);
        Some(index)
    }

    /// Ends whoever is there: closes the socket and forgets what waits.
    pub fn remove(&mut self, index: usize) {
        self.forget_key(index);
        let Some(place) = self.places.get_mut(index) else { return };
        place.backlog.clear();
        if place.link.take().is_some() {
            self.free.push(index);
        }
    }

    /// The guest has no connection of this name any more.
    pub fn forget_key(&mut self, index: usize) {
        let connection = self.link(index).and_then(Link::connection);
        if let Some(key) = connection.map(|connection| connection.key()) {
            self.by_key.remove(&key);
        }
    }

    /// Ends all.
    pub fn clear(&mut self) {
        (0..PLACES).for_each(|index| self.remove(index));
        self.resets.clear();
    }

    /// A place.
    pub fn place(&mut self, index: usize) -> Option<&mut Place> {
        self.places.get_mut(index)
    }

    /// Who holds a place.
    pub fn link(&mut self, index: usize) -> Option<&mut Link> {
        self.places.get_mut(index)?.link.as_mut()
    }

    /// Whose connection this is.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<usize> {
        self.by_key.get(key).copied()
    }

    /// A name for a connection of the host's that no other has, to this port of the guest; it is `index`'s from now on.
    pub fn name(&mut self, index: usize, guest: u32) -> Key {
        let key = loop {
            self.port = FIRST_PORT | (self.port.wrapping_add(1) % FIRST_PORT);
            let key = Key { host: self.port, guest };
            // There are more ports than places.
            if !self.by_key.contains_key(&key) {
                break key;
            }
        };
        self.by_key.insert(key, index);
        key
    }

    /// What events of whoever is there are told by.
    #[must_use]
    pub fn token(&self, index: usize) -> u64 {
        let generation = self.places.get(index).map_or(0, |place| place.generation);
        u64::from(generation) << 16 | u64::try_from(index).unwrap_or(0)
    }

    /// Who is there, unless he has gone.
    #[must_use]
    pub fn of_token(&self, token: u64) -> Option<usize> {
        let index = usize::try_from(token & 0xffff).ok()?;
        let place = self.places.get(index)?;
        (self.token(index) == token && place.link.is_some()).then_some(index)
    }

    /// He may have something for the guest, or the guest something to be told.
    pub fn put_in_line(&mut self, index: usize) {
        let Some(place) = self.places.get_mut(index) else { return };
        if place.link.is_some() && !std::mem::replace(&mut place.in_line, true) {
            self.line.push_back(index);
        }
    }

    /// Everybody may.
    pub fn put_all_in_line(&mut self) {
        (0..PLACES).for_each(|index| self.put_in_line(index));
    }

    /// The next in the line, who is in it no more.
    pub fn next_in_line(&mut self) -> Option<usize> {
        let index = self.line.pop_front()?;
        if let Some(place) = self.places.get_mut(index) {
            place.in_line = false;
        }
        Some(index)
    }

    /// Whether the guest is to be sent something, perhaps.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.line.is_empty() || !self.resets.is_empty()
    }

    /// The guest is to be sent a reset.
    pub fn owe(&mut self, reset: Reset) {
        if self.resets.len() < RESETS {
            self.resets.push_back(reset);
        }
    }

    /// The next that it is owed.
    pub fn next_reset(&mut self) -> Option<Reset> {
        self.resets.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Connection;
    use crate::greeting::Greeting;
    use crate::request::Room;
    use std::os::unix::net::UnixStream;

    fn greeting() -> Option<Link> {
        let (ours, _) = UnixStream::pair().unwrap();
        Some(Link::new(ours.into(), Phase::Greeting(Greeting::default())))
    }

    fn connected(guest: u32) -> Option<Link> {
        let (ours, _) = UnixStream::pair().unwrap();
        let room = Room { allocated: 0, forwarded: 0 };
        let connection = Connection::of_guest(Key { host: 1, guest }, room);
        Some(Link::new(ours.into(), Phase::Connected(connection)))
    }

    #[test]
    fn there_are_so_many_places_and_each_is_given_again() {
        let mut table = Table::new(0);
        for guest in 0..PLACES {
            let guest = u32::try_from(guest).unwrap();
            let index = table.take_in(|| connected(guest)).unwrap();
            assert_eq!(table.find(&Key { host: 1, guest }), Some(index));
        }
        assert!(table.take_in(|| panic!("asked for without a place")).is_none());
        let gone = table.find(&Key { host: 1, guest: 7 }).unwrap();
        let token = table.token(gone);
        assert_eq!(table.of_token(token), Some(gone));
        table.remove(gone);
        table.remove(gone);
        assert!(table.find(&Key { host: 1, guest: 7 }).is_none() && table.of_token(token).is_none());
        assert_eq!(table.take_in(greeting), Some(gone));
        assert!(table.of_token(token).is_none(), "an event of the one before");
        assert!(table.take_in(greeting).is_none());
        table.clear();
        assert!((0..PLACES).all(|_| table.take_in(greeting).is_some()));
    }

    #[test]
    fn nobody_is_in_the_line_twice() {
        let mut table = Table::new(0);
        let (one, other) = (table.take_in(greeting).unwrap(), table.take_in(greeting).unwrap());
        for _ in 0..3 {
            table.put_in_line(other);
            table.put_in_line(one);
            table.put_in_line(PLACES);
        }
        assert_eq!([(); 3].map(|()| table.next_in_line()), [Some(other), Some(one), None]);
        table.put_all_in_line();
        assert!(table.has_work() && table.next_in_line().is_some());
    }

    #[test]
    fn resets_are_bounded() {
        let mut table = Table::new(0);
        (0..10_000).for_each(|guest| table.owe(Reset::of(Key { host: 1, guest })));
        assert_eq!(std::iter::from_fn(|| table.next_reset()).count(), RESETS);
    }

    #[test]
    fn a_name_is_nobody_elses_and_no_port_with_a_name() {
        for seed in [0, 1, (1 << 30) - 1, u32::MAX - 1] {
            let mut table = Table::new(seed);
            let mut names: Vec<Key> = (0..PLACES).map(|index| table.name(index, 9)).collect();
            assert!(names.iter().all(|key| key.host >= FIRST_PORT && key.host < u32::MAX));
            // Ports come round.
            table.port = table.port.wrapping_sub(600);
            names.extend((0..PLACES).map(|index| table.name(index, 9)));
            names.sort();
            names.dedup();
            assert_eq!(names.len(), 2 * PLACES);
        }
    }
}
