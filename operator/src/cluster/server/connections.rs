//! Who has a connection: when there are too many, the address with the most loses its oldest. So somebody who opens thousands and
//! says nothing keeps nobody out, not even a probe from the same address. Computes only.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Connections in the order in which they came.
#[derive(Debug)]
pub(super) struct Connections<C> {
    most: usize,
    taken: Mutex<Taken<C>>,
}

#[derive(Debug)]
struct Taken<C> {
    next: u64,
    by_age: BTreeMap<u64, (IpAddr, C)>,
}

impl<C> Connections<C> {
    /// At most so many connections.
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: Mutex::new(Taken { next: 0, by_age: BTreeMap::new() }) }
    }

    /// Notes a connection that begins. Gives its number, and the connection that has to end for it.
    pub(super) fn take(&self, peer: IpAddr, connection: C) -> (u64, Option<C>) {
        let mut taken = self.locked();
        let number = taken.next;
        taken.next += 1;
        taken.by_age.insert(number, (peer, connection));
        (number, if taken.by_age.len() > self.most { taken.evict() } else { None })
    }

    /// The connection that has to end where there is no room for another, whatever the cause.
    pub(super) fn evict(&self) -> Option<C> {
        self.locked().evict()
    }

    /// A connection has ended.
    pub(super) fn leave(&self, number: u64) {
        self.locked().by_age.remove(&number);
    }

    fn locked(&self) -> MutexGuard<'_, Taken<C>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Taken<C> {
    fn evict(&mut self) -> Option<C> {
        let mut of_peer: HashMap<IpAddr, usize> = HashMap::new();
        for (peer, _) in self.by_age.values() {
            *of_peer.entry(*peer).or_default() += 1;
        }
        let most = of_peer.values().max().copied()?;
        let oldest = self.by_age.iter().find(|(_, (peer, _))| of_peer.get(peer) == Some(&most)).map(|(n, _)| *n)?;
        self.by_age.remove(&oldest).map(|(_, connection)| connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(n: u32) -> IpAddr {
        Ipv4Addr::from(n).into()
    }

    #[test]
    fn who_has_the_most_loses_the_oldest_and_others_lose_nothing() {
        let connections = Connections::new(3);
        let come = |peer: u32, name: &'static str| connections.take(address(peer), name).1;
        assert_eq!([come(1, "probe"), come(2, "a"), come(2, "b")], [None; 3]);
        assert_eq!(come(2, "c"), Some("a"));
        assert_eq!(come(2, "d"), Some("b"));
        assert_eq!(come(3, "other"), Some("c"), "the probe is the oldest, and its address has no more than others");
    }

    #[test]
    fn one_address_alone_loses_its_oldest_and_never_the_newest() {
        let connections = Connections::new(2);
        for n in 1..=1000 {
            assert_eq!(connections.take(address(1), n).1, (n > 2).then(|| n - 2));
        }
    }

    #[test]
    fn who_left_takes_no_room() {
        let connections = Connections::new(1);
        let (number, _) = connections.take(address(1), "a");
        connections.leave(number);
        assert_eq!(connections.take(address(2), "b").1, None);
        assert_eq!((connections.evict(), connections.evict()), (Some("b"), None));
    }
}
