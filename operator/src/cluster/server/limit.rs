//! How often something may be asked: token buckets, one for each that asks, and one for all. Computes only.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// How many that ask are told apart at once.
const MAX_PEERS: usize = 4096;
/// Unknown tokens of one address, which may stand for many pods where a node translates addresses.
pub(super) const OF_ADDRESS: Rate = Rate { per_second: 5.0, burst: 20.0 };
/// Unknown tokens of all addresses together. Four requests to the API server follow from each.
pub(super) const OF_ADDRESSES: Rate = Rate { per_second: 100.0, burst: 200.0 };
/// Reports of one pod: a trainer sends one every few seconds.
pub(super) const OF_POD: Rate = Rate { per_second: 1.0, burst: 20.0 };
/// Reports of all pods together.
pub(super) const OF_PODS: Rate = Rate { per_second: 1000.0, burst: 4000.0 };

/// The buckets.
#[derive(Debug)]
pub(super) struct Limit<K> {
    of_one: Rate,
    of_all: Rate,
    buckets: Mutex<(Bucket, HashMap<K, Bucket>)>,
}

/// What a bucket gains and holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    per_second: f64,
    burst: f64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl<K: Eq + Hash> Limit<K> {
    /// Full buckets.
    pub(super) fn new(of_one: Rate, of_all: Rate, now: Instant) -> Self {
        Self { of_one, of_all, buckets: Mutex::new((Bucket::full(of_all, now), HashMap::new())) }
    }

    /// Whether this one may ask once more. Who asks too often takes nothing from others.
    pub(super) fn allows(&self, who: K, now: Instant) -> bool {
        let (of_one, of_all) = (self.of_one, self.of_all);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, each) = &mut *buckets;
        if each.len() >= MAX_PEERS && !each.contains_key(&who) {
            // A full bucket and none at all are the same. Where no room is made, the limit for all has to do.
            each.retain(|_, bucket| !bucket.is_full(of_one, now));
            if each.len() >= MAX_PEERS {
                return all.take(of_all, now);
            }
        }
        each.entry(who).or_insert(Bucket::full(of_one, now)).take(of_one, now) && all.take(of_all, now)
    }
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self { left: rate.burst, at: now }
    }

    fn filled(self, rate: Rate, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * rate.per_second;
        (self.left + gained).min(rate.burst)
    }

    fn is_full(self, rate: Rate, now: Instant) -> bool {
        self.filled(rate, now) >= rate.burst
    }

    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let left = self.filled(rate, now);
        let enough = left >= 1.0;
        *self = Self { left: if enough { left - 1.0 } else { left }, at: now };
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    fn address(n: u32) -> IpAddr {
        Ipv4Addr::from(n).into()
    }

    fn new(now: Instant) -> Limit<IpAddr> {
        Limit::new(OF_ADDRESS, OF_ADDRESSES, now)
    }

    fn allowed(limit: &Limit<IpAddr>, peer: u32, times: usize, now: Instant) -> usize {
        (0..times).filter(|_| limit.allows(address(peer), now)).count()
    }

    #[test]
    fn an_address_has_a_burst_and_then_its_rate_and_takes_nothing_from_others() {
        let start = Instant::now();
        let limit = new(start);
        assert_eq!(allowed(&limit, 1, 1000, start), 20);
        assert_eq!(allowed(&limit, 2, 10, start), 10, "another address is not held up");
        assert_eq!(allowed(&limit, 1, 1000, start + Duration::from_secs(2)), 10);
        assert_eq!(allowed(&limit, 1, 1000, start + Duration::from_hours(1)), 20, "no more than the burst is saved up");
    }

    #[test]
    fn all_addresses_together_have_a_limit() {
        let start = Instant::now();
        let limit = new(start);
        let many: usize = (0..1000).map(|peer| allowed(&limit, peer, 1, start)).sum();
        assert_eq!(many, 200);
    }

    #[test]
    fn addresses_are_remembered_in_a_bounded_number() {
        let start = Instant::now();
        let limit = new(start);
        for peer in 0..3 * MAX_PEERS as u32 {
            limit.allows(address(peer), start);
        }
        assert!(limit.buckets.lock().unwrap().1.len() <= MAX_PEERS);
        assert!(limit.allows(address(u32::MAX), start + Duration::from_mins(1)));
    }
}
