//! Decides which connections to keep: a limited number in total and per address. If there are too many, the one that
//! has been idle longest is closed, so that clients with idle connections cannot lock out clients with requests.
//! Computes.

use std::collections::HashMap;
use std::net::IpAddr;

/// Identifies a connection.
pub(super) type Id = u64;

/// The open connections. `C` closes one.
#[derive(Debug)]
pub(super) struct Connections<C> {
    most: usize,
    of_one_address: usize,
    open: HashMap<Id, Connection<C>>,
    clock: u64,
}

#[derive(Debug)]
struct Connection<C> {
    address: IpAddr,
    /// When it started waiting for its client; none while its request is being answered.
    silent_since: Option<u64>,
    close: C,
}

/// The decision about a new connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission<C> {
    /// Accept it.
    Kept(Id),
    /// Accept it, and close another one.
    InPlaceOf(Id, C),
    /// Reject it: all others are busy.
    Refused,
}

impl<C> Connections<C> {
    /// At most `most` connections, and at most three quarters of them from one address.
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { most, of_one_address: (most * 3).div_ceil(4), open: HashMap::new(), clock: 0 }
    }

    /// Registers a new connection, which waits for its client.
    pub(super) fn admit(&mut self, address: IpAddr, close: C) -> Admission<C> {
        let of_address = self.open.values().filter(|c| c.address == address).count();
        let makes_room = if of_address >= self.of_one_address {
            self.longest_silent(|c| c.address == address)
        } else if self.open.len() >= self.most {
            self.longest_silent(|_| true)
        } else {
            return Admission::Kept(self.insert(address, close));
        };
        match makes_room.and_then(|id| self.open.remove(&id)) {
            Some(other) => Admission::InPlaceOf(self.insert(address, close), other.close),
            None => Admission::Refused,
        }
    }

    /// The connection's request has arrived and will be answered.
    pub(super) fn answering(&mut self, id: Id) {
        if let Some(connection) = self.open.get_mut(&id) {
            connection.silent_since = None;
        }
    }

    /// The connection waits for its client again.
    pub(super) fn waiting(&mut self, id: Id) {
        let now = self.tick();
        if let Some(connection) = self.open.get_mut(&id) {
            connection.silent_since = Some(now);
        }
    }

    /// The connection has closed.
    pub(super) fn remove(&mut self, id: Id) {
        self.open.remove(&id);
    }

    /// The close handles of idle connections.
    pub(super) fn silent(&self) -> impl Iterator<Item = &C> {
        self.open.values().filter(|c| c.silent_since.is_some()).map(|c| &c.close)
    }

    fn insert(&mut self, address: IpAddr, close: C) -> Id {
        let id = self.tick();
        self.open.insert(id, Connection { address, silent_since: Some(id), close });
        id
    }

    fn longest_silent(&self, of: impl Fn(&Connection<C>) -> bool) -> Option<Id> {
        let silent = self.open.iter().filter(|(_, c)| of(c)).filter_map(|(id, c)| Some((c.silent_since?, *id)));
        silent.min().map(|(_, id)| id)
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn kept(connections: &mut Connections<char>, address: IpAddr, name: char) -> Id {
        match connections.admit(address, name) {
            Admission::Kept(id) => id,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn ended_for(connections: &mut Connections<char>, address: IpAddr, name: char) -> Option<char> {
        match connections.admit(address, name) {
            Admission::InPlaceOf(_, other) => Some(other),
            Admission::Refused => None,
            Admission::Kept(id) => panic!("{name} is {id}"),
        }
    }

    #[test]
    fn the_longest_idle_connection_is_closed_for_a_new_one() {
        let mut all = Connections::new(4);
        let a = kept(&mut all, A, 'a');
        kept(&mut all, A, 'b');
        kept(&mut all, B, 'c');
        kept(&mut all, B, 'd');
        all.answering(a);
        assert_eq!(ended_for(&mut all, B, 'e'), Some('b'), "`a` is older, but it is being answered");
        all.waiting(a);
        assert_eq!(ended_for(&mut all, B, 'f'), Some('c'), "`a` has spoken since");
        assert_eq!(all.open.len(), 4);
    }

    #[test]
    fn an_address_at_its_limit_loses_its_own_connections_only() {
        let mut all = Connections::new(4);
        kept(&mut all, B, 'x');
        for name in ['a', 'b', 'c'] {
            kept(&mut all, A, name);
        }
        assert_eq!(ended_for(&mut all, A, 'd'), Some('a'), "not `x`, which was silent for longer");
    }

    #[test]
    fn a_busy_connection_is_never_closed_for_a_new_one() {
        let mut all = Connections::new(4);
        let ids: Vec<Id> = ['a', 'b', 'c'].into_iter().map(|name| kept(&mut all, A, name)).collect();
        for id in &ids {
            all.answering(*id);
        }
        assert_eq!(ended_for(&mut all, A, 'd'), None);
        let other = kept(&mut all, B, 'e');
        all.answering(other);
        assert_eq!(ended_for(&mut all, B, 'f'), None);
        assert_eq!(all.silent().count(), 0);
        all.remove(ids[0]);
        kept(&mut all, A, 'g');
        assert_eq!(all.silent().collect::<Vec<_>>(), [&'g']);
    }
}
