//! How often unknown tokens may be brought: token buckets, one for each address and one for all. Computes only.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Addresses that are told apart at once.
const MAX_PEERS: usize = 4096;
/// For one address, which may stand for many pods where a node translates addresses.
const OF_PEER: Rate = Rate { per_second: 5.0, burst: 20.0 };
/// For all addresses together. Three requests to the API server follow from each.
const OF_ALL: Rate = Rate { per_second: 100.0, burst: 200.0 };

/// The buckets.
#[derive(Debug)]
pub(super) struct Limit {
    buckets: Mutex<(Bucket, HashMap<IpAddr, Bucket>)>,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: f64,
    burst: f64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Limit {
    /// Full buckets.
    pub(super) fn new(now: Instant) -> Self {
        Self { buckets: Mutex::new((Bucket::full(OF_ALL, now), HashMap::new())) }
    }

    /// Whether this address may have one more token looked at. An address that asks too often takes nothing from others.
    pub(super) fn allows(&self, peer: IpAddr, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, peers) = &mut *buckets;
        if peers.len() >= MAX_PEERS && !peers.contains_key(&peer) {
            // A full bucket and none at all are the same. Where no room is made, the limit for all has to do.
            peers.retain(|_, bucket| !bucket.is_full(OF_PEER, now));
            if peers.len() >= MAX_PEERS {
                return all.take(OF_ALL, now);
            }
        }
        peers.entry(peer).or_insert(Bucket::full(OF_PEER, now)).take(OF_PEER, now) && all.take(OF_ALL, now)
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
    use std::net::Ipv4Addr;
    use std::time::Duration;

    fn address(n: u32) -> IpAddr {
        Ipv4Addr::from(n).into()
    }

    fn allowed(limit: &Limit, peer: u32, times: usize, now: Instant) -> usize {
        (0..times).filter(|_| limit.allows(address(peer), now)).count()
    }

    #[test]
    fn an_address_has_a_burst_and_then_its_rate_and_takes_nothing_from_others() {
        let start = Instant::now();
        let limit = Limit::new(start);
        assert_eq!(allowed(&limit, 1, 1000, start), 20);
        assert_eq!(allowed(&limit, 2, 10, start), 10, "another address is not held up");
        assert_eq!(allowed(&limit, 1, 1000, start + Duration::from_secs(2)), 10);
        assert_eq!(allowed(&limit, 1, 1000, start + Duration::from_hours(1)), 20, "no more than the burst is saved up");
    }

    #[test]
    fn all_addresses_together_have_a_limit() {
        let start = Instant::now();
        let limit = Limit::new(start);
        let many: usize = (0..1000).map(|peer| allowed(&limit, peer, 1, start)).sum();
        assert_eq!(many, 200);
    }

    #[test]
    fn addresses_are_remembered_in_a_bounded_number() {
        let start = Instant::now();
        let limit = Limit::new(start);
        for peer in 0..3 * MAX_PEERS as u32 {
            limit.allows(address(peer), start);
        }
        assert!(limit.buckets.lock().unwrap().1.len() <= MAX_PEERS);
        assert!(limit.allows(address(u32::MAX), start + Duration::from_mins(1)));
    }
}
